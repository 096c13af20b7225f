//! `BatchReindex`: the items of bottom 0 whose numbers bottom 1 lists (Caffe
//! `batch_reindex_layer.cpp`).
//!
//! * bottoms: `[N, …]`, and `[M]`, of which the integer parts count. Top: `[M, …]`.
//!
//! A number outside 0 ≤ n < N is an error, found when the net runs.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct BatchReindex;

impl Layer for BatchReindex {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        Ok(BatchReindex)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (items, numbers) = (&bottoms[0], &bottoms[1]);
        if numbers.len() != 1 || items.is_empty() {
            let message =
                format!("bottoms must be items and a list of numbers, not {items} and {numbers}");
            return Err(cx.invalid("bottom", message).into());
        }
        let mut dims = items.to_vec();
        dims[0] = numbers[0];
        Ok(vec![cx.locate("bottom", Shape::new(dims))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![bottoms[0][0]];
        let call = Call::new(routine!("batch_reindex"), sizes, vec![]);
        Some(call.faults(&["bottom 1 has the number of an item that bottom 0 does not have"]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let len = bottoms[0].len() / sizes[0];
        let mut fault = 0.0;
        for (y, &number) in tops[0].chunks_mut(len).zip(bottoms[1]) {
            if number > -1.0 && number < sizes[0] as f32 {
                y.copy_from_slice(&bottoms[0][number as usize * len..][..len]);
            } else {
                y.fill(f32::NAN);
                fault = 1.0;
            }
        }
        tops[1][0] = fault;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn items_by_number() {
        let x = tensor(&[2, 1, 2], [1., 2., 3., 4.]);
        let numbers = tensor(&[5], [1., 0.9, 1., 2., -0.5]);
        let y = forward::<BatchReindex>(&LayerParameter::default(), &[x, numbers], &[]);
        assert_eq!(y[0].shape.dims(), [5, 1, 2]);
        assert_eq!(y[0].data[..6], [3., 4., 1., 2., 3., 4.]);
        assert!(
            y[0].data[6..8].iter().all(|y| y.is_nan()),
            "there is no item 2"
        );
        assert_eq!(y[0].data[8..], [1., 2.]);
    }

    #[test]
    fn shapes() {
        let param = LayerParameter::default();
        for bottoms in [[&[2, 3][..], &[2, 1]], [&[], &[2]]] {
            let got = refusal::<BatchReindex>(&param, &bottoms);
            assert!(got.starts_with("bottom: bottoms must be"), "{got}");
        }
    }
}
