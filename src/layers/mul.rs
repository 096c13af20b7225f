//! `Mul` of forks: the product of two bottoms, in which an extent of 1 stands for all; axes
//! are aligned at the end.

use super::{Cx, Layer, broadcast};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Mul;

impl Layer for Mul {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        Ok(Mul)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![broadcast::common(bottoms, cx)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let routine = routine!("mul", "broadcast");
        Some(broadcast::call(routine, bottoms, &tops[0]))
    }

    fn pointwise(&self, bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        broadcast::expression(BinaryOp::Mul, bottoms)
    }
}

/// Pasted into emitted source.
mod routine {
    use super::broadcast::combine;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        combine(bottoms, tops[0], sizes, |a, b| a * b);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn a_factor_for_each_channel() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let factors = tensor(&[1, 2, 1, 1], [10., -1.]);
        let want = [10., 20., -3., -4.];
        for bottoms in [[&x, &factors], [&factors, &x]] {
            let y = forward::<Mul>(&LayerParameter::default(), &bottoms, &[]);
            assert_eq!(y[0].data, want);
        }
        let columns = tensor(&[1, 1, 1, 2], [1., 0.5]);
        let y = forward::<Mul>(&LayerParameter::default(), &[x, columns], &[]);
        assert_eq!(y[0].data, [1., 1., 3., 2.]);
    }

    #[test]
    fn extents_that_differ() {
        let got = refusal::<Mul>(&LayerParameter::default(), &[&[2, 3], &[4, 3]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
