//! `Python`: a layer that is a class in a Python module (Caffe `python_layer.hpp`).
//!
//! What it does is not in the model's files. Two classes are known all the same, since so
//! many models have them. `SpatialDropoutLayer` of ENet hands its bottom on in phase TEST.
//! `ProposalLayer` of py-faster-rcnn (`lib/rpn/proposal_layer.py`) has the settings of its
//! `config.py`:
//!
//! * bottoms: scores `1 × 2A × H × W`, background first; offsets `1 × 4A × H × W`;
//!   height, width and scale of the picture.
//! * tops: regions `R × 5`, image 0 and corners; their scores `R × 1`.
//! * `param_str`: `feat_stride`, and `scales` (8, 16, 32) and `ratios` (0.5, 1, 2) of the
//!   anchors around a square of 16.
//!
//! A box below 16 pixels of the original picture goes; of the best 6,000 (12,000 in
//! phase TRAIN) those stay that no better one overlaps by more than 0.7, at most 300
//! (2,000). Of equal scores the later one comes first.

use super::boxes::routine as boxes;
use super::proposal::anchors;
use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub enum Python {
    SpatialDropout,
    Proposal(Proposal),
}

#[derive(Clone, Debug)]
pub struct Proposal {
    stride: usize,
    /// Corners.
    anchors: Vec<[f32; 4]>,
    /// Most regions before and after suppression.
    before: usize,
    after: usize,
}

/// The keys of a Python or YAML dictionary with their numbers; one that is not a list has
/// one number. `None` if it is anything else.
fn dictionary(text: &str) -> Option<Vec<(String, Vec<f32>)>> {
    let text = text.trim().trim_start_matches('{').trim_end_matches('}');
    let mut entries = Vec::new();
    let mut rest = text;
    while let Some((key, value)) = rest.split_once(':') {
        let key = key.trim_matches([' ', '\n', ',', '\'', '"', '\\']);
        let value = value.trim_start().trim_start_matches("!!python/tuple").trim_start();
        let (numbers, after) = match value.strip_prefix(['[', '(']) {
            Some(list) => list.split_once([']', ')'])?,
            None => value.split_at(value.find([',', '\n']).unwrap_or(value.len())),
        };
        let numbers = numbers.split(',').map(str::trim).filter(|n| !n.is_empty());
        let numbers = numbers.map(|n| n.parse().ok()).collect::<Option<_>>()?;
        entries.push((key.to_string(), numbers));
        rest = after;
    }
    rest.trim_matches([' ', '\n', ',']).is_empty().then_some(entries)
}

