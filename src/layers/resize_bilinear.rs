//! `ResizeBilinear` of Synopsys' fork: bilinear interpolation as in TensorFlow.
//!
//! * bottom: `[N, H, W, C]`, or with `data_format: "NCHW"` `[N, C, H, W]`; top the same
//!   with `output_height` rows, or where that is absent `H · scale_height`, rounded down;
//!   columns likewise.
//! * Row i of the top lies at `i · H/OH`; with `align_corners` at `i · (H − 1)/(OH − 1)`;
//!   with `half_pixel_centers` or `pytorch_half_pixel` at `(i + 0.5) · H/OH − 0.5`, the
//!   latter at −0.5 where there is but one row. Ratio and place are f32. Above the first
//!   and below the last row lie the same rows again.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ResizeBilinear {
    channels_last: bool,
    /// Rows and columns.
    size: [Extent; 2],
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Extent {
    Of(usize),
    Times(f32),
}

/// Where elements of the top lie, by number in the routine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Plain,
    Corners,
    HalfPixels,
    /// Of PyTorch.
    OwnHalfPixels,
}

impl ResizeBilinear {
    /// The axes of height and width.
    fn axes(&self) -> [usize; 2] {
        if self.channels_last { [1, 2] } else { [2, 3] }
    }
}

impl Layer for ResizeBilinear {
    fn claims() -> &'static [&'static str] {
        &["resize_bilinear_param"]
    }

    /// `output_depth` and `scale_depth` belong to NCHWD, `quantize_method` to the scales and
    /// zero points of quantised blobs.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.resize_bilinear_param.clone().unwrap_or_default();
        let field = |name: &str| format!("resize_bilinear_param.{name}");
        for (given, name) in [
            (p.input_scale() != 1.0, "input_scale"),
            (p.output_scale() != 1.0, "output_scale"),
            (p.input_zero_point() != 0, "input_zero_point"),
            (p.output_zero_point() != 0, "output_zero_point"),
            (p.saturate.unwrap_or(0) != 0, "saturate"),
            (p.data_format() == "NCHWD", "data_format"),
        ] {
            if given {
                return Err(cx.unsupported(&field(name), field(name)).into());
            }
        }
        let channels_last = match p.data_format() {
            "NHWC" => true,
            "NCHW" => false,
            other => {
                let message = format!("`{other}` is neither NHWC nor NCHW");
                return Err(cx.invalid(&field("data_format"), message).into());
            }
        };
        let place = match [
            p.align_corners(),
            p.half_pixel_centers(),
            p.pytorch_half_pixel(),
        ] {
            [false, false, false] => Place::Plain,
            [true, false, false] => Place::Corners,
            [false, true, false] => Place::HalfPixels,
            [false, false, true] => Place::OwnHalfPixels,
            _ => {
                let message = "more than one rule for places";
                return Err(cx.invalid("resize_bilinear_param", message).into());
            }
        };
        let extent = |size: Option<i32>, size_field: &str, scale: f32, scale_field: &str| {
            let of = |size: i32| cx.positive(&field(size_field), size.try_into().unwrap_or(0));
            match size {
                Some(size) => Ok(Extent::Of(of(size)?)),
                None => cx.above(&field(scale_field), scale, 0.0).map(Extent::Times),
            }
        };
        Ok(ResizeBilinear {
            channels_last,
            size: [
                extent(
                    p.output_height,
                    "output_height",
                    p.scale_height(),
                    "scale_height",
                )?,
                extent(
                    p.output_width,
                    "output_width",
                    p.scale_width(),
                    "scale_width",
                )?,
            ],
            place,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        if bottom.len() != 4 {
            let message = format!("the bottom must have 4 axes, it is {bottom}");
            return Err(cx.invalid("bottom", message).into());
        }
        let mut dims = bottom.to_vec();
        for (axis, size) in self.axes().into_iter().zip(self.size) {
            dims[axis] = match size {
                Extent::Of(size) => size,
                Extent::Times(scale) => (bottom[axis] as f32 * scale) as usize,
            };
            if dims[axis] == 0 {
                let message = format!("nothing is left of {bottom}");
                return Err(cx.invalid("resize_bilinear_param", message).into());
            }
        }
        Ok(vec![cx.locate("resize_bilinear_param", Shape::new(dims))?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let [rows, columns] = self.axes();
        let mut sizes = [&bottoms[0], &tops[0]]
            .map(|shape| [shape[rows], shape[columns]])
            .concat();
        let inner = bottoms[0].count_of(columns + 1..4);
        sizes.extend([inner, self.place as usize]);
        let maps = bottoms[0].count_of(0..rows);
        Some(Call::new(routine!("resize_bilinear"), sizes, vec![]).cut(maps))
    }
}

/// Pasted into emitted source.
mod routine {
    /// One map. `sizes`: height and width of the bottom, of the top; elements of a
    /// position; where the top's lie.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let &[height, width, rows, columns, inner, rule] = sizes else {
            return;
        };
        for (row, line) in tops[0].chunks_mut(columns * inner).enumerate() {
            let y = between(row, height, rows, rule);
            for (column, to) in line.chunks_mut(inner).enumerate() {
                let x = between(column, width, columns, rule);
                for (c, to) in to.iter_mut().enumerate() {
                    let value =
                        |y: usize, x: usize| f64::from(bottoms[0][(y * width + x) * inner + c]);
                    let along = |y: usize| {
                        let first = value(y, x.at);
                        first + (value(y, x.next) - first) * x.share
                    };
                    let first = along(y.at);
                    *to = (first + (along(y.next) - first) * y.share) as f32;
                }
            }
        }
    }

    /// A place between two elements, and how much of the later one counts.
    struct Between {
        at: usize,
        next: usize,
        share: f64,
    }

    fn between(i: usize, input: usize, output: usize, rule: usize) -> Between {
        let ratio = match (rule, output) {
            (1, 2..) => (input - 1) as f32 / (output - 1) as f32,
            _ => input as f32 / output as f32,
        };
        let place = match (rule, output) {
            (3, 1) => -0.5,
            (2 | 3, _) => (i as f32 + 0.5) * ratio - 0.5,
            _ => i as f32 * ratio,
        };
        let last = input - 1;
        Between {
            at: (place.floor() as usize).min(last),
            next: (place.ceil() as usize).min(last),
            share: f64::from(place - place.floor()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::ResizeBilinearParameter;

    fn param(p: ResizeBilinearParameter) -> LayerParameter {
        LayerParameter {
            resize_bilinear_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn size(height: i32, width: i32) -> ResizeBilinearParameter {
        ResizeBilinearParameter {
            output_height: Some(height),
            output_width: Some(width),
            data_format: Some("NCHW".into()),
            ..ResizeBilinearParameter::default()
        }
    }

    #[test]
    fn places_by_each_rule() {
        let x = tensor(&[1, 1, 1, 3], [0., 4., 8.]);
        let run = |p| {
            forward::<ResizeBilinear>(&param(p), &[&x], &[])
                .remove(0)
                .data
        };
        assert_eq!(run(size(2, 6))[..6], [0., 2., 4., 6., 8., 8.]);
        let corners = |width| ResizeBilinearParameter {
            align_corners: Some(true),
            ..size(1, width)
        };
        assert_eq!(run(corners(5)), [0., 2., 4., 6., 8.]);
        assert_eq!(run(corners(1)), [0.]);
        let half = |width| ResizeBilinearParameter {
            half_pixel_centers: Some(true),
            ..size(1, width)
        };
        assert_eq!(run(half(6)), [0., 1., 3., 5., 7., 8.]);
        assert_eq!(run(half(1)), [4.]);
        let own = ResizeBilinearParameter {
            pytorch_half_pixel: Some(true),
            ..size(1, 1)
        };
        assert_eq!(run(own), [0.]);
    }

    #[test]
    fn channels_last_and_both_axes() {
        let x = tensor(&[1, 2, 2, 2], [0., 10., 2., 12., 4., 14., 6., 16.]);
        let p = ResizeBilinearParameter {
            align_corners: Some(true),
            data_format: None,
            ..size(3, 2)
        };
        let y = forward::<ResizeBilinear>(&param(p), &[x], &[]);
        assert_eq!(y[0].shape.to_vec(), [1, 3, 2, 2]);
        let want = [0., 10., 2., 12., 2., 12., 4., 14., 4., 14., 6., 16.];
        assert_eq!(y[0].data, want);
    }

    #[test]
    fn sizes_by_scales() {
        let p = ResizeBilinearParameter {
            scale_height: Some(1.5),
            scale_width: Some(0.4),
            ..ResizeBilinearParameter::default()
        };
        assert_eq!(
            tops::<ResizeBilinear>(&param(p), &[&[2, 3, 5, 7]]),
            [[2, 4, 2, 7]]
        );
    }

    #[test]
    fn refusals() {
        type Change = fn(&mut ResizeBilinearParameter);
        let cases: [(&str, Change); 8] = [
            (".output_height: `output_height` must not be 0", |p| {
                p.output_height = Some(-1)
            }),
            (".scale_width: NaN must", |p| {
                (p.output_width, p.scale_width) = (None, Some(f32::NAN));
            }),
            (": nothing is left", |p| {
                (p.output_width, p.scale_width) = (None, Some(0.1))
            }),
            (": a blob of", |p| {
                (p.output_width, p.scale_width) = (None, Some(1e30))
            }),
            (": more than one rule", |p| {
                (p.align_corners, p.half_pixel_centers) = (Some(true), Some(true));
            }),
            (".data_format: `CHW` is", |p| {
                p.data_format = Some("CHW".into())
            }),
            (".data_format: resize", |p| {
                p.data_format = Some("NCHWD".into())
            }),
            (".input_zero_point: resize", |p| {
                p.input_zero_point = Some(3)
            }),
        ];
        for (want, change) in cases {
            let mut p = size(2, 2);
            change(&mut p);
            let got = refusal::<ResizeBilinear>(&param(p), &[&[1, 1, 4, 4]]);
            assert!(
                got.starts_with(&format!("resize_bilinear_param{want}")),
                "{got}"
            );
        }
        let got = refusal::<ResizeBilinear>(&param(size(2, 2)), &[&[1, 4, 4]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
