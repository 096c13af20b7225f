//! `Concat`: bottoms side by side along one axis (Caffe `concat_layer.cpp`).
//!
//! Of bottoms that have a data-dependent number of elements along that axis, those that
//! count follow each other; the top has as many as all of them together.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::leaf::routine::Call;
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Concat {
    /// May be negative, −1 being the last axis.
    pub axis: i32,
    /// With one bottom the top is the bottom's memory.
    single: bool,
    /// Whether each bottom has a data-dependent extent along the axis; none if no bottom
    /// has.
    counted: Vec<bool>,
    /// The most elements that all bottoms have together there, if it is known to be less
    /// than what each can have.
    most: usize,
}

impl Layer for Concat {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..=1)?;
        let concat = param.concat_param.clone().unwrap_or_default();
        let old = ("concat_param.concat_dim", concat.concat_dim);
        let axis = axis(concat.axis, old, concat.axis(), cx)?;
        let single = cx.bottoms == 1;
        if cx.in_place && !single {
            let message = "a Concat of several bottoms cannot write into one of them";
            return Err(cx.invalid("top", message).into());
        }
        Ok(Concat {
            axis,
            single,
            counted: Vec::new(),
            most: usize::MAX,
        })
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
        dims[axis] = dims[axis].min(self.most);
        Ok(vec![cx.locate("concat_param", Shape::new(dims))?])
    }

    /// Along all axes but its own.
    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        (axis != axis_of(self.axis, &bottoms[0])).then_some(axis)
    }

    /// Along others than its own axis it carries the extents, unless some are along its own.
    fn join(&mut self, axes: &[Option<usize>], bottoms: &[Shape], most: Option<usize>) -> bool {
        let Ok(own) = bottoms[0].axis(self.axis) else {
            return false;
        };
        let mut known = axes.iter().flatten().peekable();
        let joins = !self.single && known.peek().is_some() && known.all(|&axis| axis == own);
        if joins {
            self.axis = own as i32;
            self.counted = axes.iter().map(Option::is_some).collect();
            self.most = most.unwrap_or(usize::MAX);
        }
        joins
    }

    fn counted(&self) -> Option<usize> {
        let axis = usize::try_from(self.axis);
        axis.ok().filter(|_| self.takes_counts())
    }

    fn takes_counts(&self) -> bool {
        !self.counted.is_empty()
    }

    /// Of counted bottoms.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let axis = self.counted()?;
        let outer = bottoms[0].count_of(0..axis);
        let inner = bottoms[0].count_of(axis + 1..bottoms[0].len());
        let mut sizes = vec![outer, inner];
        for (bottom, &counted) in bottoms.iter().zip(&self.counted) {
            sizes.extend([bottom[axis], usize::from(counted)]);
        }
        Some(Call::new(routine!("concat"), sizes, Vec::new()))
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let shapes =
            |tensors: &[&Tensor]| tensors.iter().map(|t| t.shape.clone()).collect::<Vec<_>>();
        if let Some(call) = self.routine(&shapes(bottoms), &[]) {
            return super::run(&call, bottoms, params, tops).expect("a routine without faults");
        }
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
        if let Some(call) = self.routine(&b.graph.bottom_shapes(node), &[]) {
            return lower::routine(b, node, call, &[]);
        }
        let axis = axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::concat(b, node, axis)
    }

    fn shares_storage(&self) -> bool {
        self.single
    }
}

/// Pasted into emitted source.
mod routine {
    // `sizes`: rows before the axis, elements of a place on it; for each bottom its extent
    // and 1 if a count says how much of it is meant.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [outer, inner] = [sizes[0], sizes[1]];
        let extents = sizes[2..].chunks_exact(2);
        let (blobs, counts) = bottoms.split_at(extents.len());
        let mut counts = counts.iter().map(|count| count[0] as usize);
        let mut parts = Vec::new();
        for (extent, blob) in extents.zip(blobs) {
            let whole = extent[0];
            let some = if extent[1] == 1 { counts.next() } else { None };
            parts.push((blob, whole, some.unwrap_or(whole).min(whole)));
        }
        let [top, count] = tops else { return };
        count[0] = parts.iter().map(|part| part.2).sum::<usize>() as f32;
        let row = top.len() / outer.max(1);
        top.fill(0.0);
        for o in 0..outer {
            let mut at = o * row;
            for (blob, whole, some) in &parts {
                let from = &blob[o * whole * inner..][..some * inner];
                let Some(to) = top.get_mut(at..at + from.len()) else {
                    return;
                };
                to.copy_from_slice(from);
                at += from.len();
            }
        }
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
            counted: Vec::new(),
            most: usize::MAX,
        };
        concat.reference(&[&a, &b], &[], &mut top);
        assert_eq!(top[0].data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn what_counts_follows() {
        let shapes = [[2, 2], [2, 1], [2, 3]].map(|dims| Shape::new(dims).unwrap());
        let joined = |axis: i32, counted: [Option<usize>; 3], most: Option<usize>| {
            let mut concat = Concat {
                axis,
                single: false,
                counted: Vec::new(),
                most: usize::MAX,
            };
            let joins = concat.join(&counted, &shapes, most);
            assert_eq!(joins, concat.counted().is_some());
            concat
        };
        let concat = joined(1, [Some(1), None, Some(1)], None);
        assert_eq!(concat.counted(), Some(1));
        let data = [
            vec![1., 0., 4., 0.],
            vec![2., 5.],
            vec![3., 0., 0., 6., 0., 0.],
        ];
        let mut bottoms: Vec<Tensor> = shapes
            .iter()
            .cloned()
            .zip(data)
            .map(|(s, d)| Tensor::new(s, d))
            .collect();
        bottoms.extend([1., 1.].map(|count| Tensor::new(Shape::new([1]).unwrap(), vec![count])));
        let bottoms: Vec<&Tensor> = bottoms.iter().collect();
        let mut tops =
            [[2, 6].to_vec(), vec![1]].map(|dims| Tensor::zeros(Shape::new(dims).unwrap()));
        concat.reference(&bottoms, &[], &mut tops);
        assert_eq!(
            tops[0].data,
            [1., 2., 3., 0., 0., 0., 4., 5., 6., 0., 0., 0.]
        );
        assert_eq!(tops[1].data, [3.]);
        // They have three places together at most.
        let concat = joined(1, [Some(1), None, Some(1)], Some(3));
        let mut tops =
            [[2, 3].to_vec(), vec![1]].map(|dims| Tensor::zeros(Shape::new(dims).unwrap()));
        concat.reference(&bottoms, &[], &mut tops);
        assert_eq!(tops[0].data, [1., 2., 3., 4., 5., 6.]);
        for counted in [[Some(0); 3], [Some(0), None, Some(1)], [None; 3]] {
            assert_eq!(joined(1, counted, None).counted(), None);
        }
    }
}