impl Layer for Python {
    /// Errors: `Unsupported`, naming module and class, for all but the known one.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.python_param.clone().unwrap_or_default();
        let class = (p.module().rsplit('.').next().unwrap_or_default(), p.layer());
        if class == ("spatial_dropout", "SpatialDropoutLayer") && cx.phase == Phase::Test {
            cx.counts(1..=1, 1..=1)?;
            return Ok(Python::SpatialDropout);
        }
        if class != ("proposal_layer", "ProposalLayer") {
            let message = format!(
                "class `{}` of the Python module `{}`: only the module's own code tells what it computes",
                p.layer(),
                p.module()
            );
            let d = cx.unsupported("python_param", message);
            let help = "cut the net before it, or leave the layer out by an `include` rule";
            return Err(d.help(help).into());
        }
        cx.counts(3..=3, 1..=2)?;
        let field = "python_param.param_str";
        let Some(entries) = dictionary(p.param_str()) else {
            return Err(cx.invalid(field, "is not a dictionary of numbers").into());
        };
        let [mut stride, mut scales, mut ratios] =
            [vec![16.0], vec![8.0, 16.0, 32.0], vec![0.5, 1.0, 2.0]];
        for (key, value) in entries {
            match key.as_str() {
                "feat_stride" => stride = value,
                "scales" => scales = value,
                "ratios" => ratios = value,
                other => return Err(cx.unsupported(field, format!("`{other}`")).into()),
            }
        }
        let positive = |n: &f32| *n > 0.0 && *n < 1e6;
        let fine = [&stride, &scales, &ratios].map(|list| list.iter().all(positive));
        if fine != [true; 3] || stride.len() != 1 || stride[0].fract() != 0.0 {
            let message = "strides, scales and ratios are numbers above 0, strides whole";
            return Err(cx.invalid(field, message).into());
        }
        let (before, after) = match cx.phase {
            Phase::Test => (6000, 300),
            Phase::Train => (12_000, 2000),
        };
        Ok(Python::Proposal(Proposal {
            stride: stride[0] as usize,
            anchors: anchors(16.0, &ratios, &scales),
            before,
            after,
        }))
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let Python::Proposal(proposal) = self else {
            return Ok(vec![bottoms[0].clone()]);
        };
        let each = proposal.anchors.len();
        let &[1, channels, height, width] = bottoms[0].dims() else {
            let message = format!("scores must be 1 × C × H × W, not {}", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        if channels != 2 * each || bottoms[1].dims() != [1, 4 * each, height, width] {
            let message = format!(
                "{each} anchors want scores 1 × {} × H × W and offsets 1 × {} × H × W, not {} and {}",
                2 * each,
                4 * each,
                bottoms[0],
                bottoms[1]
            );
            return Err(cx.invalid("bottom[0]", message).into());
        }
        if bottoms[2].count() < 3 {
            let message = "height, width and scale of the picture: 3 values";
            return Err(cx.invalid("bottom[2]", message).into());
        }
        let rows = proposal.after.min(each * height * width);
        let tops = [vec![rows, 5], vec![rows, 1]];
        let tops = tops.into_iter().take(cx.tops);
        tops.map(|dims| cx.locate("top", Shape::new(dims))).collect()
    }

    fn counted(&self) -> Option<usize> {
        matches!(self, Python::Proposal(_)).then_some(0)
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let dropout = matches!(self, Python::SpatialDropout);
        dropout.then(|| Moves::identity(&bottoms[0]))
    }

    fn is_view(&self) -> bool {
        matches!(self, Python::SpatialDropout)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let (Python::Proposal(p), &[_, _, height, width]) = (self, bottoms[0].dims()) else {
            return None;
        };
        let sizes = vec![height, width, p.stride, p.before, p.after];
        let values = p.anchors.concat();
        Some(Call::new(routine!("python", "boxes", "math"), sizes, values))
    }

    fn note(&self) -> Option<String> {
        let taken = match self {
            Python::SpatialDropout => "taken as ENet's SpatialDropoutLayer: it hands its bottom on",
            Python::Proposal(_) => "taken as py-faster-rcnn's ProposalLayer with its own settings",
        };
        Some(taken.into())
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{descending, keep, max, min, overlap};
    use super::math::exp;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], anchors: &[f32]) {
        let [height, width, stride] = [sizes[0], sizes[1], sizes[2]];
        let (each, cells) = (anchors.len() / 4, height * width);
        let picture = bottoms[2];
        let smallest = 16.0 * picture[2];
        // Corners and score, cell by cell.
        let mut regions: Vec<[f32; 5]> = Vec::new();
        for i in 0..each * cells {
            let (cell, k) = (i / each, i % each);
            let offset = |n: usize| bottoms[1][(4 * k + n) * cells + cell];
            let axis = |n: usize, at: usize, limit: f32| {
                let at = (at * stride) as f32;
                let (low, high) = (anchors[4 * k + n] + at, anchors[4 * k + 2 + n] + at);
                let size = high - low + 1.0;
                let center = offset(n) * size + (low + 0.5 * size);
                let half = 0.5 * (exp(f64::from(offset(n + 2))) as f32 * size);
                let clip = |x: f32| max(min(x, limit - 1.0), 0.0);
                (clip(center - half), clip(center + half))
            };
            let (x1, x2) = axis(0, cell % width, picture[1]);
            let (y1, y2) = axis(1, cell / width, picture[0]);
            if x2 - x1 + 1.0 >= smallest && y2 - y1 + 1.0 >= smallest {
                regions.push([x1, y1, x2, y2, bottoms[0][(each + k) * cells + cell]]);
            }
        }
        let mut order: Vec<usize> = (0..regions.len()).collect();
        order.sort_by(|&a, &b| descending(regions[a][4], regions[b][4]).then(b.cmp(&a)));
        order.truncate(sizes[3]);
        let kept = keep(&order, sizes[4], |better, other| {
            overlap(&regions[better], &regions[other], 1.0) > 0.7
        });
        let (count, tops) = match tops.split_last_mut() {
            Some(split) => split,
            None => return,
        };
        count[0] = kept.len() as f32;
        for top in tops.iter_mut() {
            top.fill(0.0);
        }
        for (row, &i) in kept.iter().enumerate() {
            tops[0][5 * row + 1..5 * row + 5].copy_from_slice(&regions[i][..4]);
            if let Some(scores) = tops.get_mut(1) {
                scores[row] = regions[i][4];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{refusal, tensor};
    use super::*;
    use crate::frontend::proto::PythonParameter;
    use crate::ir::Tensor;

    fn class(module: &str, layer: &str, param_str: &str) -> LayerParameter {
        LayerParameter {
            python_param: Some(PythonParameter {
                module: Some(module.into()),
                layer: Some(layer.into()),
                param_str: Some(param_str.into()),
                ..PythonParameter::default()
            }),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn module_and_class_are_named() {
        let got = refusal::<Python>(&class("rpn.anchor", "Anchor", ""), &[&[1]]);
        let want = "python_param: class `Anchor` of the Python module `rpn.anchor`";
        assert!(got.starts_with(want), "{got}");
    }

    #[test]
    fn dictionaries_of_numbers() {
        let of = |text| dictionary(text).map(|entries| format!("{entries:?}"));
        let both = Some("[(\"feat_stride\", [16.0]), (\"scales\", [4.0, 8.0])]".to_string());
        assert_eq!(of("'feat_stride': 16\n'scales': !!python/tuple [4, 8]"), both);
        assert_eq!(of("{'feat_stride': 16, \"scales\": (4, 8,)}"), both);
        assert_eq!(of(""), Some("[]".to_string()));
        for wrong in ["a: b", "a: [1", "16"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    /// Two anchors at two cells of a picture of 64 × 64.
    #[test]
    fn regions_by_score_without_small_or_overlapping_ones() {
        let text = "{'feat_stride': 32, 'scales': [1, 2], 'ratios': [1]}";
        let param = class("rpn.proposal_layer", "ProposalLayer", text);
        let scores = tensor(&[1, 4, 1, 2], [0., 0., 0., 0., 0.5, 0.9, 0.8, 0.7]);
        let offsets = tensor(&[1, 8, 1, 2], [0.; 16]);
        let info = tensor(&[1, 3], [64., 64., 1.]);
        let (layer, tops) =
            super::super::testing::infer::<Python>(&param, &[&[1, 4, 1, 2], &[1, 8, 1, 2], &[1, 3]])
                .unwrap();
        let mut tops: Vec<Tensor> = tops.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [7.]));
        layer.reference(&[&scores, &offsets, &info], &[], &mut tops);
        assert_eq!(tops[1].data, [4.]);
        // A box is its anchor's, with a corner half a pixel further on.
        assert_eq!(tops[0].data[..10], [0., 32., 0., 48., 16., 0., 0., 0., 24., 24.]);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = "{'feat_stride': 16, 'use_clip': 0}";
        let param = class("rpn.proposal_layer", "ProposalLayer", text);
        let got = refusal::<Python>(&param, &[&[1], &[1], &[1]]);
        assert_eq!(got, "python_param.param_str: `use_clip`");
    }
}
