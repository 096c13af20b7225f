//! `Add` of forks: the sum of two bottoms, in which an extent of 1 stands for all; axes
//! are aligned at the end.

use super::{Cx, Layer, broadcast};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Add;

impl Layer for Add {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        Ok(Add)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![broadcast::common(bottoms, cx)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let routine = routine!("add", "broadcast");
        Some(broadcast::call(routine, bottoms, &tops[0]))
    }

    fn pointwise(&self, bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        broadcast::expression(BinaryOp::Add, bottoms)
    }
}

/// Pasted into emitted source.
mod routine {
    use super::broadcast::combine;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        combine(bottoms, tops[0], sizes, |a, b| a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let a = tensor(&[2, 1, 2], [1., 2., 3., 4.]);
        let row = tensor(&[2], [10., 20.]);
        let y = forward::<Add>(&LayerParameter::default(), &[&a, &row], &[]);
        assert_eq!(y[0], tensor(&[2, 1, 2], [11., 22., 13., 24.]));
        let both = tensor(&[3, 1], [0., 10., 20.]);
        let y = forward::<Add>(&LayerParameter::default(), &[both, a.clone()], &[]);
        assert_eq!(y[0].shape.dims(), [2, 3, 2]);
        assert_eq!(y[0].data[..6], [1., 2., 11., 12., 21., 22.]);
        let y = forward::<Add>(&LayerParameter::default(), &[&a, &a], &[]);
        assert_eq!(y[0].data, [2., 4., 6., 8.]);
    }

    #[test]
    fn extents_that_differ() {
        let got = refusal::<Add>(&LayerParameter::default(), &[&[2, 3], &[2, 4]]);
        assert_eq!(
            got,
            "bottom: bottoms of 2×3 and 2×4: extents must be equal or 1"
        );
    }
}
