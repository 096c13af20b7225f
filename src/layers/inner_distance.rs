//! `InnerDistance` of forks: the distance of each row of the bottom to each row of the
//! weights, the sum of squared (L2) or absolute (L1) differences. No bias.
//!
//! * bottom: `[outer…, inner…]`, split before `axis`; K is the product of `inner`.
//! * top: `[outer…, num_output]`. Blob: weights `[num_output, K]`; with `normalize` their
//!   rows count as divided by `sqrt(Σw² + 1e-6)`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct InnerDistance {
    pub num_output: usize,
    pub axis: i32,
    pub absolute: bool,
    pub normalize: bool,
    pub weight_filler: FillerParameter,
}

impl Layer for InnerDistance {
    fn claims() -> &'static [&'static str] {
        &["inner_distance_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.inner_distance_param.clone().unwrap_or_default();
        if p.transpose() {
            let message = "weights stored inputs × outputs";
            return Err(cx
                .unsupported("inner_distance_param.transpose", message)
                .into());
        }
        let absolute = match p.distance_type() {
            "L2" => false,
            "L1" => true,
            other => {
                let message = format!("must be L2 or L1, not `{other}`");
                return Err(cx
                    .invalid("inner_distance_param.distance_type", message)
                    .into());
            }
        };
        Ok(InnerDistance {
            num_output: cx.positive("inner_distance_param.num_output", p.num_output())?,
            axis: p.axis(),
            absolute,
            normalize: p.normalize(),
            weight_filler: p.weight_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("inner_distance_param.axis", bottoms[0].axis(self.axis))?;
        let mut dims = bottoms[0][..axis].to_vec();
        dims.push(self.num_output);
        let top = Shape::new(dims);
        Ok(vec![cx.locate("inner_distance_param.num_output", top)?])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let axis = super::concat::axis_of(self.axis, &bottoms[0]);
        let k = bottoms[0].count_of(axis..bottoms[0].len());
        super::weights_and_bias(vec![self.num_output, k], &self.weight_filler, None)
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [absolute, normalize] = [self.absolute, self.normalize].map(usize::from);
        let sizes = vec![self.num_output, absolute, normalize];
        Some(Call::new(routine!("inner_distance"), sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (outputs, absolute, normalize) = (sizes[0], sizes[1] == 1, sizes[2] == 1);
        let k = bottoms[1].len() / outputs;
        let rows = tops[0].chunks_mut(outputs).zip(bottoms[0].chunks(k));
        for (y, x) in rows {
            for (y, weights) in y.iter_mut().zip(bottoms[1].chunks(k)) {
                let squares = weights.iter().map(|&w| f64::from(w).powi(2));
                let norm = match normalize {
                    true => (squares.sum::<f64>() + 1e-6).sqrt(),
                    false => 1.0,
                };
                let difference = |(&x, &w): (&f32, &f32)| f64::from(x) - f64::from(w) / norm;
                let differences = x.iter().zip(weights).map(difference);
                let distance: f64 = match absolute {
                    true => differences.map(f64::abs).sum(),
                    false => differences.map(|d| d * d).sum(),
                };
                *y = distance as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::InnerDistanceParameter;

    #[test]
    fn values() {
        let run = |distance: &str, normalize| {
            let param = LayerParameter {
                inner_distance_param: Some(Box::new(InnerDistanceParameter {
                    num_output: Some(2),
                    distance_type: Some(distance.into()),
                    normalize: Some(normalize),
                    ..InnerDistanceParameter::default()
                })),
                ..LayerParameter::default()
            };
            let x = tensor(&[1, 2], [1., 2.]);
            let weights = tensor(&[2, 2], [3., 4., 0., -2.]);
            forward::<InnerDistance>(&param, &[x], &[weights])
                .remove(0)
                .data
        };
        assert_eq!(run("L2", false), [8., 17.]);
        assert_eq!(run("L1", false), [4., 5.]);
        assert_close(&run("L2", true), &[0.16 + 1.44, 10.], 1e-5);
    }
}
