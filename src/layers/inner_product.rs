//! `InnerProduct`: a matrix product (Caffe `inner_product_layer.cpp`).
//!
//! * bottom: `[outer…, inner…]`, split before `axis`; K is the product of `inner`.
//! * top: `[outer…, num_output]`; in C3D `[N, num_output, 1, 1, 1]`.
//! * blobs: weights `[num_output, K]`, or `[K, num_output]` if `transpose`; bias
//!   `[num_output]`.
//!
//! `y[m, n] = bias[n] + Σ_k x[m, k] · w[n, k]`
//!
//! With happynear's `normalize` the weights of each output count as divided by
//! `sqrt(Σw² + 1e-6)`.

use super::concat::axis_of;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{Node, ParamSpec, Shape, Tensor};
use crate::leaf::routine::Call;
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct InnerProduct {
    pub num_output: usize,
    pub bias: bool,
    /// First of the axes that are multiplied as one, as the file gives it; may be
    /// negative.
    pub axis: i32,
    /// Axes of size 1 after the outputs.
    pub ones: usize,
    pub transpose: bool,
    pub normalize: bool,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

/// The sizes of the matrix product for a bottom of a certain shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub axis: usize,
    /// Rows: the product of the axes before `axis`.
    pub m: usize,
    /// Length of a row: the product of the others.
    pub k: usize,
}

impl InnerProduct {
    /// Panics unless `infer` has passed for a bottom of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        let axis = bottom.axis(self.axis).expect("inferred before");
        Geometry {
            axis,
            m: bottom.count_of(0..axis),
            k: bottom.count_of(axis..bottom.len()),
        }
    }
}

impl Layer for InnerProduct {
    fn claims() -> &'static [&'static str] {
        &["inner_product_param.normalize"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.inner_product_param.clone().unwrap_or_default();
        let c3d = cx.dialect == Some(Dialect::C3d);
        if c3d && p.axis() != 1 {
            let message = "inner products of C3D have no axis";
            return Err(cx.invalid("inner_product_param.axis", message).into());
        }
        Ok(InnerProduct {
            num_output: cx.positive("inner_product_param.num_output", p.num_output())?,
            bias: p.bias_term(),
            axis: p.axis(),
            ones: if c3d { 3 } else { 0 },
            transpose: p.transpose(),
            normalize: p.normalize(),
            weight_filler: p.weight_filler.unwrap_or_default(),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("inner_product_param.axis", bottoms[0].axis(self.axis))?;
        let mut dims = bottoms[0][..axis].to_vec();
        dims.push(self.num_output);
        dims.extend(std::iter::repeat_n(1, self.ones));
        Ok(vec![cx.locate(
            "inner_product_param.num_output",
            Shape::new(dims),
        )?])
    }

    /// Each item along the axes before its own.
    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        (axis < axis_of(self.axis, &bottoms[0])).then_some(axis)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let k = self.geometry(&bottoms[0]).k;
        let dims = if self.transpose {
            vec![k, self.num_output]
        } else {
            vec![self.num_output, k]
        };
        let bias = self.bias.then_some((self.num_output, &self.bias_filler));
        super::weights_and_bias(dims, &self.weight_filler, bias)
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let k = self.geometry(&bottoms[0].shape).k;
        let weights = &params[0].data;
        // Where weight (n, 0) is, and how far it is to the next of the row.
        let (row, step) = if self.transpose {
            (1, self.num_output)
        } else {
            (k, 1)
        };
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            let (m, n) = (i / self.num_output, i % self.num_output);
            let x = &bottoms[0].data[m * k..][..k];
            let bias = params.get(1).map_or(0.0, |bias| f64::from(bias.data[n]));
            let weights = weights.iter().skip(n * row).step_by(step).take(k);
            let squares = || weights.clone().map(|&w| f64::from(w).powi(2)).sum::<f64>();
            let norm = match self.normalize {
                true => (squares() + 1e-6).sqrt(),
                false => 1.0,
            };
            let products = x
                .iter()
                .zip(weights)
                .map(|(&x, &w)| f64::from(x) * f64::from(w));
            *y = (products.sum::<f64>() / norm + bias) as f32;
        }
    }

    fn macs(&self, bottoms: &[Shape], tops: &[Shape]) -> u64 {
        let k = self.geometry(&bottoms[0]).k as u64;
        k.saturating_mul(tops[0].count() as u64)
    }

    /// Of normalised weights; others are tiles.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let k = self.geometry(&bottoms[0]).k;
        let sizes = vec![self.num_output, k, usize::from(self.transpose)];
        let call = Call::new(routine!("inner_product"), sizes, vec![]);
        self.normalize.then_some(call)
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let shape = b.graph.shape(node.bottoms[0]).clone();
        if let Some(call) = self.routine(&[shape], &[]) {
            return lower::routine(b, node, call, &[]);
        }
        let axis = self.geometry(b.graph.shape(node.bottoms[0])).axis;
        let bias = self.bias.then(|| node.params[1]);
        let blobs = (node.bottoms[0], node.tops[0]);
        lower::inner_product(
            b,
            node,
            blobs,
            (node.params[0], bias),
            (axis, self.num_output, self.transpose),
        )
    }
}

