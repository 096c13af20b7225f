//! `SeLu` of forks: `lambda · x` where x > 0, else `lambda · alpha · (e^x − 1)`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Selu {
    pub lambda: f32,
    pub alpha: f32,
}

impl Layer for Selu {
    fn claims() -> &'static [&'static str] {
        &["selu_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.selu_param.clone().unwrap_or_default();
        Ok(Selu {
            lambda: p.lambda.unwrap_or(1.050_701),
            alpha: p.alpha.unwrap_or(1.673_263_2),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let [lambda, alpha] = [self.lambda, self.alpha].map(f64::from);
        map(bottoms[0], &mut tops[0], |x| {
            lambda * if x > 0.0 { x } else { alpha * x.exp_m1() }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let constants = [self.alpha, self.lambda, 0.0];
        let x = Pointwise::Bottom(0);
        Some(Pointwise::function(Function::Elu, constants, x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::SeLuParameter;

    #[test]
    fn values() {
        let x = tensor(&[3], [2., 0., f32::NEG_INFINITY]);
        let y = forward::<Selu>(&LayerParameter::default(), &[&x], &[]);
        assert_close(&y[0].data, &[2.101_402, 0., -1.758_099_3], 1e-6);
        let param = LayerParameter {
            selu_param: Some(Box::new(SeLuParameter {
                lambda: Some(2.),
                alpha: Some(3.),
            })),
            ..LayerParameter::default()
        };
        let y = forward::<Selu>(&param, &[x], &[]);
        assert_eq!(y[0].data, [4., 0., -6.]);
    }
}
