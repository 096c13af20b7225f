//! `Embed`: the row of a table that each element of the bottom is the number of, plus a
//! bias (Caffe `embed_layer.cpp`).
//!
//! * bottom: any shape; the integer part counts. Top: that shape and an axis of
//!   `num_output` more.
//! * blobs: the table `[input_dim, num_output]`, bias `[num_output]`.
//!
//! A number without a row, which Caffe does not check, gives NaN here.

use super::{Cx, Layer, loss, weights_and_bias};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Embed {
    pub num_output: usize,
    pub input_dim: usize,
    pub bias: bool,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

impl Layer for Embed {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.embed_param.clone().unwrap_or_default();
        Ok(Embed {
            num_output: cx.positive("embed_param.num_output", p.num_output())?,
            input_dim: cx.positive("embed_param.input_dim", p.input_dim())?,
            bias: p.bias_term(),
            weight_filler: p.weight_filler.unwrap_or_default(),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let mut dims = bottoms[0].to_vec();
        dims.push(self.num_output);
        Ok(vec![cx.locate("embed_param.num_output", Shape::new(dims))?])
    }

    fn params(&self, _bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let bias = self.bias.then_some((self.num_output, &self.bias_filler));
        let dims = vec![self.input_dim, self.num_output];
        weights_and_bias(dims, &self.weight_filler, bias)
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![self.num_output, self.input_dim];
        Some(Call::new(routine!("embed", "loss"), sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::loss::class;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [width, rows] = [sizes[0], sizes[1]];
        for (y, &index) in tops[0].chunks_mut(width).zip(bottoms[0]) {
            match class(index, rows) {
                Some(row) => y.copy_from_slice(&bottoms[1][row * width..][..width]),
                None => y.fill(f32::NAN),
            }
            if let Some(bias) = bottoms.get(2) {
                for (y, &bias) in y.iter_mut().zip(*bias) {
                    *y += bias;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::EmbedParameter;

    fn param(num_output: u32, input_dim: u32, bias_term: bool) -> LayerParameter {
        LayerParameter {
            embed_param: Some(Box::new(EmbedParameter {
                num_output: Some(num_output),
                input_dim: Some(input_dim),
                bias_term: Some(bias_term),
                ..EmbedParameter::default()
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn rows_of_the_table() {
        let table = tensor(&[3, 2], [1., 2., 3., 4., 5., 6.]);
        let bias = tensor(&[2], [10., 20.]);
        let x = tensor(&[1, 3], [2., 0.9, 3.]);
        let y = forward::<Embed>(&param(2, 3, true), &[&x], &[table.clone(), bias]);
        assert_eq!(y[0].shape.dims(), [1, 3, 2]);
        assert_eq!(y[0].data[..4], [15., 26., 11., 22.]);
        assert!(y[0].data[4].is_nan());
        let y = forward::<Embed>(&param(2, 3, false), &[x], &[table]);
        assert_eq!(y[0].data[..4], [5., 6., 1., 2.]);
    }

    #[test]
    fn bad_parameters() {
        let got = refusal::<Embed>(&param(2, 0, true), &[&[3]]);
        assert_eq!(got, "embed_param.input_dim: `input_dim` must not be 0");
        let got = refusal::<Embed>(&param(0, 2, true), &[&[3]]);
        assert_eq!(got, "embed_param.num_output: `num_output` must not be 0");
        let got = refusal::<Embed>(&param(1 << 16, 2, true), &[&[1 << 16]]);
        assert!(got.starts_with("embed_param.num_output: "), "{got}");
    }
}
