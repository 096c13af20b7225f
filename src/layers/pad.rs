//! `Pad` of Synopsys' fork: a constant around a blob.
//!
//! `paddings` are two numbers for each axis: how many elements before and after.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Pad {
    paddings: Vec<usize>,
    value: f32,
}

/// Pasted into emitted source.
mod routine {
    /// `sizes`: for each axis its extent in the bottom, and elements before and after.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        tops[0].fill(values[0]);
        place(bottoms[0], tops[0], sizes);
    }

    fn place(from: &[f32], to: &mut [f32], sizes: &[usize]) {
        if sizes.len() <= 3 {
            let start = sizes.get(1).copied().unwrap_or(0);
            to[start..start + from.len()].copy_from_slice(from);
            return;
        }
        let (extent, before, after) = (sizes[0], sizes[1], sizes[2]);
        let (inner, outer) = (from.len() / extent, to.len() / (before + extent + after));
        let rows = to.chunks_mut(outer).skip(before);
        for (from, to) in from.chunks(inner).zip(rows) {
            place(from, to, &sizes[3..]);
        }
    }
}

impl Layer for Pad {
    fn claims() -> &'static [&'static str] {
        &["pad_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.pad_param.clone().unwrap_or_default();
        let sizes = p.paddings.iter();
        let sizes = sizes.map(|&size| cx.size("pad_param.paddings", size));
        Ok(Pad {
            paddings: sizes.collect::<Result<_>>()?,
            value: p.constant_values(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        if self.paddings.len() != 2 * bottom.len() {
            let message = format!(
                "must be two numbers for each of the {} axes of {bottom}, not {} in all",
                bottom.len(),
                self.paddings.len()
            );
            return Err(cx.invalid("pad_param.paddings", message).into());
        }
        let pairs = bottom.iter().zip(self.paddings.chunks_exact(2));
        let dims: Vec<usize> = pairs.map(|(&n, pad)| n + pad[0] + pad[1]).collect();
        Ok(vec![cx.locate("pad_param.paddings", Shape::new(dims))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let pairs = bottoms[0].iter().zip(self.paddings.chunks_exact(2));
        let sizes = pairs.flat_map(|(&n, pad)| [n, pad[0], pad[1]]).collect();
        Some(Call::new(routine!("pad"), sizes, vec![self.value]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::PadParameter;

    fn pad(paddings: &[u32]) -> LayerParameter {
        LayerParameter {
            pad_param: Some(Box::new(PadParameter {
                paddings: paddings.to_vec(),
                constant_values: Some(7.0),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn before_and_after_each_axis() {
        let x = tensor(&[2, 2], [1., 2., 3., 4.]);
        let y = forward::<Pad>(&pad(&[1, 0, 0, 1]), &[x], &[]);
        assert_eq!(y[0].shape.to_vec(), [3, 3]);
        assert_eq!(y[0].data, [7., 7., 7., 1., 2., 7., 3., 4., 7.]);
        let y = forward::<Pad>(&pad(&[]), &[tensor(&[], [5.])], &[]);
        assert_eq!(y[0].data, [5.]);
    }

    #[test]
    fn two_numbers_for_each_axis() {
        let message = refusal::<Pad>(&pad(&[1, 1]), &[&[2, 2]]);
        assert!(
            message.starts_with("pad_param.paddings: must be two numbers"),
            "{message}"
        );
        assert!(refusal::<Pad>(&pad(&[u32::MAX, 0]), &[&[2]]).contains("limit"));
    }
}
