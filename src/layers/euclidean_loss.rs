//! `EuclideanLoss`: `Σ (a − b)² / 2N` (Caffe `euclidean_loss_layer.cpp`).
//!
//! * bottoms: a and b, `[N, …]`, with as many values an item.
//! * top: a scalar.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct EuclideanLoss;

impl Layer for EuclideanLoss {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=1)?;
        cx.not_in_place()?;
        Ok(EuclideanLoss)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        let (a, b) = (&bottoms[0], &bottoms[1]);
        if a.count() != b.count() {
            let message = format!("bottoms of {a} and {b} differ in the size of an item");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let items = bottoms[0][0];
        Some(Call::new(routine!("euclidean_loss"), vec![items], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let square = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
        let sum: f64 = bottoms[0].iter().zip(bottoms[1]).map(square).sum();
        for top in tops {
            top[0] = (sum / (2.0 * sizes[0] as f64)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let a = tensor(&[2, 1, 2], [1., 2., 3., 4.]);
        let b = tensor(&[2, 2], [0., 0., 3., 7.]);
        let y = forward::<EuclideanLoss>(&LayerParameter::default(), &[a, b], &[]);
        assert_eq!(y[0].data, [3.5]);
        assert!(y[0].shape.is_empty());
    }

    #[test]
    fn bottoms_that_differ() {
        let param = LayerParameter::default();
        let axis0 = refusal::<EuclideanLoss>(&param, &[&[2, 3], &[3, 2]]);
        assert!(axis0.starts_with("bottom: ") && axis0.ends_with("differ on axis 0"));
        let item = refusal::<EuclideanLoss>(&param, &[&[2, 3], &[2, 2]]);
        assert!(item.ends_with("differ in the size of an item"), "{item}");
        assert!(refusal::<EuclideanLoss>(&param, &[&[], &[]]).ends_with("axis 0"));
    }
}
