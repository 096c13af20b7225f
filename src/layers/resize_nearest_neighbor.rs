//! `ResizeNearestNeighbor` (Synopsys), after TensorFlow's.
//!
//! * bottom: `[N, H, W, C]`, or `[N, C, H, W]` with `data_format: "NCHW"`. Top: the same
//!   with other sizes: `output_height` and `output_width`, where given, else
//!   `⌊size · scale⌋`.
//! * In f32: place `⌊i · in/out⌋`; `⌊(i + 1/2) · in/out⌋` with `half_pixel_centers`;
//!   `i · (in − 1)/(out − 1)`, rounded half away from zero, with `align_corners`; never
//!   beyond the last.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ResizeNearestNeighbor {
    /// Height before width; the axis of the height is 1 or 2.
    pub size: [Option<usize>; 2],
    pub scale: [f32; 2],
    pub height_axis: usize,
    pub grid: Grid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    Starts,
    Centers,
    Corners,
}

impl Layer for ResizeNearestNeighbor {
    fn claims() -> &'static [&'static str] {
        &["resize_nearest_neighbor_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.resize_nearest_neighbor_param.clone();
        let p = p.unwrap_or_default();
        let field = |name: &str| format!("resize_nearest_neighbor_param.{name}");
        if p.half_pixel_onnx() {
            let message = "ONNX's form of half_pixel_centers";
            return Err(cx.unsupported(&field("half_pixel_onnx"), message).into());
        }
        let size = |name: &str, value: Option<i32>| -> Result<Option<usize>> {
            let negative = |_| cx.invalid(&field(name), "must not be negative");
            let size = value.map(|v| usize::try_from(v).map_err(negative));
            Ok(size.transpose()?)
        };
        Ok(ResizeNearestNeighbor {
            size: [
                size("output_height", p.output_height)?,
                size("output_width", p.output_width)?,
            ],
            scale: [p.scale_height(), p.scale_width()],
            height_axis: match p.data_format() {
                "NHWC" => 1,
                "NCHW" => 2,
                other => {
                    let message = format!("`{other}`: neither NHWC nor NCHW");
                    return Err(cx.invalid(&field("data_format"), message).into());
                }
            },
            grid: match (p.align_corners(), p.half_pixel_centers()) {
                (true, true) => {
                    let message = "excludes half_pixel_centers";
                    return Err(cx.invalid(&field("align_corners"), message).into());
                }
                (true, false) => Grid::Corners,
                (false, true) => Grid::Centers,
                (false, false) => Grid::Starts,
            },
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if bottoms[0].len() != 4 {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let mut dims = bottoms[0].to_vec();
        for i in 0..2 {
            let axis = self.height_axis + i;
            // The cast saturates; a shape refuses what is too large.
            let scaled = || (dims[axis] as f32 * self.scale[i]).floor() as usize;
            let size = self.size[i].unwrap_or_else(scaled);
            if size == 0 || dims[axis] == 0 {
                let message = format!("axis {axis} of size {} becomes {size}", dims[axis]);
                return Err(cx.invalid("resize_nearest_neighbor_param", message).into());
            }
            dims[axis] = size;
        }
        let top = Shape::new(dims);
        Ok(vec![cx.locate("resize_nearest_neighbor_param", top)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let (bottom, axis) = (&bottoms[0], self.height_axis);
        let sizes = vec![
            bottom[axis],
            bottom[axis + 1],
            tops[0][axis],
            tops[0][axis + 1],
            bottom.count_of(axis + 2..4),
            self.grid as usize,
        ];
        let call = Call::new(routine!("resize_nearest_neighbor"), sizes, Vec::new());
        Some(call.cut(bottom.count_of(0..axis).max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    /// One map. `sizes`: height and width of the bottom, of the top, elements a pixel; grid:
    /// 0 starts, 1 centres, 2 corners of pixels.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let &[height, width, rows, columns, pixel, grid] = sizes else {
            return;
        };
        if tops[0].is_empty() {
            return;
        }
        for (i, to) in tops[0].chunks_mut(pixel).enumerate() {
            let y = place(i / columns, height, rows, grid);
            let x = place(i % columns, width, columns, grid);
            to.copy_from_slice(&bottoms[0][(y * width + x) * pixel..][..pixel]);
        }
    }

    fn place(i: usize, input: usize, output: usize, grid: usize) -> usize {
        let corners = grid == 2 && output > 1;
        let (input_steps, output_steps) = match corners {
            true => (input - 1, output - 1),
            false => (input, output),
        };
        let scale = input_steps as f32 / output_steps as f32;
        let place = match grid {
            0 => (i as f32 * scale).floor(),
            1 => ((i as f32 + 0.5) * scale).floor(),
            _ => (i as f32 * scale).round(),
        };
        (place as usize).min(input - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::ResizeNearestNeighborParameter as Parameter;

    fn param(p: Parameter) -> LayerParameter {
        LayerParameter {
            resize_nearest_neighbor_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn planes(height: i32, width: i32) -> Parameter {
        Parameter {
            data_format: Some("NCHW".into()),
            output_height: Some(height),
            output_width: Some(width),
            ..Parameter::default()
        }
    }

    #[test]
    fn grids() {
        let x = tensor(&[1, 1, 1, 5], [0., 1., 2., 3., 4.]);
        let run = |p| {
            forward::<ResizeNearestNeighbor>(&param(p), &[&x], &[])
                .remove(0)
                .data
        };
        assert_eq!(run(planes(1, 3)), [0., 1., 3.]);
        let centers = Parameter {
            half_pixel_centers: Some(true),
            ..planes(1, 3)
        };
        assert_eq!(run(centers), [0., 2., 4.]);
        let corners = |size| Parameter {
            align_corners: Some(true),
            ..planes(1, size)
        };
        assert_eq!(run(corners(3)), [0., 2., 4.]);
        // 0, 4/7 …: 1.7142857 rounds to 2.
        assert_eq!(run(corners(8)), [0., 1., 1., 2., 2., 3., 3., 4.]);
        assert_eq!(run(corners(1)), [0.]);
    }

    #[test]
    fn channels_last_unless_told() {
        let x = tensor(&[1, 1, 2, 2], [1., 2., 3., 4.]);
        let p = Parameter {
            scale_width: Some(1.5),
            ..Parameter::default()
        };
        let y = forward::<ResizeNearestNeighbor>(&param(p.clone()), &[&x], &[]).remove(0);
        assert_eq!(y, tensor(&[1, 1, 3, 2], [1., 2., 1., 2., 3., 4.]));
        let sizes = tops::<ResizeNearestNeighbor>(&param(p), &[&[2, 3, 5, 4]]);
        assert_eq!(sizes, [[2, 3, 7, 4]]);
    }

    #[test]
    fn bad_parameters() {
        let shape: &[&[usize]] = &[&[1, 1, 4, 4]];
        let field = "resize_nearest_neighbor_param";
        type Change = fn(&mut Parameter);
        let cases: [(&str, Change); 6] = [
            (".data_format: `CHWN`", |p| {
                p.data_format = Some("CHWN".into())
            }),
            (".align_corners: excludes", |p| {
                (p.align_corners, p.half_pixel_centers) = (Some(true), Some(true))
            }),
            (".output_width: must not", |p| p.output_width = Some(-1)),
            (": axis 2 of size 4 becomes 0", |p| {
                p.output_height = Some(0)
            }),
            (": axis 2 of size 4 becomes 0", |p| {
                (p.output_height, p.scale_height) = (None, Some(f32::NAN))
            }),
            (".half_pixel_onnx: ", |p| p.half_pixel_onnx = Some(true)),
        ];
        for (want, change) in cases {
            let mut p = planes(2, 2);
            change(&mut p);
            let got = refusal::<ResizeNearestNeighbor>(&param(p), shape);
            assert!(got.starts_with(&format!("{field}{want}")), "{got}");
        }
        let got = refusal::<ResizeNearestNeighbor>(&param(planes(2, 2)), &[&[1, 4, 4]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
