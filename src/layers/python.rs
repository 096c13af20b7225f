//! `Python`: a layer that is a class in a Python module (Caffe `python_layer.hpp`).
//!
//! What it does is not in the model's files. Some classes are known all the same, since so
//! many models have them. `SpatialDropoutLayer` of ENet hands its bottom on in phase TEST.
//! Three of Synopsys' fork are taken as layers of other types: `yolov2.darknet_reorg` as
//! Reorg of stride 2, `pad.PadTensor` with constants as Pad, `eltwise.Eltwise` as Mul or,
//! with coefficients of 1, as Add. `ProposalLayer` of CTPN
//! (`src/layers/text_proposal_layer.py`) gives all boxes of a text detector:
//!
//! * bottoms: scores `1 × 20 × H × W`, background first; offsets of centre and height
//!   `1 × 20 × H × W`; height and width of the picture.
//! * tops: corners `H·W·10 × 4` in the picture; scores `H·W·10 × 1`.
//! * `param_str`: `feat_stride`.
//!
//! Its ten anchors of a cell are 16 wide and 11 to 283 high.
//!
//! `ProposalLayer` of py-faster-rcnn (`lib/rpn/proposal_layer.py`), of which MNC's differs in
//! training only, has the settings of its `config.py`:
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
//! `MaskLayer` of MNC (`pylayer/mask_layer.py`) makes of masks `R × 441` blobs
//! `R × 1 × 21 × 21`. Its `StageBridgeLayer` moves regions by the offsets of their best class,
//! of equals the first, and cuts them to the picture. Both in phase TEST.
//!
//! * bottoms: regions `R × 5`; offsets `R × 4K`; scores `R × K`; height, width and scale of
//!   the picture.
//! * top `R × 5`: image 0 and corners.

use super::boxes::routine as boxes;
use super::proposal::anchors;
use super::{Cx, Layer, Moves};
use super::{mnc, text_proposal};
use crate::diag::Result;
use crate::frontend::proto::{
    LayerParameter, PadParameter, Phase, PythonParameter, ReorgParameter,
};
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub enum Python {
    SpatialDropout,
    Proposal(Proposal),
    /// Of CTPN, with its stride.
    TextProposal(usize),
    /// Of MNC.
    Mask,
    StageBridge,
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

/// The keys of a Python or YAML dictionary with their values; one that is not a list has
/// one value. `None` if it is anything else.
fn dictionary<T>(text: &str, value_of: fn(&str) -> Option<T>) -> Option<Vec<(String, Vec<T>)>> {
    let text = text.trim().trim_start_matches('{').trim_end_matches('}');
    let mut entries = Vec::new();
    let mut rest = text;
    while let Some((key, value)) = rest.split_once(':') {
        let key = key.trim_matches([' ', '\n', ',', '\'', '"', '\\']);
        let value = value
            .trim_start()
            .trim_start_matches("!!python/tuple")
            .trim_start();
        let (values, after) = match value.strip_prefix(['[', '(']) {
            Some(list) => list.split_once([']', ')'])?,
            None => value.split_at(value.find([',', '\n']).unwrap_or(value.len())),
        };
        let values = values.split(',').map(str::trim).filter(|n| !n.is_empty());
        entries.push((
            key.to_string(),
            values.map(value_of).collect::<Option<_>>()?,
        ));
        rest = after;
    }
    rest.trim_matches([' ', '\n', ','])
        .is_empty()
        .then_some(entries)
}

fn number(text: &str) -> Option<f32> {
    text.parse().ok()
}

const PARAM_STR: &str = "python_param.param_str";

/// Module, without the packages that it is in, and class.
fn class(p: &PythonParameter) -> (&str, &str) {
    (p.module().rsplit('.').next().unwrap_or_default(), p.layer())
}

/// The layer of another type that a class of Synopsys' modules is.
/// Errors: settings that no such layer has.
pub(super) fn stand_in(param: &LayerParameter, cx: &Cx) -> Result<Option<LayerParameter>> {
    let Some(p) = param
        .python_param
        .as_ref()
        .filter(|_| param.r#type() == "Python")
    else {
        return Ok(None);
    };
    let mut other = LayerParameter {
        python_param: None,
        ..param.clone()
    };
    let name = match class(p) {
        ("yolov2", "darknet_reorg") => {
            other.reorg_param = Some(Box::new(ReorgParameter {
                stride: Some(2),
                ..ReorgParameter::default()
            }));
            "Reorg"
        }
        ("pad", "PadTensor") => {
            other.pad_param = Some(Box::new(padding(p.param_str(), cx)?));
            "Pad"
        }
        ("eltwise", "Eltwise") => operation(p.param_str(), cx)?,
        _ => return Ok(None),
    };
    other.r#type = Some(name.into());
    Ok(Some(other))
}

/// `pad_t`, `pad_b`, `pad_l` and `pad_r`, each of them needed, and `pad_mode`.
fn padding(text: &str, cx: &Cx) -> Result<PadParameter> {
    let unquoted = |value: &str| Some(value.trim_matches(['\'', '"', '\\']).to_string());
    let entries = dictionary(text, unquoted).unwrap_or_default();
    let value = |key: &str| {
        let entry = entries.iter().find(|(name, _)| name == key);
        entry.and_then(|(_, values)| values.first())
    };
    if value("pad_mode").map(String::as_str) != Some("constant") {
        return Err(cx
            .unsupported(PARAM_STR, "`pad_mode` other than constant")
            .into());
    }
    let mut paddings = vec![0; 4];
    for key in ["pad_t", "pad_b", "pad_l", "pad_r"] {
        let size = value(key).and_then(|size| size.parse().ok());
        let bad = || cx.invalid(PARAM_STR, format!("`{key}` is missing or no size"));
        paddings.push(size.ok_or_else(bad)?);
    }
    Ok(PadParameter {
        paddings,
        ..PadParameter::default()
    })
}

/// `operation` 0, or 1 with `coeff` of 1.
fn operation(text: &str, cx: &Cx) -> Result<&'static str> {
    let entries = dictionary(text, number).unwrap_or_default();
    let values = |key: &str| {
        entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, v)| &v[..])
    };
    match (values("operation"), values("coeff")) {
        (Some([0.0]), _) => Ok("Mul"),
        (Some([1.0]), Some([1.0, 1.0])) => Ok("Add"),
        _ => {
            let message = "only `operation` 0, and 1 with `coeff` [1, 1]";
            Err(cx.unsupported(PARAM_STR, message).into())
        }
    }
}

