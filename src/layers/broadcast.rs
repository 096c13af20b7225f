//! What layers share that combine two bottoms element by element, one of which may
//! have extents of 1 that stand for all.

use super::Cx;
use crate::diag::Result;
use crate::ir::{Pointwise, Shape};
use crate::kernel::BinaryOp;
use crate::leaf::routine::{Call, Routine};

/// The shape of the result, axes being aligned at the end.
/// Errors: `Invalid` where extents differ and neither is 1.
pub(super) fn common(bottoms: &[Shape], cx: &Cx) -> Result<Shape> {
    let (a, b) = (&bottoms[0], &bottoms[1]);
    let axes = a.len().max(b.len());
    let mut dims = Vec::new();
    for axis in 0..axes {
        dims.push(match (extent(a, axes, axis), extent(b, axes, axis)) {
            (one, other) if one == other || other == 1 => one,
            (1, other) => other,
            _ => {
                let message = format!("bottoms of {a} and {b}: extents must be equal or 1");
                return Err(cx.invalid("bottom", message).into());
            }
        });
    }
    cx.locate("bottom", Shape::new(dims))
}

/// The extent along `axis` of `axes` that end where the shape's end.
fn extent(shape: &Shape, axes: usize, axis: usize) -> usize {
    let missing = axes - shape.len();
    axis.checked_sub(missing).map_or(1, |axis| shape[axis])
}

/// The element-wise form, if one bottom has the top's shape and the other one reaches
/// over its first axes.
pub(super) fn expression(op: BinaryOp, bottoms: &[Shape]) -> Option<Pointwise> {
    let (a, b) = (&bottoms[0], &bottoms[1]);
    let covers = |small: &Shape, whole: &Shape| {
        small.len() == whole.len() && whole.starts_with(&small[..small.covering()])
    };
    let [one, other] = [0, 1].map(Pointwise::Bottom);
    let at = |bottom| Pointwise::BottomAt { bottom, axis: 0 };
    if a == b {
        Some(Pointwise::binary(op, one, other))
    } else if covers(b, a) {
        Some(Pointwise::binary(op, one, at(1)))
    } else if covers(a, b) {
        Some(Pointwise::binary(op, at(0), other))
    } else {
        None
    }
}

/// A routine that calls [`combine`], on bottoms that fit.
pub(super) fn call(routine: Routine, bottoms: &[Shape], top: &Shape) -> Call {
    let mut sizes = top.to_vec();
    for bottom in bottoms {
        let mut stride = 1;
        let mut strides = Vec::new();
        for axis in (0..top.len()).rev() {
            let extent = extent(bottom, top.len(), axis);
            strides.push(if extent == 1 { 0 } else { stride });
            stride *= extent;
        }
        strides.reverse();
        sizes.extend(strides);
    }
    Call::new(routine, sizes, vec![])
}

// Under this name routines find it here and in emitted source.
pub(super) use routine::combine;

/// Pasted into emitted source.
pub mod routine {
    // `sizes`: extents of the top, then strides of both bottoms, 0 where one value
    // stands for all.
    pub fn combine(
        bottoms: &[&[f32]],
        top: &mut [f32],
        sizes: &[usize],
        f: impl Fn(f32, f32) -> f32,
    ) {
        let axes = sizes.len() / 3;
        for (i, y) in top.iter_mut().enumerate() {
            let (mut left, mut at) = (i, [0, 0]);
            for axis in (0..axes).rev() {
                let place = left % sizes[axis];
                left /= sizes[axis];
                at[0] += place * sizes[axes + axis];
                at[1] += place * sizes[2 * axes + axis];
            }
            *y = f(bottoms[0][at[0]], bottoms[1][at[1]]);
        }
    }
}
