//! `Swish`: `x · sigmoid(beta · x)` (Caffe `swish_layer.cpp`). −∞ gives NaN: ∞ · 0.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Swish {
    pub beta: f32,
}

impl Layer for Swish {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let beta = param.swish_param.clone().unwrap_or_default().beta();
        Ok(Swish { beta })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let beta = f64::from(self.beta);
        map(bottoms[0], &mut tops[0], |x| {
            x * (0.5 * (0.5 * beta * x).tanh() + 0.5)
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(
            Function::Swish,
            [self.beta, 0.0, 0.0],
            x,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::SwishParameter;

    fn run(beta: Option<f32>, x: [f32; 4]) -> Vec<f32> {
        let param = LayerParameter {
            swish_param: Some(SwishParameter { beta }.into()),
            ..LayerParameter::default()
        };
        forward::<Swish>(&param, &[tensor(&[4], x)], &[])
            .remove(0)
            .data
    }

    #[test]
    fn values() {
        let x = [0., 1., -2., f32::INFINITY];
        let want = [0., 0.731_058_6, -0.238_405_84, f32::INFINITY];
        assert_close(&run(None, x), &want, 1e-7);
        assert_close(
            &run(Some(2.0), [0., 0.5, -1., f32::NEG_INFINITY]),
            &[0., 0.365_529_3, -0.119_202_92, f32::NAN],
            1e-7,
        );
        assert_eq!(run(Some(0.0), [3., -4., 0., 7.]), [1.5, -2., 0., 3.5]);
    }
}
