//! Values: plain tensors, and parameter data that may still lie in a mapped file.

use super::Shape;
use crate::diag::{Diagnostic, Kind, Result};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A blob's values, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Shape,
    pub data: Vec<f32>,
}

impl Tensor {
    pub fn zeros(shape: Shape) -> Tensor {
        let data = vec![0.0; shape.count()];
        Tensor { shape, data }
    }

    /// The first `len` elements along an axis, or all that there are.
    pub fn first(&self, axis: usize, len: usize) -> Tensor {
        let mut dims = self.shape.to_vec();
        let inner = self.shape.count_of(axis + 1..dims.len());
        let row = dims[axis] * inner;
        dims[axis] = len.min(dims[axis]);
        let kept = dims[axis] * inner;
        let rows = self.data.chunks_exact(row.max(1));
        let data = rows.flat_map(|row| &row[..kept]).copied().collect();
        let shape = Shape::new(dims).expect("no larger than before");
        Tensor { shape, data }
    }

    /// Panics if the number of values is not the shape's.
    pub fn new(shape: Shape, data: Vec<f32>) -> Tensor {
        assert_eq!(shape.count(), data.len(), "values for a shape of {shape}");
        Tensor { shape, data }
    }
}

/// Asks the system for memory for so many numbers and gives it back: what then makes
/// tensors of a size that a file tells would end the program where it is refused.
/// Errors: `Io`, if it is.
pub fn room(numbers: impl IntoIterator<Item = usize>) -> Result<()> {
    let numbers = numbers.into_iter().fold(0, usize::saturating_add);
    let refused = Vec::<f32>::new().try_reserve_exact(numbers);
    Ok(refused.map_err(|why| {
        let message = format!("cannot get memory for {numbers} numbers: {why}");
        Diagnostic::new(Kind::Io, message)
    })?)
}

/// A source of floats that is decoded only when somebody asks: mapped weights
/// files implement it, so that packing makes the only copy.
pub trait FloatSource: Send + Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the values; borrowed where the source holds them as aligned f32.
    fn window(&self, range: Range<usize>) -> Cow<'_, [f32]>;

    /// Tells that nobody is likely to ask for these values again, so that they need not
    /// stay in memory where the source can get them once more.
    fn release(&self, _range: Range<usize>) {}
}

impl FloatSource for Vec<f32> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn window(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self[range])
    }
}

/// Values of a parameter blob, cheap to clone.
#[derive(Clone)]
pub struct FloatData(Arc<dyn FloatSource>);

impl FloatData {
    pub fn new(source: impl FloatSource + 'static) -> FloatData {
        FloatData(Arc::new(source))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All values.
    pub fn floats(&self) -> Cow<'_, [f32]> {
        self.0.window(0..self.len())
    }

    /// Some of the values, so that a large blob need not be decoded whole.
    pub fn window(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        self.0.window(range)
    }

    /// See [`FloatSource::release`].
    pub fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

impl fmt::Debug for FloatData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} floats", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_refused_not_an_abort() {
        assert!(room([1, 2]).is_ok());
        let error = room([usize::MAX, 2]).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot get memory for 18446744073709551615"),
            "{error}"
        );
    }
}
