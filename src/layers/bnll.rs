//! `BNLL`: `ln(1 + e^x)`, written so that nothing overflows (Caffe `bnll_layer.cpp`).

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Bnll;

impl Layer for Bnll {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(Bnll)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        map(bottoms[0], &mut tops[0], |x| {
            if x > 0.0 {
                x + (-x).exp().ln_1p()
            } else {
                x.exp().ln_1p()
            }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(Function::SoftPlus, [0.0; 3], x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[6], [0., 1., -1., 1e30, f32::NEG_INFINITY, f32::NAN]);
        let y = forward::<Bnll>(&LayerParameter::default(), &[x], &[]);
        let want = [
            std::f32::consts::LN_2,
            1.313_261_7,
            0.313_261_7,
            1e30,
            0.,
            f32::NAN,
        ];
        assert_close(&y[0].data, &want, 1e-7);
    }
}
