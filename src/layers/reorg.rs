//! `Reorg` of YOLO (`reorg_layer.cpp`): positions become channels, in Darknet's order,
//! which is not that of a plain space-to-depth.
//!
//! With s = `stride`, for a bottom of C × H × W and D = C / s²: read as
//! `[D][H·s][W·s]`, its element `[d][h·s + a][w·s + b]` becomes channel `(a·s + b)·D + d`
//! at `[h][w]`, and the result is labelled C·s² × H/s × W/s. `reverse` copies the other
//! way and labels C/s² × H·s × W·s.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Reorg {
    stride: usize,
    reverse: bool,
}

impl Layer for Reorg {
    fn claims() -> &'static [&'static str] {
        &["reorg_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.reorg_param.clone().unwrap_or_default();
        let Some(stride) = p.stride else {
            return Err(cx.invalid("reorg_param", "`stride` is missing").into());
        };
        Ok(Reorg {
            stride: cx.positive("reorg_param.stride", stride)?,
            reverse: p.reverse(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (bottom, s) = (&bottoms[0], self.stride);
        let &[n, c, h, w] = bottom.dims() else {
            let message = format!("the bottom must have 4 axes, it is {bottom}");
            return Err(cx.invalid("bottom", message).into());
        };
        let divides = s.checked_mul(s).is_some_and(|area| c.is_multiple_of(area))
            && (self.reverse || h.is_multiple_of(s) && w.is_multiple_of(s));
        if !divides {
            let what = if self.reverse {
                "channels"
            } else {
                "channels or positions"
            };
            let message = format!("stride {s} does not divide the {what} of {bottom}");
            return Err(cx.invalid("reorg_param.stride", message).into());
        }
        let dims = match self.reverse {
            true => [n, c / (s * s), h * s, w * s],
            false => [n, c * s * s, h / s, w / s],
        };
        Ok(vec![cx.locate("bottom", Shape::new(dims))?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let &[n, c, h, w] = bottoms[0].dims() else {
            return None;
        };
        let s = self.stride;
        let d = c / (s * s);
        let image = (n, c * h * w);
        let axes = match self.reverse {
            false => [
                image,
                (s, w * s),
                (s, 1),
                (d, h * w * s * s),
                (h, s * w * s),
                (w, s),
            ],
            true => [
                image,
                (d, h * w),
                (h, w),
                (s, s * d * h * w),
                (w, 1),
                (s, d * h * w),
            ],
        };
        Some(Moves {
            base: 0,
            axes: axes
                .map(|(extent, stride)| (extent, stride as i64))
                .to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, noise, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ReorgParameter;

    fn reorg(stride: Option<u32>, reverse: bool) -> LayerParameter {
        LayerParameter {
            reorg_param: Some(Box::new(ReorgParameter {
                stride,
                reverse: Some(reverse),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_bottom_is_read_as_a_larger_map() {
        // Read as one plane of 4 × 4.
        let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let y = forward::<Reorg>(&reorg(Some(2), false), &[tensor(&[1, 4, 2, 2], data)], &[]);
        assert_eq!(y[0].shape.to_vec(), [1, 16, 1, 1]);
        let want = [
            0., 2., 8., 10., 1., 3., 9., 11., 4., 6., 12., 14., 5., 7., 13., 15.,
        ];
        assert_eq!(y[0].data, want);
    }

    /// By the formula, element by element.
    #[test]
    fn reverse_is_the_opposite_copy() {
        let (s, c, h, w) = (2, 8, 3, 5);
        let x = noise(&[1, c, h, w]);
        let y = forward::<Reorg>(&reorg(Some(2), true), &[&x], &[]);
        assert_eq!(y[0].shape.to_vec(), [1, 2, 6, 10]);
        for k in 0..c {
            for j in 0..h {
                for i in 0..w {
                    let (d, offset) = (k % 2, k / 2);
                    let (row, column) = (j * s + offset / s, i * s + offset % s);
                    let to = (d * h * s + row) * w * s + column;
                    assert_eq!(y[0].data[to], x.data[(k * h + j) * w + i]);
                }
            }
        }
    }

    #[test]
    fn what_does_not_divide() {
        let message = refusal::<Reorg>(&reorg(None, false), &[&[1, 4, 2, 2]]);
        assert_eq!(message, "reorg_param: `stride` is missing");
        let message = refusal::<Reorg>(&reorg(Some(2), false), &[&[1, 4, 3, 2]]);
        assert!(message.contains("does not divide"), "{message}");
        assert!(refusal::<Reorg>(&reorg(Some(u32::MAX), true), &[&[1, 4, 2, 2]]).contains("limit"));
    }
}
