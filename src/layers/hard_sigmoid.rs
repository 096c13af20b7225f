//! `HardSigmoid` of forks: `min(max(alpha · x + beta, 0), 1)`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp::{Add, Max, Min, Mul};

#[derive(Clone, Debug)]
pub struct HardSigmoid {
    pub alpha: f32,
    pub beta: f32,
}

impl Layer for HardSigmoid {
    fn claims() -> &'static [&'static str] {
        &["hard_sigmoid_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.hard_sigmoid_param.clone().unwrap_or_default();
        Ok(HardSigmoid {
            alpha: p.alpha(),
            beta: p.beta(),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let [alpha, beta] = [self.alpha, self.beta].map(f64::from);
        map(bottoms[0], &mut tops[0], |x| {
            let y = alpha * x + beta;
            let y = if y < 0.0 { 0.0 } else { y };
            if y > 1.0 { 1.0 } else { y }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let (binary, constant) = (Pointwise::binary, Pointwise::Const);
        let product = binary(Mul, Pointwise::Bottom(0), constant(self.alpha));
        let sum = binary(Add, product, constant(self.beta));
        let positive = binary(Max, sum, constant(0.0));
        Some(binary(Min, positive, constant(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::HardSigmoidParameter;

    #[test]
    fn values() {
        let x = tensor(&[4], [-9., -1., 2., 9.]);
        let y = forward::<HardSigmoid>(&LayerParameter::default(), &[&x], &[]);
        assert_close(&y[0].data, &[0., 0.3, 0.9, 1.], 1e-7);
        let param = LayerParameter {
            hard_sigmoid_param: Some(Box::new(HardSigmoidParameter {
                alpha: Some(0.25),
                beta: Some(0.375),
            })),
            ..LayerParameter::default()
        };
        let y = forward::<HardSigmoid>(&param, &[x], &[]);
        assert_eq!(y[0].data, [0., 0.125, 0.875, 1.]);
    }
}
