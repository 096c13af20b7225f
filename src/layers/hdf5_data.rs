//! `HDF5Data`: batches from HDF5 files, here inputs of the net; only the files tell
//! their shapes (Caffe `hdf5_data_layer.cpp`).

use super::{Cx, Feed, Layer, input};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Hdf5Data {
    shapes: Vec<Option<Shape>>,
}

impl Layer for Hdf5Data {
    /// Errors: `Invalid` with a `transform_param`, which Caffe refuses here.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..)?;
        if param.transform_param.is_some() {
            let message = "HDF5Data does not transform its data";
            return Err(cx.invalid("transform_param", message).into());
        }
        let shapes = vec![None; cx.tops];
        Ok(Hdf5Data { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }
}
