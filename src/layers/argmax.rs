//! `ArgMax`: places (and values) of the largest elements (Caffe `argmax_layer.cpp`).
//!
//! * Without `axis`: over all elements of an item; top `N × 1 × top_k`, with
//!   `out_max_val` `N × 2 × top_k`, places before values, and as many more axes of 1 as
//!   the bottom has.
//! * With `axis`: that axis becomes `top_k` places, or values with `out_max_val`.
//!
//! Of equal elements the last comes first. NaN, on which Caffe's order depends on
//! chance, comes last here.

use super::concat::axis_of;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};
use std::cmp::Ordering;

#[derive(Clone, Debug)]
pub struct ArgMax {
    pub out_max_val: bool,
    pub top_k: usize,
    pub axis: Option<i32>,
}

impl Layer for ArgMax {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let argmax = param.argmax_param.clone().unwrap_or_default();
        if argmax.top_k() == 0 {
            return Err(cx
                .invalid("argmax_param.top_k", "top_k must be above 0")
                .into());
        }
        cx.not_in_place()?;
        Ok(ArgMax {
            out_max_val: argmax.out_max_val(),
            top_k: argmax.top_k() as usize,
            axis: argmax.axis,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let axis = cx.locate("argmax_param", bottom.axis(self.axis.unwrap_or(0)))?;
        let choices = match self.axis {
            Some(_) => bottom[axis],
            None => bottom.count_of(1..bottom.len()),
        };
        if self.top_k > choices {
            let message = format!(
                "top_k {} exceeds the {choices} elements to choose from",
                self.top_k
            );
            return Err(cx.invalid("argmax_param.top_k", message).into());
        }
        let mut dims = match self.axis {
            Some(_) => bottom.to_vec(),
            None => vec![1; bottom.len().max(3)],
        };
        if self.axis.is_some() {
            dims[axis] = self.top_k;
        } else {
            dims[0] = bottom[0];
            dims[1] = if self.out_max_val { 2 } else { 1 };
            dims[2] = self.top_k;
        }
        Ok(vec![cx.locate("argmax_param", Shape::new(dims))?])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let bottom = bottoms[0];
        let shape = &bottom.shape;
        let (choices, inner) = match self.axis {
            Some(axis) => {
                let axis = axis_of(axis, shape);
                (shape[axis], shape.count_of(axis + 1..shape.len()))
            }
            None => (shape.count_of(1..shape.len()), 1),
        };
        let pairs = self.axis.is_none() && self.out_max_val;
        for i in 0..bottom.data.len() / choices.max(1) {
            let (o, p) = (i / inner, i % inner);
            let element = |j: usize| bottom.data[(o * choices + j) * inner + p];
            let mut ranked: Vec<(f32, usize)> = (0..choices).map(|j| (element(j), j)).collect();
            ranked.sort_by(|a, b| descending(*a, *b));
            for (k, &(value, j)) in ranked[..self.top_k].iter().enumerate() {
                let place = if self.out_max_val { value } else { j as f32 };
                if pairs {
                    tops[0].data[2 * i * self.top_k + k] = j as f32;
                    tops[0].data[(2 * i + 1) * self.top_k + k] = value;
                } else {
                    tops[0].data[(o * self.top_k + k) * inner + p] = place;
                }
            }
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = self
            .axis
            .map(|axis| axis_of(axis, b.graph.shape(node.bottoms[0])));
        lower::argmax(b, node, self, axis)
    }
}

/// Larger values first, of equal ones the later; NaN last.
fn descending(a: (f32, usize), b: (f32, usize)) -> Ordering {
    let nan = a.0.is_nan().cmp(&b.0.is_nan());
    let value = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
    nan.then(value).then(b.1.cmp(&a.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_last_and_nan_goes_last() {
        let data = vec![1.0, f32::NAN, 3.0, 3.0, -0.0, 0.0];
        let x = Tensor::new(Shape::new([1, 6]).unwrap(), data);
        let argmax = ArgMax {
            out_max_val: false,
            top_k: 6,
            axis: None,
        };
        let mut top = [Tensor::zeros(Shape::new([1, 1, 6]).unwrap())];
        argmax.reference(&[&x], &[], &mut top);
        assert_eq!(top[0].data, [3.0, 2.0, 0.0, 5.0, 4.0, 1.0]);
    }
}
