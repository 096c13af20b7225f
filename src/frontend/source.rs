//! Where the layers of an upgraded net stand in the file.

use super::spans::{Spans, split_index};
use crate::diag::Span;

/// What a layer was made of. Answers for the fields of the upgraded layer, also
/// where the file has them under older names; knows nothing of binary files.
#[derive(Clone, Debug, Default)]
pub struct LayerSource(Origin);

#[derive(Clone, Debug, Default)]
enum Origin {
    #[default]
    Binary,
    Current(Spans),
    V1(Spans),
    /// The record around the layer, and the padding layer merged into it.
    V0(Spans, Option<Spans>),
    /// The net, whose legacy inputs became a layer, and how many of its input_dim each
    /// has.
    Inputs(Spans, usize),
}

impl LayerSource {
    pub(super) fn current(spans: Option<Spans>) -> Self {
        LayerSource(spans.map_or(Origin::Binary, Origin::Current))
    }

    /// A record of `layers`.
    pub(super) fn old(spans: Option<Spans>) -> Self {
        LayerSource(match spans {
            None => Origin::Binary,
            Some(spans) if spans.find("layer").is_some() => Origin::V0(spans, None),
            Some(spans) => Origin::V1(spans),
        })
    }

    pub(super) fn inputs(net: Option<Spans>, axes: usize) -> Self {
        let inputs = |net| Origin::Inputs(net, axes);
        LayerSource(net.map_or(Origin::Binary, inputs))
    }

    /// The layer's padding now comes from `padding`, another V0 layer.
    pub(super) fn set_padding(&mut self, padding: &LayerSource) {
        if let (Origin::V0(_, slot), Origin::V0(padding, _)) = (&mut self.0, &padding.0) {
            *slot = Some(padding.clone());
        }
    }

    /// The layer as a whole; none if the net came from a binary file.
    pub fn span(&self) -> Option<Span> {
        match &self.0 {
            Origin::Binary => None,
            Origin::Current(spans) | Origin::V1(spans) | Origin::V0(spans, _) => Some(spans.span()),
            Origin::Inputs(net, _) => Some(net.find("input").as_ref().unwrap_or(net).span()),
        }
    }

    /// The field `path` of the layer, such as `convolution_param.stride[0]` or
    /// `bottom[1]`, or else the innermost message around it that the file has.
    pub fn span_of(&self, path: &str) -> Option<Span> {
        let (spans, old) = match &self.0 {
            Origin::Binary => return None,
            Origin::Current(spans) => return Some(spans.span_of(path)),
            Origin::V1(spans) => (spans, v1_path(path)),
            Origin::V0(spans, padding) => {
                let old = v0_path(path);
                if let (Some(padding), "layer.pad") = (padding, old.as_str()) {
                    return Some(padding.span_of(&old));
                }
                (spans, old)
            }
            Origin::Inputs(net, axes) => return self.input_span(net, *axes, path),
        };
        let found = spans.find(&old).map(|s| s.span());
        Some(found.unwrap_or_else(|| spans.span_of(path)))
    }

    fn input_span(&self, net: &Spans, axes: usize, path: &str) -> Option<Span> {
        let mut parts = path.split('.').filter_map(split_index);
        let found = match (parts.next(), parts.next(), parts.next()) {
            (Some(("top", i)), ..) => net.child("input", i),
            (Some(("input_param", _)), Some(("shape", i)), dim) => {
                match net.child("input_shape", i) {
                    Some(shape) => dim
                        .and_then(|(name, d)| shape.child(name, d))
                        .or(Some(shape)),
                    None => net.child("input_dim", axes * i + dim.map_or(0, |(_, d)| d)),
                }
            }
            _ => None,
        };
        found.map(|s| s.span()).or(self.span())
    }
}

/// What a field of the current form is called in a V1 layer.
fn v1_path(path: &str) -> String {
    let Some(rest) = path.strip_prefix("param") else {
        return path.to_string();
    };
    let (index, field) = rest.split_once('.').unwrap_or((rest, ""));
    match field {
        "lr_mult" => format!("blobs_lr{index}"),
        "decay_mult" => format!("weight_decay{index}"),
        "share_mode" => format!("blob_share_mode{index}"),
        "name" | "" => format!("param{index}"),
        _ => path.to_string(),
    }
}

/// What it is called in the flat V0 layer, without its index if that is 0.
fn v0_path(path: &str) -> String {
    if path.starts_with("bottom") || path.starts_with("top") {
        return path.to_string();
    }
    let path = v1_path(path);
    let field = match path.split_once('.') {
        Some((message, field)) if message.ends_with("_param") => field,
        _ => path.as_str(),
    };
    let field = field.strip_suffix("[0]").unwrap_or(field);
    let old = match field {
        "bias_term" => "biasterm",
        "kernel_size" => "kernelsize",
        "batch_size" => "batchsize",
        "crop_size" => "cropsize",
        "mean_file" => "meanfile",
        "shuffle" => "shuffle_images",
        "fg_threshold" => "det_fg_threshold",
        "bg_threshold" => "det_bg_threshold",
        "fg_fraction" => "det_fg_fraction",
        "context_pad" => "det_context_pad",
        "crop_mode" => "det_crop_mode",
        same => same,
    };
    format!("layer.{old}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_fields() {
        assert_eq!(v1_path("param[1].lr_mult"), "blobs_lr[1]");
        assert_eq!(v1_path("pooling_param.pad"), "pooling_param.pad");
        assert_eq!(
            v0_path("convolution_param.kernel_size[0]"),
            "layer.kernelsize"
        );
        assert_eq!(
            v0_path("convolution_param.weight_filler.std"),
            "layer.weight_filler.std"
        );
        assert_eq!(v0_path("bottom[1]"), "bottom[1]");
        assert_eq!(v0_path("param[1].decay_mult"), "layer.weight_decay[1]");
    }
}