/// What there is to say of a layer that is taken as one of another type.
pub fn note(param: &LayerParameter) -> Option<String> {
    let p = param
        .python_param
        .as_ref()
        .filter(|_| param.r#type() == "Python")?;
    let (module, layer) = class(p);
    Some(format!(
        "taken as the class `{layer}` of Synopsys' module `{module}`"
    ))
}

/// Errors: `Invalid` if the text is no dictionary of numbers.
fn settings(text: &str, cx: &Cx) -> Result<Vec<(String, Vec<f32>)>> {
    let bad = || {
        cx.invalid(PARAM_STR, "is not a dictionary of numbers")
            .into()
    };
    dictionary(text, number).ok_or_else(bad)
}

fn positive(n: &f32) -> bool {
    *n > 0.0 && *n < 1e6
}

/// Errors: `Invalid` unless the stride is a whole number.
fn stride(values: &[f32], cx: &Cx) -> Result<usize> {
    match values {
        [stride] if positive(stride) && stride.fract() == 0.0 => Ok(*stride as usize),
        _ => Err(cx
            .invalid(PARAM_STR, "`feat_stride` must be a whole number above 0")
            .into()),
    }
}

/// Of CTPN.
fn text_stride(text: &str, cx: &Cx) -> Result<usize> {
    let mut found = Vec::new();
    for (key, values) in settings(text, cx)? {
        match key.as_str() {
            "feat_stride" => found = values,
            other => return Err(cx.unsupported(PARAM_STR, format!("`{other}`")).into()),
        }
    }
    stride(&found, cx)
}

impl Layer for Python {
    /// Errors: `Unsupported`, naming module and class, for all but the known ones.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.python_param.clone().unwrap_or_default();
        let class = class(&p);
        if class == ("text_proposal_layer", "ProposalLayer") {
            cx.counts(3..=3, 2..=2)?;
            return Ok(Python::TextProposal(text_stride(p.param_str(), cx)?));
        }
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
        let [mut every, mut scales, mut ratios] =
            [vec![16.0], vec![8.0, 16.0, 32.0], vec![0.5, 1.0, 2.0]];
        for (key, value) in settings(p.param_str(), cx)? {
            match key.as_str() {
                "feat_stride" => every = value,
                "scales" => scales = value,
                "ratios" => ratios = value,
                // Of MNC's gradients.
                "gradient_scale" | "use_clip" | "clip_base" => {}
                other => return Err(cx.unsupported(PARAM_STR, format!("`{other}`")).into()),
            }
        }
        if !scales.iter().chain(&ratios).all(positive) {
            let message = "scales and ratios are numbers above 0";
            return Err(cx.invalid(PARAM_STR, message).into());
        }
        let (before, after) = match cx.phase {
            Phase::Test => (6000, 300),
            Phase::Train => (12_000, 2000),
        };
        Ok(Python::Proposal(Proposal {
            stride: stride(&every, cx)?,
            anchors: anchors(16.0, &ratios, &scales),
            before,
            after,
        }))
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let proposal = match self {
            Python::SpatialDropout => return Ok(vec![bottoms[0].clone()]),
            Python::TextProposal(_) => return text_proposal::infer(bottoms, cx),
            Python::Mask => return mnc::masks(&bottoms[0], cx),
            Python::StageBridge => return mnc::bridge(bottoms, cx),
            Python::Proposal(proposal) => proposal,
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
        tops.map(|dims| cx.locate("top", Shape::new(dims)))
            .collect()
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
        match (self, bottoms[0].dims()) {
            (Python::Proposal(p), &[_, _, height, width]) => {
                let sizes = vec![height, width, p.stride, p.before, p.after];
                let values = p.anchors.concat();
                Some(Call::new(
                    routine!("python", "boxes", "math"),
                    sizes,
                    values,
                ))
            }
            (&Python::TextProposal(stride), &[_, _, height, width]) => {
                Some(text_proposal::call(height, width, stride))
            }
            (Python::StageBridge, _) => Some(mnc::call(bottoms[2][1])),
            _ => None,
        }
    }

    fn note(&self) -> Option<String> {
        let taken = match self {
            Python::SpatialDropout => "taken as ENet's SpatialDropoutLayer: it hands its bottom on",
            Python::TextProposal(_) => "taken as CTPN's ProposalLayer",
            Python::Mask => "taken as MNC's MaskLayer with masks of 21 × 21",
            Python::StageBridge => "taken as MNC's StageBridgeLayer",
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
    use super::super::testing::{refusal, tensor, with_cx};
    use super::*;
    use crate::frontend::proto::PythonParameter;
    use crate::ir::Tensor;

    fn class(module: &str, layer: &str, param_str: &str) -> LayerParameter {
        LayerParameter {
            python_param: Some(
                PythonParameter {
                    module: Some(module.into()),
                    layer: Some(layer.into()),
                    param_str: Some(param_str.into()),
                    ..PythonParameter::default()
                }
                .into(),
            ),
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
        let of = |text| dictionary(text, number).map(|entries| format!("{entries:?}"));
        let both = Some("[(\"feat_stride\", [16.0]), (\"scales\", [4.0, 8.0])]".to_string());
        assert_eq!(
            of("'feat_stride': 16\n'scales': !!python/tuple [4, 8]"),
            both
        );
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
        let (layer, tops) = super::super::testing::infer::<Python>(
            &param,
            &[&[1, 4, 1, 2], &[1, 8, 1, 2], &[1, 3]],
        )
        .unwrap();
        let mut tops: Vec<Tensor> = tops.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [7.]));
        layer.reference(&[&scores, &offsets, &info], &[], &mut tops);
        assert_eq!(tops[1].data, [4.]);
        // A box is its anchor's, with a corner half a pixel further on.
        assert_eq!(
            tops[0].data[..10],
            [0., 32., 0., 48., 16., 0., 0., 0., 24., 24.]
        );
    }

    /// The type that stands in, and its parameters; or the error's message.
    fn other(module: &str, layer: &str, param_str: &str) -> Result<LayerParameter, String> {
        let param = LayerParameter {
            r#type: Some("Python".into()),
            ..class(module, layer, param_str)
        };
        let found = with_cx(|cx| stand_in(&param, cx)).map_err(|e| e.0[0].message.clone())?;
        Ok(found.unwrap_or(param))
    }

    #[test]
    fn classes_that_are_other_layers() {
        let reorg = other("yolov2", "darknet_reorg", "").unwrap();
        assert_eq!(reorg.r#type(), "Reorg");
        assert_eq!(reorg.reorg_param.unwrap().stride(), 2);
        let text =
            "{\"pad_t\": 1, \"pad_b\": 2, \"pad_l\": 3, \"pad_r\": 4, \"pad_mode\": \"constant\"}";
        let pad = other("pad", "PadTensor", text).unwrap();
        assert_eq!(pad.r#type(), "Pad");
        assert_eq!(pad.pad_param.unwrap().paddings, [0, 0, 0, 0, 1, 2, 3, 4]);
        let of = |text| other("eltwise", "Eltwise", text).map(|p| p.r#type().to_string());
        assert_eq!(of("{'operation': 0, 'coeff': [1, 1]}").unwrap(), "Mul");
        assert_eq!(of("{'operation': 1, 'coeff': [1, 1]}").unwrap(), "Add");
        assert!(
            of("{'operation': 1, 'coeff': [1, 2]}")
                .unwrap_err()
                .contains("`coeff` [1, 1]")
        );
        for (text, want) in [
            (text.replace("constant", "edge"), "`pad_mode` other"),
            (
                text.replace("\"pad_b\": 2", "\"pad_b\": -2"),
                "`pad_b` is missing",
            ),
        ] {
            let got = other("pad", "PadTensor", &text).unwrap_err();
            assert!(got.starts_with(want), "{got}");
        }
        assert_eq!(
            other("rpn.anchor", "Anchor", "").unwrap().r#type(),
            "Python"
        );
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = "{'feat_stride': 16, 'gradient_scale': 1, 'use_nms': 0}";
        let param = class("rpn.proposal_layer", "ProposalLayer", text);
        let got = refusal::<Python>(&param, &[&[1], &[1], &[1]]);
        assert_eq!(got, "python_param.param_str: `use_nms`");
    }
}
