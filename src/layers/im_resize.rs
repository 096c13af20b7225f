//! `ImResize` (caffe_rtpose `imresize_layer.cu`, which has no CPU code of that meaning):
//! maps of several scales enlarged by bicubic interpolation, and their mean.
//!
//! * bottom: `[N, C, H, W]`, an item for each scale. Top: `[1, C, OH, OW]`: `factor · H`,
//!   rounded down, or `target_spatial_height`; width likewise.
//! * Item n holds its scale in the middle: `⌊⌊H / 2⌋ · (1 − start_scale + n · scale_gap)⌋`
//!   rows before and after it are left out; columns likewise.
//! * Between rows (Catmull-Rom, a = −0.5), row i of the top lies at
//!   `(i + 0.5) · H / OH − 0.5`. Rows beyond the edge are the edge's; before the first one
//!   the curve of the first goes on.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ImResize {
    size: Size,
    start_scale: f32,
    scale_gap: f32,
}

/// Height and width of the top.
#[derive(Clone, Debug)]
enum Size {
    Factor(f32),
    Fixed([usize; 2]),
}

impl ImResize {
    /// What is left out of item n on each side of an axis of this size, if that is
    /// something and leaves something.
    fn cut(&self, n: usize, size: usize) -> Option<usize> {
        let share = 1.0 - self.start_scale + n as f32 * self.scale_gap;
        let cut = ((size / 2) as f32 * share).floor();
        let inside = cut >= 0.0 && 2.0 * f64::from(cut) < size as f64;
        inside.then_some(cut as usize)
    }
}

