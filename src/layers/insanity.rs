//! `Insanity` of forks, a randomised ReLU: phase TRAIN divides negative values by random
//! numbers between `lb` and `ub`, phase TEST multiplies them by the mean of the inverses:
//! it divides by `(ub − lb) / (ln ub − ln lb)`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp::{Add, Div, Max, Min};

#[derive(Clone, Debug)]
pub struct Insanity {
    /// What negative values are divided by.
    pub divisor: f32,
    train: bool,
}

impl Layer for Insanity {
    fn claims() -> &'static [&'static str] {
        &["insanity_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.insanity_param.clone().unwrap_or_default();
        Ok(Insanity {
            divisor: divisor(f64::from(p.lb()), f64::from(p.ub())) as f32,
            train: cx.phase == Phase::Train,
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let divisor = f64::from(self.divisor);
        map(bottoms[0], &mut tops[0], |x| {
            if x > 0.0 { x } else { x / divisor }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let (binary, constant) = (Pointwise::binary, Pointwise::Const);
        let x = || Pointwise::Bottom(0);
        let positive = binary(Max, x(), constant(0.0));
        let negative = binary(Min, x(), constant(0.0));
        let divided = binary(Div, negative, constant(self.divisor));
        Some(binary(Add, positive, divided))
    }

    fn note(&self) -> Option<String> {
        let note =
            "Caffe draws the divisor of negative values in phase TRAIN; here it is the mean one";
        self.train.then(|| note.to_string())
    }
}

fn divisor(lb: f64, ub: f64) -> f64 {
    (ub - lb) / (ub.ln() - lb.ln())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::InsanityParameter;

    #[test]
    fn values() {
        let param = LayerParameter {
            insanity_param: Some(Box::new(InsanityParameter {
                lb: Some(1.),
                ub: Some(std::f32::consts::E),
            })),
            ..LayerParameter::default()
        };
        let y = forward::<Insanity>(&param, &[tensor(&[3], [-2., 0., 3.])], &[]);
        let slope = 1. / (std::f32::consts::E - 1.);
        assert_close(&y[0].data, &[-2. * slope, 0., 3.], 1e-6);
    }
}
