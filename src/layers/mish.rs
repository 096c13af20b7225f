//! `Mish` of forks: `x · tanh(ln(1 + e^x))`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Mish;

impl Layer for Mish {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(Mish)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let softplus = |x: f64| {
            let linear = if x > 0.0 { x } else { 0.0 };
            linear + (-x.abs()).exp().ln_1p()
        };
        map(bottoms[0], &mut tops[0], |x| x * softplus(x).tanh());
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(Function::Mish, [0.0; 3], x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[4], [0., 1., -2., 50.]);
        let y = forward::<Mish>(&LayerParameter::default(), &[x], &[]);
        assert_close(&y[0].data, &[0., 0.865_098_4, -0.252_501_5, 50.], 1e-6);
    }
}
