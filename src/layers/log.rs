//! `Log`: `log_base(shift + scale·x)` (Caffe `log_layer.cpp`); base −1 stands for e. The
//! logarithm of 0 is −∞, of less NaN.

use super::exp::log_base;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Log {
    /// 1 / ln(base)
    pub factor: f32,
    pub scale: f32,
    pub shift: f32,
}

impl Layer for Log {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.log_param.clone().unwrap_or_default();
        let log_base = log_base(p.base(), "log_param.base", cx)?;
        if log_base == 0.0 {
            return Err(cx
                .invalid("log_param.base", "there is no logarithm to base 1")
                .into());
        }
        Ok(Log {
            factor: (1.0 / log_base) as f32,
            scale: p.scale(),
            shift: p.shift(),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let [factor, scale, shift] = [self.factor, self.scale, self.shift].map(f64::from);
        super::map(bottoms[0], &mut tops[0], |x| {
            factor * (scale * x + shift).ln()
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let constants = [self.factor, self.scale, self.shift];
        Some(Pointwise::function(
            Function::Log,
            constants,
            Pointwise::Bottom(0),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LogParameter;

    fn param(base: f32, scale: f32, shift: f32) -> LayerParameter {
        LayerParameter {
            log_param: Some(
                LogParameter {
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
        let run = |p, x| forward::<Log>(&p, &[tensor(&[3], x)], &[]).remove(0).data;
        let y = run(LayerParameter::default(), [1., 0., -1.]);
        assert!(y[..2] == [0., f32::NEG_INFINITY] && y[2].is_nan());
        assert_close(&run(param(2., 3., 2.), [2., 10., 0.]), &[3., 5., 1.], 1e-6);
        assert_close(
            &run(param(10., 1., 0.), [100., 1., 0.1]),
            &[2., 0., -1.],
            1e-6,
        );
    }

    #[test]
    fn bad_bases() {
        for base in [0., -2., 1.] {
            let got = refusal::<Log>(&param(base, 1., 0.), &[&[1]]);
            assert!(got.starts_with("log_param.base: "), "{got}");
        }
    }
}
