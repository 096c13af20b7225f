//! `Slice`: one bottom cut into tops along one axis (Caffe `slice_layer.cpp`).

use super::concat::{axis, axis_of};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Slice {
    /// May be negative, −1 being the last axis.
    pub axis: i32,
    /// Where tops 1, 2, … begin; empty for equal parts.
    pub points: Vec<u32>,
    /// With one top it is the bottom's memory.
    single: bool,
}

impl Layer for Slice {
    /// Errors: `Invalid` unless slice points are missing, or rise from above 0 and are
    /// one fewer than the tops.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..)?;
        let slice = param.slice_param.clone().unwrap_or_default();
        let old = ("slice_param.slice_dim", slice.slice_dim);
        let axis = axis(slice.axis, old, slice.axis(), cx)?;
        let points = slice.slice_point;
        if !points.is_empty() && points.len() + 1 != cx.tops {
            let message = format!(
                "{} slice points make {} tops, not {}",
                points.len(),
                points.len() + 1,
                cx.tops
            );
            return Err(cx.invalid("slice_param.slice_point", message).into());
        }
        if points.first() == Some(&0) || points.windows(2).any(|w| w[0] >= w[1]) {
            let message = "slice points must be above 0 and rise";
            return Err(cx.invalid("slice_param.slice_point", message).into());
        }
        let single = cx.tops == 1;
        if cx.in_place && !single {
            let message = "a Slice into several tops cannot write into its bottom";
            return Err(cx.invalid("top", message).into());
        }
        Ok(Slice {
            axis,
            points,
            single,
        })
    }

    /// Errors: `Invalid` where the axis cannot be cut so.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("slice_param", bottoms[0].axis(self.axis))?;
        let length = bottoms[0][axis];
        let mut dims = bottoms[0].dims().to_vec();
        let mut shape = |part| {
            dims[axis] = part;
            cx.locate("slice_param", Shape::new(dims.clone()))
        };
        if self.points.is_empty() {
            if !length.is_multiple_of(cx.tops) {
                let message = format!(
                    "axis {axis} of {length} is not divisible by {} tops",
                    cx.tops
                );
                return Err(cx.invalid("top", message).into());
            }
            return Ok(vec![shape(length / cx.tops)?; cx.tops]);
        }
        let last = self.points.last().map_or(0, |&p| p as usize);
        if last > length || cx.tops > length {
            let message = format!("slice point {last} lies outside axis {axis} of {length}");
            return Err(cx.invalid("slice_param.slice_point", message).into());
        }
        let ends = self.points.iter().map(|&p| p as usize).chain([length]);
        let mut start = 0;
        ends.map(|end| {
            let part = end - start;
            start = end;
            shape(part)
        })
        .collect()
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
            for top in tops.iter_mut() {
                let row = top.shape.count_of(axis..top.shape.len());
                let from = &bottoms[0].data[at..at + row];
                top.data[o * row..(o + 1) * row].copy_from_slice(from);
                at += row;
            }
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::slice(b, node, axis)
    }

    fn shares_storage(&self) -> bool {
        self.single
    }
}
