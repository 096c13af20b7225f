//! `GSTiling` of Xilinx' fork: squares of positions become channels, or the other way.
//!
//! With s = `stride`, of a bottom of C × H × W: channel c at `[h·s + a][w·s + b]` becomes
//! channel `(a·s + b)·C + c` at `[h][w]` of C·s² × H/s × W/s. `reverse`: with D = C / s²,
//! channel `(a·s + b)·D + d` at `[h][w]` becomes channel d at `[h·s + a][w·s + b]`.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct GsTiling {
    stride: usize,
    reverse: bool,
}

/// The shape after channels of groups of `stride`² have become squares of positions.
/// Errors: `Invalid` at `field` unless they can.
pub(super) fn spread(bottom: &Shape, stride: usize, field: &str, cx: &Cx) -> Result<Shape> {
    let &[n, c, h, w] = bottom.dims() else {
        let message = format!("the bottom must have 4 axes, it is {bottom}");
        return Err(cx.invalid("bottom", message).into());
    };
    let Some(area) = stride
        .checked_mul(stride)
        .filter(|&area| c.is_multiple_of(area))
    else {
        let message = format!("{stride}·{stride} does not divide the {c} channels of {bottom}");
        return Err(cx.invalid(field, message).into());
    };
    cx.locate("bottom", Shape::new([n, c / area, h * stride, w * stride]))
}

/// The same as moves: the channel within its group counts `inner` channels, a group
/// `group`.
pub(super) fn spread_moves(bottom: &Shape, stride: usize, inner: usize, group: usize) -> Moves {
    let (positions, width) = (bottom.count_of(2..4), bottom[3]);
    let channels = bottom[1] / (stride * stride);
    let axes = [
        (bottom[0], bottom[1] * positions),
        (channels, group * positions),
        (bottom[2], width),
        (stride, stride * inner * positions),
        (width, 1),
        (stride, inner * positions),
    ];
    Moves {
        base: 0,
        axes: axes.map(|(extent, step)| (extent, step as i64)).to_vec(),
    }
}

impl Layer for GsTiling {
    fn claims() -> &'static [&'static str] {
        &["gs_tiling_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.gs_tiling_param.clone().unwrap_or_default();
        let stride = p.stride().try_into().unwrap_or(0);
        Ok(GsTiling {
            stride: cx.positive("gs_tiling_param.stride", stride)?,
            reverse: p.reverse(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (bottom, s) = (&bottoms[0], self.stride);
        if self.reverse {
            return Ok(vec![spread(bottom, s, "gs_tiling_param.stride", cx)?]);
        }
        let &[n, c, h, w] = bottom.dims() else {
            let message = format!("the bottom must have 4 axes, it is {bottom}");
            return Err(cx.invalid("bottom", message).into());
        };
        if !h.is_multiple_of(s) || !w.is_multiple_of(s) {
            let message = format!("{s} does not divide the {h} × {w} positions of {bottom}");
            return Err(cx.invalid("gs_tiling_param.stride", message).into());
        }
        let top = Shape::new([n, c * s * s, h / s, w / s]);
        Ok(vec![cx.locate("bottom", top)?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let (bottom, s) = (&bottoms[0], self.stride);
        let &[n, c, h, w] = bottom.dims() else {
            return None;
        };
        if self.reverse {
            return Some(spread_moves(bottom, s, c / (s * s), 1));
        }
        let axes = [
            (n, c * h * w),
            (s, w),
            (s, 1),
            (c, h * w),
            (h / s, s * w),
            (w / s, s),
        ];
        Some(Moves {
            base: 0,
            axes: axes.map(|(extent, step)| (extent, step as i64)).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, noise, refusal, tensor};
    use super::*;
    use crate::frontend::proto::GsTilingParameter;

    fn tiling(stride: i32, reverse: bool) -> LayerParameter {
        LayerParameter {
            gs_tiling_param: Some(Box::new(GsTilingParameter {
                stride: Some(stride),
                reverse: Some(reverse),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn positions_become_groups_of_channels() {
        let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let y = forward::<GsTiling>(&tiling(2, false), &[tensor(&[1, 2, 2, 4], data)], &[]);
        assert_eq!(y[0].shape.to_vec(), [1, 8, 1, 2]);
        let want = [
            0., 2., 8., 10., 1., 3., 9., 11., 4., 6., 12., 14., 5., 7., 13., 15.,
        ];
        assert_eq!(y[0].data, want);
    }

    #[test]
    fn reverse_undoes_it() {
        let x = noise(&[2, 3, 4, 6]);
        let there = forward::<GsTiling>(&tiling(2, false), &[&x], &[]);
        let back = forward::<GsTiling>(&tiling(2, true), &there, &[]);
        assert_eq!(back[0], x);
    }

    #[test]
    fn what_does_not_divide() {
        for (stride, reverse, want) in [
            (0, false, "gs_tiling_param.stride: `stride` must not be 0"),
            (-2, false, "gs_tiling_param.stride: `stride` must not be 0"),
            (2, false, "gs_tiling_param.stride: 2 does not divide"),
            (2, true, "gs_tiling_param.stride: 2·2 does not divide"),
            (
                i32::MAX,
                true,
                "gs_tiling_param.stride: 2147483647·2147483647 does not divide",
            ),
        ] {
            let got = refusal::<GsTiling>(&tiling(stride, reverse), &[&[1, 6, 3, 4]]);
            assert!(got.starts_with(want), "{got}");
        }
        assert!(refusal::<GsTiling>(&tiling(2, true), &[&[4, 2, 2]]).starts_with("bottom: "));
    }
}
