//! `Sigmoid`: `1 / (1 + e^−x)`, computed as `0.5·tanh(0.5·x) + 0.5`
//! (Caffe `sigmoid_layer.cpp`).

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Sigmoid;

impl Layer for Sigmoid {
    /// `engine` chooses between implementations with one result.
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(Sigmoid)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        map(bottoms[0], &mut tops[0], |x| 0.5 * (0.5 * x).tanh() + 0.5);
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(Function::Sigmoid, [0.0; 3], x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[5], [0., 1., -2., f32::INFINITY, f32::NEG_INFINITY]);
        let y = forward::<Sigmoid>(&LayerParameter::default(), &[x], &[]);
        assert_close(&y[0].data, &[0.5, 0.731_058_6, 0.119_202_92, 1., 0.], 1e-7);
    }
}
