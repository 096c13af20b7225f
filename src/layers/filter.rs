//! `Filter`: the items whose selector is not 0 (Caffe `filter_layer.cpp`).
//!
//! * bottoms: blobs `[N, …]`, and last the selector, `[N]` or `[N, 1, …]`.
//! * tops: for each blob the selected items, as many as there are.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Filter;

impl Layer for Filter {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(
            2..,
            cx.bottoms.saturating_sub(1)..=cx.bottoms.saturating_sub(1),
        )?;
        cx.not_in_place()?;
        Ok(Filter)
    }

    /// All items: the most there can be.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (selector, blobs) = bottoms.split_last().expect("two bottoms or more");
        let items = selector.first().filter(|&&n| n == selector.count());
        let other = blobs.iter().find(|b| b.first() != items);
        if items.is_none() || other.is_some() {
            let other = other.unwrap_or(&blobs[0]);
            let message = format!(
                "a selector of {selector} does not have one value for each item of {other}"
            );
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(blobs.to_vec())
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        Some(Call::new(routine!("filter"), vec![], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], _sizes: &[usize], _values: &[f32]) {
        let Some((selector, blobs)) = bottoms.split_last() else {
            return;
        };
        let Some((count, tops)) = tops.split_last_mut() else {
            return;
        };
        let selected = || (0..selector.len()).filter(|&i| selector[i] != 0.0);
        count[0] = selected().count() as f32;
        for (top, blob) in tops.iter_mut().zip(blobs) {
            let len = blob.len() / selector.len();
            top.fill(0.0);
            for (to, from) in selected().enumerate() {
                top[to * len..][..len].copy_from_slice(&blob[from * len..][..len]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{infer, refusal, tensor};
    use super::*;
    use crate::ir::Tensor;

    #[test]
    fn items_whose_selector_is_not_0() {
        let param = LayerParameter {
            top: vec!["a".into(), "b".into()],
            ..LayerParameter::default()
        };
        let bottoms = [
            tensor(&[4, 2], [1., 2., 3., 4., 5., 6., 7., 8.]),
            tensor(&[4], [9., 10., 11., 12.]),
            tensor(&[4, 1], [0., -0.5, -0., f32::NAN]),
        ];
        let dims: Vec<&[usize]> = bottoms.iter().map(|b| b.shape.dims()).collect();
        let (layer, shapes) = infer::<Filter>(&param, &dims).unwrap();
        let mut tops: Vec<Tensor> = shapes.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [0.]));
        let bottoms: Vec<&Tensor> = bottoms.iter().collect();
        layer.reference(&bottoms, &[], &mut tops);
        assert_eq!(tops[2].data, [2.]);
        assert_eq!(tops[0].data[..4], [3., 4., 7., 8.]);
        assert_eq!(tops[1].data[..2], [10., 12.]);
    }

    #[test]
    fn shapes() {
        let param = LayerParameter::default();
        for bottoms in [[&[4, 2][..], &[4, 2]], [&[4, 2], &[2]], [&[], &[]]] {
            let got = refusal::<Filter>(&param, &bottoms);
            assert!(got.starts_with("bottom: a selector of"), "{got}");
        }
        let got = refusal::<Filter>(&param, &[&[4], &[4], &[4]]);
        assert!(got.starts_with("top: "), "{got}");
    }
}
