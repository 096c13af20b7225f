//! What RNN and LSTM share: bottoms, tops and state (Caffe `recurrent_layer.cpp`).
//!
//! * bottoms: x `[T, N, …]`, T time steps of N independent streams; cont `[T, N]`, by
//!   which the state from before is multiplied (0: a sequence starts); if it is there, a
//!   constant input `[N, …]`; with `expose_hidden` the first states, `[1, N, D]` each.
//! * tops: outputs `[T, N, D]`; with `expose_hidden` the last states.
//!
//! Without `expose_hidden` a forward pass goes on from where the last one ended; the
//! first starts from 0. D is `num_output`.

use super::Cx;
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};

#[derive(Clone, Debug)]
pub struct Recurrent {
    pub num_output: usize,
    pub expose_hidden: bool,
    /// Blobs of the state.
    pub states: usize,
    /// Whether bottom 2 is a constant input.
    pub constant: bool,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

impl Recurrent {
    /// A layer whose state has so many blobs. `debug_info` only makes Caffe print.
    pub fn from_param(param: &LayerParameter, states: usize, cx: &Cx) -> Result<Self> {
        let p = param.recurrent_param.clone().unwrap_or_default();
        let exposed = if p.expose_hidden() { states } else { 0 };
        cx.counts(2 + exposed..=3 + exposed, 1 + exposed..=1 + exposed)?;
        cx.not_in_place()?;
        Ok(Recurrent {
            num_output: cx.positive("recurrent_param.num_output", p.num_output())?,
            expose_hidden: p.expose_hidden(),
            states,
            constant: cx.bottoms == 3 + exposed,
            weight_filler: p.weight_filler.unwrap_or_default(),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    pub fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let x = &bottoms[0];
        let wrong = |message: String| Err(cx.invalid("bottom", message).into());
        let [steps, streams, _, ..] = x[..] else {
            return wrong(format!("x must have at least 3 axes, it is {x}"));
        };
        if bottoms[1][..] != [steps, streams] {
            let cont = &bottoms[1];
            return wrong(format!(
                "cont must be {steps}×{streams} for x of {x}, it is {cont}"
            ));
        }
        let constant = self.constant.then(|| &bottoms[2]);
        if let Some(constant) = constant.filter(|c| c.len() < 2 || c[0] != streams) {
            return wrong(format!(
                "the constant input must have {streams} streams and 2 axes or more, it is {constant}"
            ));
        }
        let output = Shape::new([steps, streams, self.num_output]);
        let output = cx.locate("recurrent_param.num_output", output)?;
        let state = Shape::new([1, streams, self.num_output])?;
        let mut tops = vec![output];
        if self.expose_hidden {
            let first = 2 + usize::from(self.constant);
            if let Some(other) = bottoms[first..].iter().find(|&b| *b != state) {
                return wrong(format!("states must be {state}, one is {other}"));
            }
            tops.extend(vec![state; self.states]);
        }
        Ok(tops)
    }

    /// Weights of x, their bias, weights of the constant input and weights of the last
    /// output, for `units` sums.
    pub fn params(&self, bottoms: &[Shape], units: usize) -> Result<Vec<ParamSpec>> {
        let inputs = |bottom: &Shape, first| bottom.count_of(first..bottom.len());
        let mut specs = vec![
            self.weights(units, inputs(&bottoms[0], 2))?,
            self.bias(units)?,
        ];
        if self.constant {
            specs.push(self.weights(units, inputs(&bottoms[2], 1))?);
        }
        specs.push(self.weights(units, self.num_output)?);
        Ok(specs)
    }

    pub fn weights(&self, outputs: usize, inputs: usize) -> Result<ParamSpec> {
        Ok(ParamSpec {
            shape: Shape::new([outputs, inputs])?,
            filler: self.weight_filler.clone(),
        })
    }

    pub fn bias(&self, outputs: usize) -> Result<ParamSpec> {
        Ok(ParamSpec {
            shape: Shape::new([outputs])?,
            filler: self.bias_filler.clone(),
        })
    }

    /// What the layer keeps between forward passes.
    pub fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
        let kept = if self.expose_hidden { 0 } else { self.states };
        let state = Shape::new([1, bottoms[0][1], self.num_output]);
        vec![state.unwrap_or_default(); kept]
    }

    /// Constants of the routines: steps, streams, D, whether there is a constant input,
    /// and whether states are bottoms and tops.
    pub fn sizes(&self, bottoms: &[Shape]) -> Vec<usize> {
        vec![
            bottoms[0][0],
            bottoms[0][1],
            self.num_output,
            usize::from(self.constant),
            usize::from(self.expose_hidden),
        ]
    }
}

// Under these names routines find them here and in emitted source.
pub(super) use routine::{Bottoms, product};

/// Pasted into emitted source.
pub mod routine {
    /// The bottoms and parameters of a recurrent layer.
    pub struct Bottoms<'a> {
        pub x: &'a [f32],
        pub cont: &'a [f32],
        pub constant: Option<&'a [f32]>,
        /// First states, where they are bottoms.
        pub states: &'a [&'a [f32]],
        pub params: &'a [&'a [f32]],
    }

    impl<'a> Bottoms<'a> {
        /// `states` is how many states the layer has.
        pub fn new(bottoms: &'a [&'a [f32]], sizes: &[usize], states: usize) -> Bottoms<'a> {
            let (constant, exposed) = (sizes[3] == 1, sizes[4] == 1);
            let (own, rest) = bottoms.split_at(2 + usize::from(constant));
            let (states, params) = rest.split_at(if exposed { states } else { 0 });
            Bottoms {
                x: own[0],
                cont: own[1],
                constant: own.get(2).copied(),
                states,
                params,
            }
        }

        /// For each of `units` sums what x and the constant input of a stream give to it
        /// in a step.
        pub fn inputs(
            &self,
            units: usize,
            step: usize,
            stream: usize,
            sizes: &[usize],
        ) -> Vec<f64> {
            let streams = sizes[1];
            let x = part(self.x, step * streams + stream, sizes[0] * streams);
            let mut sums = product(self.params[0], x, units);
            for (sum, &bias) in sums.iter_mut().zip(self.params[1]) {
                *sum += f64::from(bias);
            }
            if let Some(constant) = self.constant {
                let more = product(self.params[2], part(constant, stream, streams), units);
                for (sum, more) in sums.iter_mut().zip(more) {
                    *sum += more;
                }
            }
            sums
        }
    }

    // Part i of n equal ones.
    fn part(blob: &[f32], i: usize, n: usize) -> &[f32] {
        let len = blob.len() / n;
        &blob[i * len..][..len]
    }

    /// `weights · x`, with weights `[units, x.len()]`.
    pub fn product(weights: &[f32], x: &[f32], units: usize) -> Vec<f64> {
        let rows = weights.chunks(weights.len() / units);
        let dot = |row: &[f32]| {
            let products = row.iter().zip(x);
            products.map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
        };
        rows.map(dot).collect()
    }
}
