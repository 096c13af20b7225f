//! `Lstm` of CTPN (`lstm_layer.cpp` of that fork), which is not BVLC's `LSTM`.
//!
//! * bottoms: x `[T, N, …]`, T time steps of N streams; cont `[T·N]`, 0 where a sequence
//!   starts. Without cont one starts at the first step of every forward pass, with it a
//!   pass goes on from where the last one ended.
//! * top: outputs `[T, N, H]`.
//! * blobs: weights of x `[4H, I]`, of the output before `[4H, H]`, biases `[4H]`, for
//!   gates i, f, o, g.
//!
//! As in the fork, every stream gets what the output before of stream 0 adds, and cont
//! of step t is read from its t-th value on.

use super::{Cx, Layer, lstm_unit};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct CtpnLstm {
    outputs: usize,
    cont: bool,
    weight_filler: FillerParameter,
    bias_filler: FillerParameter,
}

impl Layer for CtpnLstm {
    fn claims() -> &'static [&'static str] {
        &["lstm_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.lstm_param.clone().unwrap_or_default();
        Ok(CtpnLstm {
            outputs: cx.positive("lstm_param.num_output", p.num_output())?,
            cont: cx.bottoms == 2,
            weight_filler: p.weight_filler.unwrap_or_default(),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [steps, streams, ..] = bottoms[0][..] else {
            let message = format!("{} has no axes of time steps and streams", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        if let Some(cont) = bottoms.get(1)
            && cont.nchw() != Some([steps * streams, 1, 1, 1])
        {
            let message = format!("{cont} instead of {steps}·{streams} values on axis 0");
            return Err(cx.invalid("bottom[1]", message).into());
        }
        let top = Shape::new([steps, streams, self.outputs]);
        Ok(vec![cx.locate("lstm_param.num_output", top)?])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let gates = self.outputs.saturating_mul(4);
        let inputs = bottoms[0].count_of(2..bottoms[0].len());
        let spec = |dims: Vec<usize>, filler: &FillerParameter| -> Result<ParamSpec> {
            Ok(ParamSpec {
                shape: Shape::new(dims)?,
                filler: filler.clone(),
            })
        };
        Ok(vec![
            spec(vec![gates, inputs], &self.weight_filler)?,
            spec(vec![gates, self.outputs], &self.weight_filler)?,
            spec(vec![gates], &self.bias_filler)?,
        ])
    }

    /// Output and cell, where a pass goes on.
    fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
        let shape = Shape::new([bottoms[0][1], self.outputs]).expect("no larger than the top");
        vec![shape; if self.cont { 2 } else { 0 }]
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![bottoms[0][0], bottoms[0][1], self.outputs];
        let routine = routine!("ctpn_lstm", "lstm_unit");
        Some(Call::new(routine, sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::lstm_unit::unit;

    fn product(weights: &[f32], x: &[f32]) -> Vec<f64> {
        let dot = |row: &[f32]| {
            row.iter()
                .zip(x)
                .map(|(&w, &x)| f64::from(w) * f64::from(x))
                .sum()
        };
        weights.chunks_exact(x.len()).map(dot).collect()
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [steps, streams, d] = [sizes[0], sizes[1], sizes[2]];
        let (inputs, params) = bottoms.split_at(bottoms.len() - 3);
        let len = inputs[0].len() / (steps * streams);
        let (output, state) = tops.split_at_mut(1);
        let mut h = vec![0.0; streams * d];
        let mut c = h.clone();
        if let [last_h, last_c] = state {
            h.copy_from_slice(last_h);
            c.copy_from_slice(last_c);
        }
        for step in 0..steps {
            let before = product(params[1], &h[..d]);
            for stream in 0..streams {
                let go_on = match inputs {
                    [_, cont] => cont[step + stream] != 0.0,
                    _ => step > 0,
                };
                let at = step * streams + stream;
                let sums = product(params[0], &inputs[0][at * len..(at + 1) * len]);
                for i in 0..d {
                    let gates = [0, 1, 2, 3].map(|gate| {
                        let g = gate * d + i;
                        let more = if go_on { before[g] } else { 0.0 };
                        sums[g] + f64::from(params[2][g]) + more
                    });
                    let i = stream * d + i;
                    [c[i], h[i]] = unit(gates, f32::from(go_on), c[i]);
                }
            }
            output[0][step * streams * d..(step + 1) * streams * d].copy_from_slice(&h);
        }
        if let [last_h, last_c] = state {
            last_h.copy_from_slice(&h);
            last_c.copy_from_slice(&c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LstmParameter;
    use crate::ir::Tensor;

    fn param() -> LayerParameter {
        let p = LstmParameter {
            num_output: Some(1),
            ..LstmParameter::default()
        };
        LayerParameter {
            lstm_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// i, f and o are 1/2, g is tanh(x + h).
    fn blobs() -> Vec<Tensor> {
        vec![
            tensor(&[4, 1], [0., 0., 0., 1.]),
            tensor(&[4, 1], [0., 0., 0., 1.]),
            tensor(&[4], [0.; 4]),
        ]
    }

    fn step(x: f32, h: f32, c: f32) -> [f32; 2] {
        let c = 0.5 * c + 0.5 * (x + h).tanh();
        [0.5 * c.tanh(), c]
    }

    #[test]
    fn all_streams_get_the_output_of_the_first() {
        let x = tensor(&[2, 2, 1], [1., 2., 3., 4.]);
        let y = forward::<CtpnLstm>(&param(), &[x], &blobs());
        let [h0, c0] = step(1., 0., 0.);
        let [h1, c1] = step(2., 0., 0.);
        let want = [h0, h1, step(3., h0, c0)[0], step(4., h0, c1)[0]];
        assert_close(&y[0].data, &want, 1e-6);
    }

    #[test]
    fn with_cont_a_pass_goes_on() {
        let x = tensor(&[1, 1, 1], [1.]);
        let (layer, shapes) = infer::<CtpnLstm>(&param(), &[&[1, 1, 1], &[1]]).unwrap();
        let state = layer.state(&[x.shape.clone(), shapes[0].clone()]);
        let mut tops: Vec<Tensor> = shapes.into_iter().chain(state).map(Tensor::zeros).collect();
        let blobs = blobs();
        let params: Vec<&Tensor> = blobs.iter().collect();
        let [h, c] = step(1., 0., 0.);
        for (cont, want) in [(1., h), (1., step(1., h, c)[0]), (0., h)] {
            layer.reference(&[&x, &tensor(&[1], [cont])], &params, &mut tops);
            assert_close(&tops[0].data, &[want], 1e-6);
        }
    }

    #[test]
    fn refusals() {
        let got = refusal::<CtpnLstm>(&LayerParameter::default(), &[&[2, 1, 1]]);
        assert!(got.starts_with("lstm_param.num_output: "), "{got}");
        assert!(refusal::<CtpnLstm>(&param(), &[&[2]]).starts_with("bottom[0]: "));
        let got = refusal::<CtpnLstm>(&param(), &[&[2, 2, 1], &[2, 2]]);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
