//! `LSTMUnit`: one step of an LSTM's memory, which Caffe's LSTM is made of (Caffe
//! `lstm_unit_layer.cpp`).
//!
//! * bottoms: c of the step before `[1, N, D]`; sums of the gates i, f, o, g `[1, N, 4D]`;
//!   cont `[1, N]`.
//! * tops: `c = cont·σ(f)·c + σ(i)·tanh(g)`, `h = σ(o)·tanh(c)`; both `[1, N, D]`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct LstmUnit;

impl Layer for LstmUnit {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=3, 2..=2)?;
        cx.not_in_place()?;
        Ok(LstmUnit)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (c, gates, cont) = (&bottoms[0], &bottoms[1], &bottoms[2]);
        let fits = match (&c[..], &gates[..], &cont[..]) {
            (&[1, n, d], &[1, same, units], &[1, too]) => {
                n == same && n == too && d.checked_mul(4) == Some(units)
            }
            _ => false,
        };
        if !fits {
            let message =
                format!("bottoms must be 1×N×D, 1×N×4D and 1×N, not {c}, {gates} and {cont}");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![c.clone(); 2])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![bottoms[0][2]];
        Some(Call::new(routine!("lstm_unit"), sizes, vec![]))
    }
}

// Under this name LSTM's routine finds it here and in emitted source.
pub(super) use routine::unit;

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let d = sizes[0];
        for i in 0..bottoms[0].len() {
            let sums = &bottoms[1][i / d * 4 * d..];
            let gates = [0, 1, 2, 3].map(|gate| f64::from(sums[gate * d + i % d]));
            [tops[0][i], tops[1][i]] = unit(gates, bottoms[2][i / d], bottoms[0][i]);
        }
    }

    // c and h after a step.
    pub fn unit(gates: [f64; 4], cont: f32, c: f32) -> [f32; 2] {
        let [i, f, o, g] = gates;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let forget = if cont == 0.0 {
            0.0
        } else {
            f64::from(cont) * sigmoid(f)
        };
        let c = forget * f64::from(c) + sigmoid(i) * g.tanh();
        [c as f32, (sigmoid(o) * c.tanh()) as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;

    #[test]
    fn one_step() {
        let param = LayerParameter {
            top: vec!["c".into(), "h".into()],
            ..LayerParameter::default()
        };
        let c = tensor(&[1, 2, 2], [4., -2., 8., 3.]);
        // σ(0) = ½, σ(large) = 1; unit 1 of a stream has g = 0.
        let gates = [
            0., 0., 0., 0., 0., 99., 1., 0., 0., 0., 0., 0., 0., 0., 9., 9.,
        ];
        let cont = tensor(&[1, 2], [0.5, 0.]);
        let bottoms = [c, tensor(&[1, 2, 8], gates), cont];
        let y = forward::<LstmUnit>(&param, &bottoms, &[]);
        let first = 1. + 0.5 * 1f32.tanh();
        let want = [first, -0.5, 0.5, 0.5];
        assert_close(&y[0].data, &want, 1e-6);
        let h = [0.5, 1., 0.5, 0.5];
        let want: Vec<f32> = want.iter().zip(h).map(|(c, o)| o * c.tanh()).collect();
        assert_close(&y[1].data, &want, 1e-6);
    }

    #[test]
    fn shapes() {
        let param = LayerParameter {
            top: vec!["c".into(), "h".into()],
            ..LayerParameter::default()
        };
        let wrong: [[&[usize]; 3]; 3] = [
            [&[2, 3, 4], &[2, 3, 16], &[2, 3]],
            [&[1, 3, 4], &[1, 3, 12], &[1, 3]],
            [&[1, 3, 4], &[1, 3, 16], &[3]],
        ];
        for bottoms in wrong {
            let got = refusal::<LstmUnit>(&param, &bottoms);
            assert!(got.starts_with("bottom: bottoms must be 1×N×D"), "{got}");
        }
    }
}
