//! `WindowData`: windows of pictures, here an input of the net (Caffe
//! `window_data_layer.cpp`).

use super::{Cx, Feed, Layer, data, input};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

/// Top 0: `[batch_size, channels, crop_size, crop_size]`; top 1: labels, `[batch_size]`.
#[derive(Clone, Debug)]
pub struct WindowData {
    shapes: Vec<Option<Shape>>,
}

impl Layer for WindowData {
    /// Errors: `Invalid` without `batch_size` or `crop_size`.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 2..=2)?;
        let transform = data::transform(param, cx)?;
        let window = param.window_data_param.clone().unwrap_or_default();
        let batch = data::positive(window.batch_size(), "window_data_param.batch_size", cx)?;
        let crop = data::positive(transform.crop_size(), "transform_param.crop_size", cx)?;
        let shapes = data::picture_and_label(batch, data::COLOUR, Some([crop, crop]), cx)?;
        Ok(WindowData { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }

    fn note(&self) -> Option<String> {
        Some(data::assumption())
    }
}