/// Of normalised weights. Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [outputs, k, transposed] = [sizes[0], sizes[1], sizes[2]];
        let weight = |n: usize, i: usize| {
            let at = if transposed == 1 {
                i * outputs + n
            } else {
                n * k + i
            };
            f64::from(bottoms[1][at])
        };
        for (y, x) in tops[0].chunks_mut(outputs).zip(bottoms[0].chunks(k)) {
            for (n, y) in y.iter_mut().enumerate() {
                let squares: f64 = (0..k).map(|i| weight(n, i).powi(2)).sum();
                let products = x.iter().enumerate();
                let sum: f64 = products.map(|(i, &x)| f64::from(x) * weight(n, i)).sum();
                let bias = bottoms.get(2).map_or(0.0, |bias| f64::from(bias[n]));
                *y = (sum / (squares + 1e-6).sqrt() + bias) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::InnerProductParameter;

    fn param(change: impl FnOnce(&mut InnerProductParameter)) -> LayerParameter {
        let mut p = InnerProductParameter {
            num_output: Some(2),
            ..InnerProductParameter::default()
        };
        change(&mut p);
        LayerParameter {
            inner_product_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn example_by_hand_and_transposed() {
        let x = tensor(&[2, 3, 1], [1., 2., 3., -1., 0., 1.]);
        let bias = tensor(&[2], [10., 20.]);
        let w = tensor(&[2, 3], [1., 1., 1., 0., 2., 4.]);
        let y = forward::<InnerProduct>(&param(|_| ()), &[&x], &[w, bias.clone()]);
        assert_eq!(y[0], tensor(&[2, 2], [16., 36., 10., 24.]));
        let w = tensor(&[3, 2], [1., 0., 1., 2., 1., 4.]);
        let transposed = param(|p| p.transpose = Some(true));
        assert_eq!(forward::<InnerProduct>(&transposed, &[x], &[w, bias]), y);
    }

    #[test]
    fn normalised_weights() {
        let x = tensor(&[1, 2], [5., 10.]);
        let bias = tensor(&[2], [1., 2.]);
        for (transpose, w) in [(false, [3., 4., 0., -2.]), (true, [3., 0., 4., -2.])] {
            let p = param(|p| {
                p.normalize = Some(true);
                p.transpose = Some(transpose);
            });
            let blobs = [tensor(&[2, 2], w), bias.clone()];
            let y = forward::<InnerProduct>(&p, &[&x], &blobs);
            assert_close(&y[0].data, &[12., -8.], 1e-5);
            let read = [&x.data[..], &blobs[0].data, &blobs[1].data];
            let mut top = [0.; 2];
            routine::run(&read, &mut [&mut top], &[2, 2, usize::from(transpose)], &[]);
            assert_close(&top, &[12., -8.], 1e-5);
        }
    }

    #[test]
    fn axes() {
        let top = |axis| tops::<InnerProduct>(&param(|p| p.axis = Some(axis)), &[&[2, 3, 4, 5]]);
        assert_eq!(top(1), [[2, 2]]);
        assert_eq!(top(0), [[2]]);
        assert_eq!(top(-1), [[2, 3, 4, 2]]);
    }

    #[test]
    fn no_bias_and_an_empty_batch() {
        let p = param(|p| p.bias_term = Some(false));
        let y = forward::<InnerProduct>(&p, &[tensor(&[0, 3], [])], &[tensor(&[2, 3], [1.; 6])]);
        assert_eq!(y[0], tensor(&[0, 2], []));
    }

    #[test]
    fn bad_parameters() {
        let refused = |p: &LayerParameter| refusal::<InnerProduct>(p, &[&[1, 4]]);
        assert_eq!(
            refused(&param(|p| p.num_output = Some(0))),
            "inner_product_param.num_output: `num_output` must not be 0"
        );
        assert!(refused(&param(|p| p.num_output = None)).ends_with("must not be 0"));
        assert!(
            refused(&param(|p| p.axis = Some(2))).starts_with("inner_product_param.axis: axis 2")
        );
        let too_large =
            refusal::<InnerProduct>(&param(|p| p.num_output = Some(1 << 30)), &[&[4, 1]]);
        assert!(
            too_large.starts_with("inner_product_param.num_output: a blob of"),
            "{too_large}"
        );
    }
}
