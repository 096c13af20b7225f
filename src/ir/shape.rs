//! Shapes of blobs, with Caffe's limits and its rule for negative axes.

use crate::diag::{Diagnostic, Result};
use std::fmt;
use std::ops::{Deref, Range};

/// Dimensions of a blob, outermost first. At most 32 axes and `i32::MAX` elements
/// (Caffe `blob.cpp`, `Reshape`); zero axes is a scalar, zero elements is legal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

/// Caffe's `kMaxBlobAxes`.
pub const MAX_AXES: usize = 32;

impl Shape {
    /// Errors: `Invalid` beyond Caffe's limits.
    pub fn new(dims: impl Into<Vec<usize>>) -> Result<Shape> {
        let dims = dims.into();
        if dims.len() > MAX_AXES {
            let message = format!(
                "a blob has at most {MAX_AXES} axes, this one {}",
                dims.len()
            );
            return Err(Diagnostic::invalid(message).into());
        }
        let mut count = 1usize;
        for &dim in &dims {
            // Caffe checks the product in order, and only while it is not zero.
            count = count
                .checked_mul(dim)
                .filter(|&c| c <= i32::MAX as usize && dim <= i32::MAX as usize)
                .ok_or_else(|| {
                    let shape = join(&dims);
                    Diagnostic::invalid(format!(
                        "a blob of {shape} elements is larger than Caffe's limit of 2147483647"
                    ))
                })?;
        }
        Ok(Shape(dims))
    }

    /// From the signed dimensions of a file. Errors: `Invalid` if one is negative.
    pub fn from_i64(dims: &[i64]) -> Result<Shape> {
        let unsigned: Result<Vec<usize>, _> = dims.iter().map(|&d| usize::try_from(d)).collect();
        match unsigned {
            Ok(dims) => Shape::new(dims),
            Err(_) => {
                let message = format!("a blob cannot have a negative dimension: {dims:?}");
                Err(Diagnostic::invalid(message).into())
            }
        }
    }

    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }

    /// Number of axes without ones at the end.
    pub fn covering(&self) -> usize {
        let last = self.0.iter().rposition(|&dim| dim != 1);
        last.map_or(0, |axis| axis + 1)
    }

    /// Number of elements over some axes.
    pub fn count_of(&self, axes: Range<usize>) -> usize {
        self.0[axes].iter().product()
    }

    /// The axis meant by `axis`, where −1 is the last (Caffe `CanonicalAxisIndex`).
    /// Errors: `Invalid` outside `−axes ≤ axis < axes`.
    pub fn axis(&self, axis: i32) -> Result<usize> {
        let axes = self.0.len() as i64;
        let found = if axis < 0 {
            i64::from(axis) + axes
        } else {
            i64::from(axis)
        };
        if (0..axes).contains(&found) {
            Ok(found as usize)
        } else {
            let message = format!("axis {axis} is outside a blob of {axes} axes ({self})");
            Err(Diagnostic::invalid(message).into())
        }
    }

    /// Legacy view as N × C × H × W: missing axes count as 1 (Caffe `LegacyShape`).
    /// `None` with more than 4 axes.
    pub fn nchw(&self) -> Option<[usize; 4]> {
        if self.0.len() > 4 {
            return None;
        }
        let mut dims = [1; 4];
        dims[..self.0.len()].copy_from_slice(&self.0);
        Some(dims)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

fn join(dims: &[usize]) -> String {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    dims.join("×")
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("scalar")
        } else {
            f.write_str(&join(&self.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caffes_limits() {
        assert!(Shape::new([1, 3, 224, 224]).is_ok());
        assert!(Shape::new([65536, 65536]).is_err());
        assert!(Shape::new([usize::MAX, 0]).is_err());
        assert!(Shape::new(vec![1; 33]).is_err());
        assert!(Shape::from_i64(&[1, -1]).is_err());
        assert_eq!(Shape::new([]).unwrap().count(), 1);
    }

    #[test]
    fn ones_at_the_end_do_not_cover() {
        let covering = |dims: &[usize]| Shape::new(dims).unwrap().covering();
        assert_eq!(covering(&[1, 3, 1, 1]), 2);
        assert_eq!(covering(&[2, 3]), 2);
        assert_eq!(covering(&[1, 1]), 0);
    }

    #[test]
    fn negative_axes_count_from_the_end() {
        let shape = Shape::new([2, 3, 4]).unwrap();
        assert_eq!(shape.axis(-1).unwrap(), 2);
        assert_eq!(shape.axis(0).unwrap(), 0);
        assert!(shape.axis(3).is_err());
        assert!(shape.axis(-4).is_err());
        assert!(shape.axis(i32::MIN).is_err());
    }
}
