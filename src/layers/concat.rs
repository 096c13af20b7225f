//! `Concat`: bottoms side by side along one axis (Caffe `concat_layer.cpp`).

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Concat {
    /// May be negative, −1 being the last axis.
    pub axis: i32,
    /// With one bottom the top is the bottom's memory.
    single: bool,
}

impl Layer for Concat {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..=1)?;
        let concat = param.concat_param.unwrap_or_default();
        let old = ("concat_param.concat_dim", concat.concat_dim);
        let axis = axis(concat.axis, old, concat.axis(), cx)?;
        let single = cx.bottoms == 1;
        if cx.in_place && !single {
            let message = "a Concat of several bottoms cannot write into one of them";
            return Err(cx.invalid("top", message).into());
        }
        Ok(Concat { axis, single })
    }

    /// Errors: `Invalid` where the bottoms differ in anything but that axis.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("concat_param", bottoms[0].axis(self.axis))?;
        let mut dims = bottoms[0].dims().to_vec();
        for bottom in &bottoms[1..] {
            if !agree(&bottoms[0], bottom, axis) {
                let message = format!(
                    "cannot join {} and {bottom} along axis {axis}: the other axes must be equal",
                    bottoms[0]
                );
                return Err(cx.invalid("bottom", message).into());
            }
            dims[axis] += bottom[axis];
        }
        Ok(vec![cx.locate("concat_param", Shape::new(dims))?])
    }

    /// Along all axes but its own.
    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        (axis != axis_of(self.axis, &bottoms[0])).then_some(axis)
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let axis = axis_of(self.axis, &bottoms[0].shape);
        let outer = bottoms[0].shape.count_of(0..axis);
        let mut at = 0;
        for o in 0..outer {
            for bottom in bottoms {
                let row = bottom.shape.count_of(axis..bottom.shape.len());
                let from = &bottom.data[o * row..(o + 1) * row];
                tops[0].data[at..at + row].copy_from_slice(from);
                at += row;
            }
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::concat(b, node, axis)
    }

    fn shares_storage(&self) -> bool {
        self.single
    }
}

/// Whether two shapes are equal but for `axis`.
fn agree(a: &Shape, b: &Shape, axis: usize) -> bool {
    a.len() == b.len() && (0..a.len()).all(|i| i == axis || a[i] == b[i])
}

/// `axis`, or the old unsigned field that came before it.
/// Errors: `Invalid` if both are given, or the old one is no axis at all.
pub(super) fn axis(
    new: Option<i32>,
    (field, old): (&str, Option<u32>),
    default: i32,
    cx: &Cx,
) -> Result<i32> {
    match (new, old) {
        (Some(_), Some(_)) => {
            let message = format!("`axis` and `{field}` exclude each other");
            Err(cx.invalid(field, message).into())
        }
        (None, Some(old)) => {
            Ok(i32::try_from(old)
                .map_err(|_| cx.invalid(field, format!("there is no axis {old}")))?)
        }
        _ => Ok(default),
    }
}

/// The axis that `infer` has found to exist.
pub(super) fn axis_of(axis: i32, shape: &Shape) -> usize {
    shape.axis(axis).expect("checked by infer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_along_an_axis() {
        let tensor =
            |dims: [usize; 2], data: &[f32]| Tensor::new(Shape::new(dims).unwrap(), data.to_vec());
        let a = tensor([2, 1], &[1.0, 4.0]);
        let b = tensor([2, 2], &[2.0, 3.0, 5.0, 6.0]);
        let mut top = [Tensor::zeros(Shape::new([2, 3]).unwrap())];
        let concat = Concat {
            axis: -1,
            single: false,
        };
        concat.reference(&[&a, &b], &[], &mut top);
        assert_eq!(top[0].data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
