//! `Softmax`: `e^(x − max) / Σ e^(x − max)` along `axis` (Caffe `softmax_layer.cpp`).
//!
//! Bottom and top: any shape with that axis. +∞ and NaN make NaN of all values that
//! share a sum with them. jolibrain's `scaling_temperature` divides x first.

use super::concat::axis_of;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::leaf::routine::Call;
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Softmax {
    /// As the file gives it; may be negative.
    pub axis: i32,
    /// What scores are divided by, if it is not 1.
    pub temperature: Option<f32>,
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
    fn claims() -> &'static [&'static str] {
        &["softmax_param.scaling_temperature"]
    }

    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.softmax_param.clone().unwrap_or_default();
        Ok(Softmax {
            axis: p.axis(),
            temperature: p.scaling_temperature.filter(|&t| t != 1.0),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        cx.locate("softmax_param.axis", bottoms[0].axis(self.axis))?;
        Ok(vec![bottoms[0].clone()])
    }

    /// Along all axes but its own.
    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        (axis != axis_of(self.axis, &bottoms[0])).then_some(axis)
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape);
        for row in 0..g.outer * g.inner {
            let first = row / g.inner * g.channels * g.inner + row % g.inner;
            let places = (0..g.channels).map(|c| first + c * g.inner);
            let temperature = f64::from(self.temperature.unwrap_or(1.0));
            let values = places.clone();
            let values = values.map(|at| f64::from(bottoms[0].data[at]) / temperature);
            let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
            let powers = values.map(|x| (x - max).exp());
            let sum: f64 = powers.clone().sum();
            for (at, power) in places.zip(powers) {
                tops[0].data[at] = (power / sum) as f32;
            }
        }
    }

    /// One call for each softmax along neighbouring axes.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let g = self.geometry(&bottoms[0]);
        let values = vec![self.temperature?];
        let sizes = vec![g.channels, g.inner];
        Some(Call::new(routine!("softmax"), sizes, values).cut(g.outer))
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let shape = b.graph.shape(node.bottoms[0]).clone();
        if let Some(call) = self.routine(&[shape], &[]) {
            return lower::routine(b, node, call, &[]);
        }
        let axis = axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::softmax(b, node, axis)
    }
}

/// With a temperature. Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [channels, inner] = [sizes[0], sizes[1]];
        let temperature = f64::from(values[0]);
        for first in 0..inner {
            let at = |c: usize| first + c * inner;
            let scaled = |c: usize| f64::from(bottoms[0][at(c)]) / temperature;
            let max = (0..channels).map(scaled).fold(f64::NEG_INFINITY, f64::max);
            let power = |c: usize| (scaled(c) - max).exp();
            let sum: f64 = (0..channels).map(power).sum();
            for c in 0..channels {
                tops[0][at(c)] = (power(c) / sum) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, noise, refusal, tensor};
    use super::*;
    use crate::frontend::proto::SoftmaxParameter;

    fn param(axis: i32) -> LayerParameter {
        LayerParameter {
            softmax_param: Some(
                SoftmaxParameter {
                    axis: Some(axis),
                    ..SoftmaxParameter::default()
                }
                .into(),
            ),
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
    fn a_temperature_divides_the_scores() {
        let warm = LayerParameter {
            softmax_param: Some(
                SoftmaxParameter {
                    scaling_temperature: Some(2.),
                    ..SoftmaxParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let ln = |x: f32| 2. * x.ln();
        let x = tensor(&[1, 3, 2], [0., 1e4, ln(2.), 1e4, ln(5.), -1e4]);
        let y = forward::<Softmax>(&warm, &[&x], &[]);
        let want = [0.125, 0.5, 0.25, 0.5, 0.625, 0.];
        assert_close(&y[0].data, &want, 1e-7);
        let mut top = [0.; 6];
        routine::run(&[&x.data], &mut [&mut top], &[3, 2], &[2.]);
        assert_close(&top, &want, 1e-7);
    }

    #[test]
    fn axis_out_of_range() {
        assert!(
            refusal::<Softmax>(&param(2), &[&[1, 2]]).starts_with("softmax_param.axis: axis 2")
        );
    }
}
