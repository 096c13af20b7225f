//! `MemoryData`: arrays set by a program, here an input of the net (Caffe
//! `memory_data_layer.cpp`).

use super::{Cx, Feed, Layer, data, input};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

/// Top 0: `[batch_size, channels, height, width]`; top 1: labels, `[batch_size]`.
#[derive(Clone, Debug)]
pub struct MemoryData {
    shapes: Vec<Option<Shape>>,
}

impl Layer for MemoryData {
    /// Errors: `Invalid` unless all four sizes are given and above 0.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 2..=2)?;
        data::transform(param, cx)?;
        let memory = param.memory_data_param.clone().unwrap_or_default();
        let batch = data::positive(memory.batch_size(), "memory_data_param.batch_size", cx)?;
        let channels = data::positive(memory.channels(), "memory_data_param.channels", cx)?;
        let h = data::positive(memory.height(), "memory_data_param.height", cx)?;
        let w = data::positive(memory.width(), "memory_data_param.width", cx)?;
        let shapes = data::picture_and_label(batch, channels, Some([h, w]), cx)?;
        Ok(MemoryData { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }
}
