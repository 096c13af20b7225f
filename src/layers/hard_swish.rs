//! `HardSwish` of forks: `x · min(max(x + 3, 0), 6) / 6`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp::{Add, Div, Max, Min, Mul};

#[derive(Clone, Debug)]
pub struct HardSwish;

impl Layer for HardSwish {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(HardSwish)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        map(bottoms[0], &mut tops[0], |x| {
            let gate = if x + 3.0 < 0.0 { 0.0 } else { x + 3.0 };
            x * if gate > 6.0 { 6.0 } else { gate } / 6.0
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let (binary, constant) = (Pointwise::binary, Pointwise::Const);
        let x = || Pointwise::Bottom(0);
        let positive = binary(Max, binary(Add, x(), constant(3.0)), constant(0.0));
        let gate = binary(Min, positive, constant(6.0));
        Some(binary(Div, binary(Mul, x(), gate), constant(6.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[5], [-4., -1., 0., 1.5, 9.]);
        let y = forward::<HardSwish>(&LayerParameter::default(), &[x], &[]);
        assert_close(&y[0].data, &[0., -1. / 3., 0., 1.125, 9.], 1e-7);
    }
}
