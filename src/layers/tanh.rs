//! `TanH`: `tanh(x)` (Caffe `tanh_layer.cpp`).

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct TanH;

impl Layer for TanH {
    /// `engine` chooses between implementations with one result.
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(TanH)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        map(bottoms[0], &mut tops[0], f64::tanh);
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(Function::TanH, [0.0; 3], x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[4], [0., 1., f32::NEG_INFINITY, f32::NAN]);
        let y = forward::<TanH>(&LayerParameter::default(), &[x], &[]);
        assert_close(&y[0].data, &[0., 0.761_594_2, -1., f32::NAN], 1e-7);
    }
}
