//! `RNN`: a simple recurrent network over time (Caffe `rnn_layer.cpp`); bottoms, tops and
//! state as `recurrent.rs` says.
//!
//! * h = tanh(W_xh·x + b_h + W_xh_static·constant + W_hh·h), with h of the step before
//!   times cont on the right;
//! * the output is tanh(W_ho·h + b_o).
//!
//! Blobs: W_xh `[D, I]`, b_h `[D]`, W_xh_static `[D, …]` if there is a constant input, W_hh
//! `[D, D]`, W_ho `[D, D]`, b_o `[D]`. State: h.

use super::recurrent::Recurrent;
use super::{Cx, Layer, recurrent};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Rnn(Recurrent);

impl Layer for Rnn {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        Recurrent::from_param(param, 1, cx).map(Rnn)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        self.0.infer(bottoms, cx)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let d = self.0.num_output;
        let mut specs = self.0.params(bottoms, d)?;
        specs.extend([self.0.weights(d, d)?, self.0.bias(d)?]);
        Ok(specs)
    }

    fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
        self.0.state(bottoms)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = routine!("rnn", "recurrent");
        Some(Call::new(routine, self.0.sizes(bottoms), vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::recurrent::{Bottoms, product};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [steps, streams, d] = [sizes[0], sizes[1], sizes[2]];
        let bottoms = Bottoms::new(bottoms, sizes, 1);
        let [.., hidden, out, out_bias] = bottoms.params else {
            unreachable!("W_hh, W_ho and b_o are the last blobs")
        };
        let [output, h] = tops else {
            unreachable!("a top and h")
        };
        if let [first] = bottoms.states {
            h.copy_from_slice(first);
        }
        for step in 0..steps {
            for stream in 0..streams {
                let cont = bottoms.cont[step * streams + stream];
                let h = &mut h[stream * d..][..d];
                let before: Vec<f32> = h.iter().map(|h| cont * h).collect();
                let inputs = bottoms.inputs(d, step, stream, sizes);
                let sums = inputs.iter().zip(product(hidden, &before, d));
                for (h, (input, before)) in h.iter_mut().zip(sums) {
                    *h = (input + before).tanh() as f32;
                }
                let sums = product(out, h, d);
                let output = &mut output[(step * streams + stream) * d..][..d];
                for ((y, sum), &bias) in output.iter_mut().zip(sums).zip(*out_bias) {
                    *y = (sum + f64::from(bias)).tanh() as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, tensor};
    use super::*;
    use crate::frontend::proto::RecurrentParameter;
    use crate::ir::Tensor;

    fn param(expose_hidden: bool, tops: usize) -> LayerParameter {
        LayerParameter {
            top: (0..tops).map(|i| format!("top{i}")).collect(),
            recurrent_param: Some(Box::new(RecurrentParameter {
                num_output: Some(1),
                expose_hidden: Some(expose_hidden),
                ..RecurrentParameter::default()
            })),
            ..LayerParameter::default()
        }
    }

    fn blobs() -> [Tensor; 5] {
        [
            tensor(&[1, 2], [0.5, -1.]),
            tensor(&[1], [0.25]),
            tensor(&[1, 1], [2.]),
            tensor(&[1, 1], [-3.]),
            tensor(&[1], [1.]),
        ]
    }

    #[test]
    fn two_streams_and_a_new_sequence() {
        let x = tensor(&[2, 2, 1, 2], [1., 0., 0., 1., 0., 0., 0., 0.]);
        let cont = tensor(&[2, 2], [1., 1., 0.5, 0.]);
        let first = tensor(&[1, 2, 1], [0.125, 0.]);
        let y = forward::<Rnn>(&param(true, 2), &[x, cont, first], &blobs());
        let h = [1f32.tanh(), (-0.75f32).tanh()];
        let h = [h[0], h[1], (0.25 + h[0]).tanh(), 0.25f32.tanh()];
        let want = h.map(|h| (1. - 3. * h).tanh());
        assert_close(&y[0].data, &want, 1e-6);
        assert_close(&y[1].data, &h[2..], 1e-6);
    }

    #[test]
    fn blobs_with_a_constant_input() {
        let bottoms: &[&[usize]] = &[&[2, 3, 4], &[2, 3], &[3, 5]];
        let (layer, tops) = infer::<Rnn>(&param(false, 1), bottoms).unwrap();
        assert_eq!(tops[0].dims(), [2, 3, 1]);
        let bottoms: Vec<Shape> = bottoms.iter().map(|&b| Shape::new(b).unwrap()).collect();
        let specs = layer.params(&bottoms).unwrap();
        let dims: Vec<&[usize]> = specs.iter().map(|s| s.shape.dims()).collect();
        assert_eq!(dims, [&[1, 4][..], &[1], &[1, 5], &[1, 1], &[1, 1], &[1]]);
        assert_eq!(layer.state(&bottoms), [Shape::new([1, 3, 1]).unwrap()]);
    }
}
