//! `Crop`: the part of bottom 0 that is as large as bottom 1 (Caffe `crop_layer.cpp`).
//!
//! * bottoms: the data; a blob whose values have no influence. Top: bottom 0, from
//!   `axis` on of the sizes of bottom 1.
//! * `offset` is where the part begins: 0, one number for all axes from `axis` on, or one
//!   for each.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Crop {
    /// As the file gives it; may be negative.
    pub axis: i32,
    pub offset: Vec<usize>,
}

impl Crop {
    /// Where the part begins, for each axis of the bottom.
    fn offsets(&self, bottom: &Shape) -> Vec<usize> {
        let start = bottom.axis(self.axis).expect("inferred before");
        let of = |axis: usize| match self.offset[..] {
            [] => 0,
            [one] => one,
            ref each => each[axis - start],
        };
        let axes = 0..bottom.len();
        axes.map(|axis| if axis < start { 0 } else { of(axis) })
            .collect()
    }
}

impl Layer for Crop {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.crop_param.clone().unwrap_or_default();
        let offset = p.offset.iter();
        let offset: Result<Vec<usize>> = offset.map(|&o| cx.size("crop_param.offset", o)).collect();
        Ok(Crop {
            axis: p.axis(),
            offset: offset?,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [data, like] = bottoms else {
            unreachable!("two bottoms");
        };
        let start = cx.locate("crop_param.axis", data.axis(self.axis))?;
        let (given, axes) = (self.offset.len(), data.len() - start);
        if given > 1 && given != axes {
            let message = format!("{given} offsets for {axes} axes from {start} on");
            return Err(cx.invalid("crop_param.offset", message).into());
        }
        if like.len() < data.len() {
            let message = format!("the second bottom {like} has fewer axes than the first {data}");
            return Err(cx.invalid("bottom", message).into());
        }
        let mut dims = data.to_vec();
        let offsets = self.offsets(data);
        for axis in start..data.len() {
            let (size, offset) = (like[axis], offsets[axis]);
            if offset + size > data[axis] {
                let message = format!(
                    "axis {axis} of size {} has no part of size {size} from {offset} on",
                    data[axis]
                );
                return Err(cx.invalid("crop_param.offset", message).into());
            }
            dims[axis] = size;
        }
        Ok(vec![Shape::new(dims)?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let (data, like) = (&bottoms[0], &bottoms[1]);
        let start = data.axis(self.axis).ok()?;
        let mut moves = Moves::identity(data);
        for (axis, offset) in self.offsets(data).into_iter().enumerate().skip(start) {
            let (extent, stride) = &mut moves.axes[axis];
            moves.base += offset as i64 * *stride;
            *extent = like[axis];
        }
        Some(moves)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::CropParameter;

    fn param(axis: i32, offset: &[u32]) -> LayerParameter {
        LayerParameter {
            crop_param: Some(
                CropParameter {
                    axis: Some(axis),
                    offset: offset.to_vec(),
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn parts_by_hand() {
        let x = tensor(&[2, 2, 3], (0..12).map(|v| v as f32).collect::<Vec<_>>());
        let like = |dims: &[usize]| tensor(dims, vec![9.; dims.iter().product()]);
        let run = |axis, offset: &[u32], dims| {
            forward::<Crop>(&param(axis, offset), &[&x, &like(dims)], &[]).remove(0)
        };
        assert_eq!(
            run(2, &[1], &[1, 1, 2]),
            tensor(&[2, 2, 2], [1., 2., 4., 5., 7., 8., 10., 11.])
        );
        assert_eq!(run(1, &[1, 0], &[5, 1, 2]).data, [3., 4., 9., 10.]);
        assert_eq!(run(-3, &[], &[1, 1, 1]).data, [0.]);
    }

    #[test]
    fn bad_parameters() {
        let shapes: &[&[usize]] = &[&[2, 2, 3], &[2, 2, 2]];
        let cases: [(i32, &[u32], &str); 4] = [
            (3, &[], "crop_param.axis: "),
            (2, &[2], "crop_param.offset: axis 2"),
            (1, &[0, 0, 0], "crop_param.offset: 3 offsets"),
            (2, &[u32::MAX], "crop_param.offset: 4294967295"),
        ];
        for (axis, offset, want) in cases {
            let got = refusal::<Crop>(&param(axis, offset), shapes);
            assert!(got.starts_with(want), "{got}");
        }
        let got = refusal::<Crop>(&param(1, &[]), &[&[2, 2], &[2]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
