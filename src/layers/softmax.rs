//! `Softmax`: `e^(x − max) / Σ e^(x − max)` along `axis` (Caffe `softmax_layer.cpp`).
//!
//! Bottom and top: any shape with that axis. +∞ and NaN make NaN of all values that
//! share a sum with them.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Softmax {
    /// As the file gives it; may be negative.
    pub axis: i32,
}

/// The sizes of a softmax over a bottom of a certain shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Product of the axes before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub channels: usize,
    /// Product of the axes behind it.
    pub inner: usize,
}

impl Softmax {
    /// Panics unless `infer` has passed for a bottom of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        let axis = bottom.axis(self.axis).expect("inferred before");
        Geometry {
            outer: bottom.count_of(0..axis),
            channels: bottom[axis],
            inner: bottom.count_of(axis + 1..bottom.len()),
        }
    }
}

impl Layer for Softmax {
    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let axis = param.softmax_param.clone().unwrap_or_default().axis();
        Ok(Softmax { axis })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        cx.locate("softmax_param.axis", bottoms[0].axis(self.axis))?;
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape);
        for row in 0..g.outer * g.inner {
            let first = row / g.inner * g.channels * g.inner + row % g.inner;
            let places = (0..g.channels).map(|c| first + c * g.inner);
            let values = places.clone().map(|at| f64::from(bottoms[0].data[at]));
            let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
            let powers = values.map(|x| (x - max).exp());
            let sum: f64 = powers.clone().sum();
            for (at, power) in places.zip(powers) {
                tops[0].data[at] = (power / sum) as f32;
            }
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = super::concat::axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::softmax(b, node, axis)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, noise, refusal, tensor};
    use super::*;
    use crate::frontend::proto::SoftmaxParameter;

    fn param(axis: i32) -> LayerParameter {
        LayerParameter {
            softmax_param: Some(SoftmaxParameter {
                axis: Some(axis),
                ..SoftmaxParameter::default()
            }),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn values_by_hand() {
        let ln = f32::ln;
        let x = tensor(&[2, 3], [0., ln(2.), ln(5.), 1000., 1000., -1000.]);
        let y = forward::<Softmax>(&LayerParameter::default(), &[x], &[]);
        assert_close(&y[0].data, &[0.125, 0.25, 0.625, 0.5, 0.5, 0.], 1e-7);
    }

    #[test]
    fn sums_to_one_along_the_axis() {
        let x = noise(&[2, 10, 2, 3]);
        for (axis, inner, channels) in [(0, 60, 2), (1, 6, 10), (-1, 1, 3)] {
            let y = forward::<Softmax>(&param(axis), &[&x], &[]).remove(0);
            for i in (0..120).filter(|i| i / inner % channels == 0) {
                let sum: f32 = (0..channels).map(|c| y.data[i + c * inner]).sum();
                assert_close(&[sum], &[1.], 1e-6);
            }
        }
        let (layer, _) = infer::<Softmax>(&param(1), &[&x.shape]).unwrap();
        assert_eq!(
            layer.geometry(&x.shape),
            Geometry {
                outer: 2,
                channels: 10,
                inner: 6
            }
        );
    }

    #[test]
    fn special_values() {
        let x = tensor(
            &[3, 2],
            [f32::NAN, 1., 1., f32::INFINITY, f32::NEG_INFINITY, 1.],
        );
        let y = forward::<Softmax>(&LayerParameter::default(), &[x], &[])
            .remove(0)
            .data;
        assert!(y[..4].iter().all(|y| y.is_nan()));
        assert_eq!(y[4..], [0., 1.]);
    }

    #[test]
    fn axis_out_of_range() {
        assert!(
            refusal::<Softmax>(&param(2), &[&[1, 2]]).starts_with("softmax_param.axis: axis 2")
        );
    }
}
