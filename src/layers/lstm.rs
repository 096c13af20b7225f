//! `LSTM`: long short-term memory over time (Caffe `lstm_layer.cpp`); bottoms, tops and
//! state as `recurrent.rs` says.
//!
//! With h and c of the step before, h counting times cont:
//!
//! * sums = W_xc·x + b_c + W_xc_static·constant + W_hc·h, in the order of gates i, f, o, g;
//! * c = cont·σ(f)·c + σ(i)·tanh(g);
//! * h = σ(o)·tanh(c), the output.
//!
//! Blobs: W_xc `[4D, I]`, b_c `[4D]`, W_xc_static `[4D, …]` if there is a constant input,
//! W_hc `[4D, D]`. States: h, c.

use super::recurrent::Recurrent;
use super::{Cx, Layer, lstm_unit, recurrent};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Lstm(Recurrent);

impl Layer for Lstm {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        Recurrent::from_param(param, 2, cx).map(Lstm)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        self.0.infer(bottoms, cx)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        self.0.params(bottoms, 4 * self.0.num_output)
    }

    fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
        self.0.state(bottoms)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = routine!("lstm", "recurrent", "lstm_unit");
        Some(Call::new(routine, self.0.sizes(bottoms), vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::lstm_unit::unit;
    use super::recurrent::{Bottoms, product};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [steps, streams, d] = [sizes[0], sizes[1], sizes[2]];
        let bottoms = Bottoms::new(bottoms, sizes, 2);
        let [.., hidden] = bottoms.params else {
            unreachable!("W_hc is the last blob")
        };
        let [output, h, c] = tops else {
            unreachable!("a top, h and c")
        };
        if let [first_h, first_c] = bottoms.states {
            h.copy_from_slice(first_h);
            c.copy_from_slice(first_c);
        }
        for step in 0..steps {
            for stream in 0..streams {
                let cont = bottoms.cont[step * streams + stream];
                let (h, c) = (&mut h[stream * d..][..d], &mut c[stream * d..][..d]);
                let before: Vec<f32> = h.iter().map(|h| cont * h).collect();
                let mut sums = bottoms.inputs(4 * d, step, stream, sizes);
                for (sum, more) in sums.iter_mut().zip(product(hidden, &before, 4 * d)) {
                    *sum += more;
                }
                for i in 0..d {
                    let gates = [0, 1, 2, 3].map(|gate| sums[gate * d + i]);
                    [c[i], h[i]] = unit(gates, cont, c[i]);
                }
                output[(step * streams + stream) * d..][..d].copy_from_slice(h);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, refusal, tensor};
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

    /// Gates of one unit of memory, of an input of 1 and of the output before.
    fn blobs() -> Vec<Tensor> {
        vec![
            tensor(&[4, 1], [0.5, -0.25, 1., 2.]),
            tensor(&[4], [0., 0.25, -1., 0.]),
            tensor(&[4, 1], [0., 0., 0., 4.]),
        ]
    }

    fn sigmoid(x: f32) -> f32 {
        1. / (1. + (-x).exp())
    }

    /// One step with x = 1.
    fn step(h: f32, c: f32) -> [f32; 2] {
        let c = sigmoid(0.) * c + sigmoid(0.5) * (2. + 4. * h).tanh();
        [sigmoid(0.) * c.tanh(), c]
    }

    #[test]
    fn steps_with_states_given_and_taken() {
        let x = tensor(&[2, 1, 1], [1., 1.]);
        let state = |v| tensor(&[1, 1, 1], [v]);
        let [h1, c1] = step(0.5, -1.);
        for (cont, [h2, c2]) in [(1., step(h1, c1)), (0., step(0., 0.))] {
            let cont = tensor(&[2, 1], [1., cont]);
            let bottoms = [x.clone(), cont, state(0.5), state(-1.)];
            let y = forward::<Lstm>(&param(true, 3), &bottoms, &blobs());
            assert_close(&y[0].data, &[h1, h2], 1e-6);
            assert_close(&[y[1].data[0], y[2].data[0]], &[h2, c2], 1e-6);
        }
    }

    #[test]
    fn a_constant_input_adds_to_every_step() {
        let x = tensor(&[1, 1, 1], [0.5]);
        let bottoms = [x, tensor(&[1, 1], [0.]), tensor(&[1, 1], [1.])];
        let mut blobs = blobs();
        let half = blobs[0].data.iter().map(|w| w / 2.).collect::<Vec<f32>>();
        blobs.insert(2, tensor(&[4, 1], half));
        let (layer, _) = infer::<Lstm>(&param(false, 1), &[&[1, 1, 1], &[1, 1], &[1, 1]]).unwrap();
        let shapes: Vec<Shape> = bottoms.iter().map(|b| b.shape.clone()).collect();
        assert_eq!(layer.state(&shapes).len(), 2);
        let mut tops = vec![Tensor::zeros(Shape::new([1, 1, 1]).unwrap()); 3];
        let bottoms: Vec<&Tensor> = bottoms.iter().collect();
        let params: Vec<&Tensor> = blobs.iter().collect();
        layer.reference(&bottoms, &params, &mut tops);
        let [h, c] = step(0., 0.);
        let got: Vec<f32> = tops.iter().map(|t| t.data[0]).collect();
        // Step works with x = 1; here halves of x and of the constant input make it up
        // but for the weight: 0.5 · w + 1 · w / 2.
        assert_close(&got, &[h, h, c], 1e-6);
    }

    #[test]
    fn the_next_forward_pass_goes_on() {
        let dims: &[&[usize]] = &[&[1, 1, 1], &[1, 1]];
        let (layer, _) = infer::<Lstm>(&param(false, 1), dims).unwrap();
        let (x, cont) = (tensor(dims[0], [1.]), tensor(dims[1], [1.]));
        let blobs = blobs();
        let params: Vec<&Tensor> = blobs.iter().collect();
        let mut tops = vec![Tensor::zeros(Shape::new([1, 1, 1]).unwrap()); 3];
        let [mut h, mut c] = [0.; 2];
        for _ in 0..3 {
            layer.reference(&[&x, &cont], &params, &mut tops);
            [h, c] = step(h, c);
            assert_close(&tops[0].data, &[h], 1e-6);
            assert_close(&tops[2].data, &[c], 1e-6);
        }
    }

    #[test]
    fn shapes() {
        let refused =
            |exposed, tops, bottoms: &[&[usize]]| refusal::<Lstm>(&param(exposed, tops), bottoms);
        assert!(refused(false, 1, &[&[2, 3], &[2, 3]]).contains("at least 3 axes"));
        assert!(refused(false, 1, &[&[2, 3, 4], &[3, 2]]).contains("cont must be 2×3"));
        assert!(refused(false, 1, &[&[2, 3, 4], &[2, 3], &[3]]).contains("constant input"));
        assert!(refused(true, 1, &[&[2, 3, 4], &[2, 3]]).contains("bottom blobs, not 2"));
        let states: &[&[usize]] = &[&[2, 3, 4], &[2, 3], &[1, 3, 1], &[3, 1]];
        assert!(refused(true, 3, states).contains("states must be 1×3×1"));
        let none = refusal::<Lstm>(&LayerParameter::default(), &[&[2, 3, 4], &[2, 3]]);
        assert_eq!(
            none,
            "recurrent_param.num_output: `num_output` must not be 0"
        );
    }
}
