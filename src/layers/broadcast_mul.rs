//! `BroadcastMul` of forks: the larger bottom with each channel of each item times its
//! factor, the other bottom.
//!
//! * bottoms, in either order: `[N, C, …]`, and `[N, C]` or `[N, C, 1, …]`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct BroadcastMul;

/// Which bottom has the factors.
fn factors(bottoms: &[Shape]) -> usize {
    usize::from(bottoms[1].count() <= bottoms[0].count())
}

impl Layer for BroadcastMul {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        Ok(BroadcastMul)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let small = &bottoms[factors(bottoms)];
        let whole = &bottoms[1 - factors(bottoms)];
        if small.len() < 2 || small.covering() > 2 || !whole.starts_with(&small[..2]) {
            let message = format!("{small} is not a factor for each channel of {whole}");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![whole.clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let shapes = [bottoms[0].shape.clone(), bottoms[1].shape.clone()];
        let (small, whole) = (factors(&shapes), 1 - factors(&shapes));
        let inner = shapes[whole].count_of(2..shapes[whole].len());
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            *y = bottoms[whole].data[i] * bottoms[small].data[i / inner];
        }
    }

    fn pointwise(&self, bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let bottom = factors(bottoms);
        let factor = Pointwise::BottomAt { bottom, axis: 0 };
        let x = Pointwise::Bottom(1 - bottom);
        Some(Pointwise::binary(BinaryOp::Mul, x, factor))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let factors = tensor(&[1, 2], [10., -1.]);
        for bottoms in [[&x, &factors], [&factors, &x]] {
            let y = forward::<BroadcastMul>(&LayerParameter::default(), &bottoms, &[]);
            assert_eq!(y[0], tensor(&[1, 2, 1, 2], [10., 20., -3., -4.]));
        }
    }

    #[test]
    fn shapes() {
        let bottoms: &[&[usize]] = &[&[2, 3, 4, 4], &[2, 3, 4, 1]];
        let got = refusal::<BroadcastMul>(&LayerParameter::default(), bottoms);
        assert!(got.starts_with("bottom: 2×3×4×1 is not"), "{got}");
    }
}
