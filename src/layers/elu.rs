//! `ELU`: `x` where x > 0, else `alpha · (e^x − 1)` (Caffe `elu_layer.cpp`).

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Elu {
    pub alpha: f32,
}

impl Layer for Elu {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let alpha = param.elu_param.clone().unwrap_or_default().alpha();
        Ok(Elu { alpha })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let alpha = f64::from(self.alpha);
        map(bottoms[0], &mut tops[0], |x| {
            if x > 0.0 { x } else { alpha * x.exp_m1() }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(
            Function::Elu,
            [self.alpha, 1.0, 0.0],
            x,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::EluParameter;

    #[test]
    fn values() {
        for (alpha, half) in [(None, 1.0), (Some(0.5), 0.5)] {
            let param = LayerParameter {
                elu_param: Some(EluParameter { alpha }.into()),
                ..LayerParameter::default()
            };
            let x = tensor(&[5], [2., 0., -1., f32::NEG_INFINITY, f32::NAN]);
            let y = forward::<Elu>(&param, &[x], &[]);
            let want = [2., 0., -0.632_120_56 * half, -half, f32::NAN];
            assert_close(&y[0].data, &want, 1e-7);
        }
    }
}
