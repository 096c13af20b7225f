//! `Exp`: `base^(shift + scale·x)` (Caffe `exp_layer.cpp`); base −1 stands for e.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

/// `e^(a·x + b)`
#[derive(Clone, Debug)]
pub struct Exp {
    pub a: f32,
    pub b: f32,
}

/// The natural logarithm of a base, which is positive and finite, or −1 for e.
/// Errors: `Invalid` otherwise, at `field`.
pub(super) fn log_base(base: f32, field: &str, cx: &Cx) -> Result<f64> {
    if base == -1.0 {
        return Ok(1.0);
    }
    if base > 0.0 && base.is_finite() {
        return Ok(f64::from(base).ln());
    }
    let message = format!("must be positive, or −1 for e, not {base}");
    Err(cx.invalid(field, message).into())
}

impl Layer for Exp {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.exp_param.clone().unwrap_or_default();
        let log_base = log_base(p.base(), "exp_param.base", cx)?;
        let [a, b] = [p.scale(), p.shift()].map(|v| (log_base * f64::from(v)) as f32);
        Ok(Exp { a, b })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let [a, b] = [self.a, self.b].map(f64::from);
        super::map(bottoms[0], &mut tops[0], |x| (a * x + b).exp());
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let constants = [self.a, self.b, 0.0];
        Some(Pointwise::function(
            Function::Exp,
            constants,
            Pointwise::Bottom(0),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ExpParameter;

    fn param(base: f32, scale: f32, shift: f32) -> LayerParameter {
        LayerParameter {
            exp_param: Some(
                ExpParameter {
                    base: Some(base),
                    scale: Some(scale),
                    shift: Some(shift),
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn values() {
        let run = |p| {
            forward::<Exp>(&p, &[tensor(&[3], [0., 2., -1.])], &[])
                .remove(0)
                .data
        };
        assert_close(
            &run(LayerParameter::default()),
            &[1., 7.389_056, 0.367_879_44],
            1e-6,
        );
        assert_close(&run(param(2., 3., 1.)), &[2., 128., 0.25], 1e-6);
        assert_close(&run(param(0.5, 1., 0.)), &[1., 0.25, 2.], 1e-6);
    }

    #[test]
    fn bad_bases() {
        for base in [0., -2., f32::NAN, f32::INFINITY] {
            let got = refusal::<Exp>(&param(base, 1., 0.), &[&[1]]);
            assert!(got.starts_with("exp_param.base: must be positive"), "{got}");
        }
    }
}
