//! `Python`: a layer that is a class in a Python module (Caffe `python_layer.hpp`).
//!
//! What it does is not in the model's files. Some classes are known all the same, with the
//! settings of their `config.py`. `SpatialDropoutLayer` of ENet hands its bottom on in phase
//! TEST, and `MaskLayer` of MNC (`mask_layer.py`) makes of `R × 441` masks of `R × 1 × 21 × 21`.
//!
//! `ProposalLayer` of py-faster-rcnn (`lib/rpn/proposal_layer.py`), of which MNC's differs in
//! training only:
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
//!
//! `StageBridgeLayer` of MNC (`stage_bridge_layer.py`), in phase TEST: regions moved by the
//! offsets of their best class, of equals the first, and cut to the picture.
//!
//! * bottoms: regions `R × 5`; offsets `R × 4K`; scores `R × K`; height, width and scale of
//!   the picture.
//! * top `R × 5`: image 0 and corners.

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
    Mask,
    StageBridge,
}

/// Height and width of MNC's masks.
const MASK: usize = 21;

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
    /// Errors: `Unsupported`, naming module and class, for all but the known ones.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.python_param.clone().unwrap_or_default();
        let class = (p.module().rsplit('.').next().unwrap_or_default(), p.layer());
        let tested = match class {
            ("spatial_dropout", "SpatialDropoutLayer") => Some((1, Python::SpatialDropout)),
            ("mask_layer", "MaskLayer") => Some((1, Python::Mask)),
            ("stage_bridge_layer", "StageBridgeLayer") => Some((4, Python::StageBridge)),
            _ => None,
        };
        if let Some((bottoms, layer)) = tested.filter(|_| cx.phase == Phase::Test) {
            cx.counts(bottoms..=bottoms, 1..=1)?;
            return Ok(layer);
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
                // Of MNC's gradients.
                "gradient_scale" | "use_clip" | "clip_base" => {}
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
        let proposal = match self {
            Python::Proposal(proposal) => proposal,
            Python::SpatialDropout => return Ok(vec![bottoms[0].clone()]),
            Python::Mask => return masks(&bottoms[0], cx),
            Python::StageBridge => return bridge(bottoms, cx),
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

    /// Region by region.
    fn carries(&self, bottom: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        let regions = matches!(self, Python::StageBridge) && bottom < 3 && axis == 0;
        regions.then_some(0)
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        self.is_view().then(|| Moves::identity(&bottoms[0]))
    }

    fn is_view(&self) -> bool {
        matches!(self, Python::SpatialDropout | Python::Mask)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let (sizes, values) = match (self, bottoms[0].dims()) {
            (Python::Proposal(p), &[_, _, height, width]) => {
                let sizes = vec![height, width, p.stride, p.before, p.after];
                (sizes, p.anchors.concat())
            }
            (Python::StageBridge, _) => (vec![bottoms[2][1]], Vec::new()),
            _ => return None,
        };
        Some(Call::new(routine!("python", "boxes", "math"), sizes, values))
    }

    fn note(&self) -> Option<String> {
        let taken = match self {
            Python::SpatialDropout => "taken as ENet's SpatialDropoutLayer: it hands its bottom on",
            Python::Proposal(_) => "taken as py-faster-rcnn's ProposalLayer with its own settings",
            Python::Mask => "taken as MNC's MaskLayer with masks of 21 × 21",
            Python::StageBridge => "taken as MNC's StageBridgeLayer",
        };
        Some(taken.into())
    }
}

/// The top of MNC's `MaskLayer`.
fn masks(bottom: &Shape, cx: &Cx) -> Result<Vec<Shape>> {
    let regions = bottom.first().copied().unwrap_or(0);
    if bottom.count() != regions * MASK * MASK || regions == 0 {
        let message = format!("{bottom} instead of {MASK} × {MASK} values for each region");
        return Err(cx.invalid("bottom", message).into());
    }
    let top = Shape::new([regions, 1, MASK, MASK]);
    Ok(vec![cx.locate("bottom", top)?])
}

/// The top of MNC's `StageBridgeLayer`.
fn bridge(bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
    let &[regions, classes] = bottoms[2].dims() else {
        let message = format!("scores must be R × K, not {}", bottoms[2]);
        return Err(cx.invalid("bottom[2]", message).into());
    };
    if classes == 0 {
        return Err(cx.invalid("bottom[2]", "there are no classes").into());
    }
    for (i, columns) in [(0, 5), (1, classes.saturating_mul(4))] {
        if bottoms[i].dims() != [regions, columns] {
            let message = format!("{} instead of {columns} values for each of {regions} regions", bottoms[i]);
            return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
        }
    }
    if bottoms[3].count() < 2 {
        let message = "height and width of the picture: 2 values";
        return Err(cx.invalid("bottom[3]", message).into());
    }
    Ok(vec![bottoms[0].clone()])
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{descending, keep, max, min, overlap};
    use super::math::exp;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], anchors: &[f32]) {
        match sizes {
            [classes] => bridge(bottoms, tops, *classes),
            _ => propose(bottoms, tops, sizes, anchors),
        }
    }

    fn bridge(bottoms: &[&[f32]], tops: &mut [&mut [f32]], classes: usize) {
        let rows = bottoms[0].chunks_exact(5).zip(bottoms[1].chunks_exact(4 * classes));
        let rows = rows.zip(bottoms[2].chunks_exact(classes));
        for (to, ((region, offsets), scores)) in tops[0].chunks_exact_mut(5).zip(rows) {
            let best = (1..classes).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
            let offsets = &offsets[4 * best..];
            to[0] = 0.0;
            for axis in 0..2 {
                let size = region[3 + axis] - region[1 + axis] + 1.0;
                let center = offsets[axis] * size + (region[1 + axis] + 0.5 * size);
                let half = 0.5 * (exp(f64::from(offsets[2 + axis])) as f32 * size);
                let last = bottoms[3][1 - axis] - 1.0;
                let clip = |x: f32| max(min(x, last), 0.0);
                to[1 + axis] = clip(center - half);
                to[3 + axis] = clip(center + half);
            }
        }
    }

    fn propose(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], anchors: &[f32]) {
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
        let text = "{'feat_stride': 16, 'gradient_scale': 1, 'use_nms': 0}";
        let param = class("rpn.proposal_layer", "ProposalLayer", text);
        let got = refusal::<Python>(&param, &[&[1], &[1], &[1]]);
        assert_eq!(got, "python_param.param_str: `use_nms`");
    }

    #[test]
    fn regions_moved_by_their_best_class() {
        let param = class("pylayer.stage_bridge_layer", "StageBridgeLayer", "");
        let regions = tensor(&[2, 5], [0., 4., 4., 7., 11., 0., 0., 0., 3., 3.]);
        let mut offsets = [0.; 16];
        // Class 1 of the first: a width to the right, twice as high.
        offsets[4..8].copy_from_slice(&[1., 0., 0., 2f32.ln()]);
        let scores = tensor(&[2, 2], [0.25, 0.75, 0.5, 0.5]);
        let picture = tensor(&[1, 3], [12., 32., 1.]);
        let bottoms = [regions, tensor(&[2, 8], offsets), scores, picture];
        let y = super::super::testing::forward::<Python>(&param, &bottoms, &[]);
        // 4 wide around 6 + 4, 16 high around 8 and cut to rows 0 to 11.
        super::super::testing::assert_close(&y[0].data[..5], &[0., 8., 0., 12., 11.], 1e-6);
        assert_eq!(y[0].data[5..], [0., 0., 0., 4., 4.]);
        let dims: [&[usize]; 4] = [&[2, 5], &[2, 4], &[2, 2], &[1, 3]];
        let got = refusal::<Python>(&param, &dims);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }

    #[test]
    fn masks_are_square() {
        let param = class("pylayer.mask_layer", "MaskLayer", "");
        let top = super::super::testing::tops::<Python>(&param, &[&[2, 441]]);
        assert_eq!(top, [[2, 1, 21, 21]]);
        let got = refusal::<Python>(&param, &[&[2, 440]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