impl Layer for ImResize {
    fn claims() -> &'static [&'static str] {
        &["imresize_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.imresize_param.clone().unwrap_or_default();
        let fixed = |field: &str, size: u32| cx.positive(&format!("imresize_param.{field}"), size);
        let size = if p.factor() == 0.0 {
            Size::Fixed([
                fixed("target_spatial_height", p.target_spatial_height())?,
                fixed("target_spatial_width", p.target_spatial_width())?,
            ])
        } else {
            Size::Factor(cx.above("imresize_param.factor", p.factor(), 0.0)?)
        };
        Ok(ImResize {
            size,
            start_scale: p.start_scale(),
            scale_gap: p.scale_gap(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        for item in 0..n {
            if self.cut(item, h).is_none() || self.cut(item, w).is_none() {
                let message = format!("scale {item} is not inside of {h}×{w}");
                return Err(cx.invalid("imresize_param.start_scale", message).into());
            }
        }
        let size = match self.size {
            Size::Factor(factor) => [h, w].map(|size| (size as f32 * factor) as usize),
            Size::Fixed(size) => size,
        };
        if n == 0 || size.contains(&0) {
            let message = format!("nothing comes of {}", bottoms[0]);
            return Err(cx.invalid("imresize_param.factor", message).into());
        }
        let top = Shape::new([1, c, size[0], size[1]]);
        Ok(vec![cx.locate("imresize_param", top)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let [n, c, h, w] = bottoms[0][..] else {
            return None;
        };
        // The maps of one item are independent; those of several are not side by side.
        let pieces = if n == 1 { c.max(1) } else { 1 };
        let mut sizes = vec![c / pieces, h, w, tops[0][2], tops[0][3]];
        for item in 0..n {
            sizes.extend([self.cut(item, h)?, self.cut(item, w)?]);
        }
        Some(Call::new(routine!("im_resize"), sizes, Vec::new()).cut(pieces))
    }
}

/// Pasted into emitted source.
mod routine {
    // `sizes`: channels, height and width of the bottom, of the top; for each item the rows
    // and columns that are left out on each side.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [channels, height, width] = [sizes[0], sizes[1], sizes[2]];
        let [rows, columns] = [sizes[3], sizes[4]];
        let (map, map_of_top) = (height * width, rows * columns);
        let items = sizes[5..].len() / 2;
        let places = |size: usize, output: usize, axis: usize| -> Vec<Vec<Place>> {
            let cuts = sizes[5..].chunks_exact(2).map(|cuts| cuts[axis]);
            let of = |cut: usize| (0..output).map(|i| place(i, size, output, cut)).collect();
            cuts.map(of).collect()
        };
        let down = places(height, rows, 0);
        let across = places(width, columns, 1);
        for c in 0..channels {
            for (i, y) in tops[0][c * map_of_top..][..map_of_top]
                .iter_mut()
                .enumerate()
            {
                let mut sum = 0.0;
                for item in 0..items {
                    let from = &bottoms[0][(item * channels + c) * map..][..map];
                    let (down, across) = (&down[item][i / columns], &across[item][i % columns]);
                    let row = |row: usize| {
                        between(
                            across.at.map(|x| f64::from(from[row * width + x])),
                            across.share,
                        )
                    };
                    sum += between(down.at.map(row), down.share);
                }
                *y = (sum / items as f64) as f32;
            }
        }
    }

    // Four neighbours, and how far a place lies from the second towards the third.
    struct Place {
        at: [usize; 4],
        share: f64,
    }

    // Element i of `output` on an axis of `size` of which `cut` are left out on each side.
    fn place(i: usize, size: usize, output: usize, cut: usize) -> Place {
        let len = size - 2 * cut;
        let offset = output as f32 / len as f32 / 2.0 - 0.5;
        let place = (i as f32 - offset) * (len as f32 / output as f32);
        let last = len - 1;
        let at = ((f64::from(place) + 1e-5).max(0.0) as usize).min(last);
        let next = (at + 1).min(last);
        let four = [at.saturating_sub(1), at, next, (next + 1).min(last)];
        Place {
            at: four.map(|at| at + cut),
            share: f64::from(place - at as f32),
        }
    }

    fn between(v: [f64; 4], x: f64) -> f64 {
        (-0.5 * v[0] + 1.5 * v[1] - 1.5 * v[2] + 0.5 * v[3]) * x * x * x
            + (v[0] - 2.5 * v[1] + 2.0 * v[2] - 0.5 * v[3]) * x * x
            + (-0.5 * v[0] + 0.5 * v[2]) * x
            + v[1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::ImResizeParameter;

    fn param(p: ImResizeParameter) -> LayerParameter {
        LayerParameter {
            imresize_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn width(width: u32) -> ImResizeParameter {
        ImResizeParameter {
            target_spatial_height: Some(1),
            target_spatial_width: Some(width),
            ..ImResizeParameter::default()
        }
    }

    #[test]
    fn twice_as_wide() {
        let x = tensor(&[1, 1, 1, 3], [0., 16., 32.]);
        let y = forward::<ImResize>(&param(width(6)), &[x], &[]);
        // Places −0.25 to 2.25 in steps of 0.5. The curves on from 0, 16 and 32, whose four
        // neighbours are 0, 0, 16, 32; 0, 16, 32, 32; and 16, 32, 32, 32:
        let first = |x: f32| -8. * x.powi(3) + 16. * x * x + 8. * x;
        let second = |x: f32| -8. * x.powi(3) + 8. * x * x + 16. * x + 16.;
        let third = |x: f32| 8. * x.powi(3) - 16. * x * x + 8. * x + 32.;
        let want = [
            first(-0.25),
            first(0.25),
            first(0.75),
            second(0.25),
            second(0.75),
            third(0.25),
        ];
        assert_close(&y[0].data, &want, 1e-6);
        assert_eq!(want[0], -0.875);
    }

    #[test]
    fn the_mean_of_scales() {
        // The second scale is the middle half.
        let x = tensor(&[2, 1, 1, 4], [1., 1., 1., 1., 9., 3., 3., 9.]);
        let p = ImResizeParameter {
            scale_gap: Some(0.5),
            ..width(2)
        };
        let y = forward::<ImResize>(&param(p), &[x], &[]);
        assert_eq!(y[0].data, [2.; 2]);
    }

    #[test]
    fn sizes() {
        let p = ImResizeParameter {
            factor: Some(1.5),
            ..ImResizeParameter::default()
        };
        assert_eq!(
            tops::<ImResize>(&param(p), &[&[1, 2, 3, 5]]),
            [[1, 2, 4, 7]]
        );
        let p = ImResizeParameter::default();
        assert_eq!(
            tops::<ImResize>(&param(p), &[&[1, 2, 3, 5]]),
            [[1, 2, 368, 368]]
        );
    }

    #[test]
    fn refusals() {
        for (p, field) in [
            (
                ImResizeParameter {
                    factor: Some(-1.),
                    ..width(1)
                },
                "factor",
            ),
            (
                ImResizeParameter {
                    factor: Some(0.1),
                    ..width(1)
                },
                "factor",
            ),
            (
                ImResizeParameter {
                    start_scale: Some(1.5),
                    ..width(1)
                },
                "start_scale",
            ),
            (
                ImResizeParameter {
                    start_scale: Some(-0.5),
                    ..width(1)
                },
                "start_scale",
            ),
            (width(0), "target_spatial_width"),
        ] {
            let got = refusal::<ImResize>(&param(p), &[&[1, 1, 4, 4]]);
            assert!(
                got.starts_with(&format!("imresize_param.{field}: ")),
                "{got}"
            );
        }
    }
}
