//! Moving elements about: what the layers that only reorder a blob have in common.

use super::Shape;
use crate::ir::Tensor;

/// `top[i] = bottom[base + Σ index · stride]`, where i counts the elements through
/// `axes`, the last one fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Moves {
    /// Offset of the bottom's element that comes first.
    pub base: i64,
    /// Extents and strides in the bottom, in elements.
    pub axes: Vec<(usize, i64)>,
}

impl Moves {
    /// All of a blob in another order: top axis i is bottom axis `order[i]`.
    pub fn permuted(bottom: &Shape, order: &[usize]) -> Moves {
        let axis = |&a: &usize| (bottom[a], bottom.count_of(a + 1..bottom.len()) as i64);
        Moves {
            base: 0,
            axes: order.iter().map(axis).collect(),
        }
    }

    /// Each element where it is.
    pub fn identity(bottom: &Shape) -> Moves {
        let order: Vec<usize> = (0..bottom.len()).collect();
        Moves::permuted(bottom, &order)
    }

    /// The same with as few axes as there can be.
    pub fn merged(&self) -> Moves {
        let mut axes: Vec<(usize, i64)> = Vec::new();
        for &(extent, stride) in self.axes.iter().filter(|axis| axis.0 != 1) {
            match axes.last_mut() {
                Some((outer, step)) if *step == stride * extent as i64 => {
                    (*outer, *step) = (*outer * extent, stride);
                }
                _ => axes.push((extent, stride)),
            }
        }
        Moves {
            base: self.base,
            axes,
        }
    }

    pub fn apply(&self, bottom: &Tensor, top: &mut Tensor) {
        let mut index = vec![0; self.axes.len()];
        let mut at = self.base;
        for y in &mut top.data {
            *y = bottom.data[at as usize];
            for (i, &(extent, stride)) in index.iter_mut().zip(&self.axes).rev() {
                (*i, at) = (*i + 1, at + stride);
                if *i < extent {
                    break;
                }
                (*i, at) = (0, at - stride * extent as i64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::tensor;
    use super::*;

    fn moved(moves: &Moves, count: usize, len: usize) -> Vec<f32> {
        let data: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let mut top = tensor(&[len], vec![0.0; len]);
        moves.apply(&tensor(&[count], data), &mut top);
        top.data
    }

    #[test]
    fn axes_go_where_they_are_sent() {
        let shape = Shape::new([2, 1, 3]).unwrap();
        let moves = Moves::permuted(&shape, &[2, 1, 0]);
        assert_eq!(moves.axes, [(3, 1), (1, 3), (2, 3)]);
        assert_eq!(moved(&moves, 6, 6), [0., 3., 1., 4., 2., 5.]);
    }

    #[test]
    fn neighbours_become_one_axis() {
        let shape = Shape::new([2, 3, 1, 4, 5]).unwrap();
        let merged = Moves::permuted(&shape, &[0, 3, 4, 1, 2]).merged();
        assert_eq!(merged.axes, [(2, 60), (20, 1), (3, 20)]);
        assert_eq!(
            Moves::permuted(&shape, &[0, 1, 2, 3, 4]).merged().axes,
            [(120, 1)]
        );
    }

    #[test]
    fn backwards_and_repeated() {
        let backwards = Moves {
            base: 2,
            axes: vec![(3, -1), (2, 0)],
        };
        assert_eq!(moved(&backwards, 3, 6), [2., 2., 1., 1., 0., 0.]);
    }
}
