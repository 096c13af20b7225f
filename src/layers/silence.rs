//! `Silence`: marks blobs as not being outputs (Caffe `silence_layer.cpp`).

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::Builder;

#[derive(Clone, Debug)]
pub struct Silence;

impl Layer for Silence {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 0..=0)?;
        Ok(Silence)
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn lower(&self, _node: &Node, _b: &mut Builder) -> Result<()> {
        Ok(())
    }
}
