//! `Axpy` of forks: `a · x + y` with a factor for each channel of each item, as in
//! squeeze-and-excitation blocks.
//!
//! * bottoms: a, `[N, C]` or `[N, C, 1, 1]`; x and y, `[N, C, …]`. Top: that shape.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Axpy;

impl Layer for Axpy {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=3, 1..=1)?;
        cx.not_in_place()?;
        Ok(Axpy)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (a, x, y) = (&bottoms[0], &bottoms[1], &bottoms[2]);
        let factors = a.len() >= 2 && a.covering() <= 2 && x.starts_with(&a[..2]);
        if !factors || x != y {
            let message = format!(
                "bottoms must be a factor for each channel and two blobs of one shape, not {a}, {x} and {y}"
            );
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![x.clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let (a, x, y) = (bottoms[0], bottoms[1], bottoms[2]);
        let inner = x.shape.count_of(2..x.shape.len());
        for (i, top) in tops[0].data.iter_mut().enumerate() {
            let [a, x, y] = [a.data[i / inner], x.data[i], y.data[i]].map(f64::from);
            *top = (a * x + y) as f32;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let a = Pointwise::BottomAt { bottom: 0, axis: 0 };
        let [a, x, y] = [a, Pointwise::Bottom(1), Pointwise::Bottom(2)].map(Box::new);
        Some(Pointwise::Fma(a, x, y))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let y = tensor(&[1, 2, 1, 2], [0.5, 0., 0., -1.]);
        for dims in [&[1, 2][..], &[1, 2, 1, 1]] {
            let a = tensor(dims, [10., -1.]);
            let bottoms = [a, x.clone(), y.clone()];
            let top = forward::<Axpy>(&LayerParameter::default(), &bottoms, &[]);
            assert_eq!(top[0].data, [10.5, 20., -3., -5.]);
        }
    }

    #[test]
    fn shapes() {
        let x: &[usize] = &[2, 3, 4, 4];
        for (a, y) in [(&[2, 3, 1, 2][..], x), (&[3], x), (&[2, 3], &[2, 3, 4, 5])] {
            let got = refusal::<Axpy>(&LayerParameter::default(), &[a, x, y]);
            assert!(got.starts_with("bottom: "), "{got}");
        }
    }
}
