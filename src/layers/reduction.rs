//! `Reduction`: sum, sum of magnitudes, sum of squares or mean over all axes from `axis`
//! on, times `coeff` (Caffe `reduction_layer.cpp`).
//!
//! * top: the axes before `axis`; a scalar if there is none.

use super::concat::axis_of;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::reduction_parameter::ReductionOp;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Reduction {
    pub operation: ReductionOp,
    pub axis: i32,
    pub coeff: f32,
}

impl Layer for Reduction {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.reduction_param.clone().unwrap_or_default();
        Ok(Reduction {
            operation: p.operation(),
            axis: p.axis(),
            coeff: p.coeff(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("reduction_param.axis", bottoms[0].axis(self.axis))?;
        Ok(vec![Shape::new(&bottoms[0][..axis])?])
    }

    /// One call for each element of the first axis that stays.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let axis = axis_of(self.axis, &bottoms[0]);
        let sizes = vec![self.operation as usize];
        let call = Call::new(routine!("reduction"), sizes, vec![self.coeff]);
        Some(call.cut(bottoms[0].count_of(0..axis.min(1))))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let reduced = bottoms[0].len() / tops[0].len();
        let term = |x: &f32| {
            let x = f64::from(*x);
            match sizes[0] {
                2 => x.abs(),
                3 => x * x,
                _ => x,
            }
        };
        let divisor = if sizes[0] == 4 { reduced as f64 } else { 1.0 };
        for (y, values_of) in tops[0].iter_mut().zip(bottoms[0].chunks(reduced)) {
            let sum: f64 = values_of.iter().map(term).sum();
            *y = (f64::from(values[0]) * sum / divisor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::ReductionParameter;

    fn param(operation: ReductionOp, axis: i32, coeff: f32) -> LayerParameter {
        LayerParameter {
            reduction_param: Some(
                ReductionParameter {
                    operation: Some(operation.into()),
                    axis: Some(axis),
                    coeff: Some(coeff),
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_four_operations() {
        let x = tensor(&[2, 1, 2], [1., -2., 3., 0.5]);
        let run = |op, axis, coeff| {
            let y = forward::<Reduction>(&param(op, axis, coeff), &[&x], &[]);
            y[0].data.clone()
        };
        assert_eq!(run(ReductionOp::Sum, 0, 1.), [2.5]);
        assert_eq!(run(ReductionOp::Sum, 1, 2.), [-2., 7.]);
        assert_eq!(run(ReductionOp::Asum, -1, 1.), [3., 3.5]);
        assert_eq!(run(ReductionOp::Sumsq, 0, 1.), [14.25]);
        assert_eq!(run(ReductionOp::Mean, 2, -1.), [0.5, -1.75]);
    }

    #[test]
    fn shapes() {
        let over = |axis| param(ReductionOp::Sum, axis, 1.);
        assert_eq!(tops::<Reduction>(&over(2), &[&[2, 3, 4, 5]]), [[2, 3]]);
        assert_eq!(tops::<Reduction>(&over(0), &[&[2]]), [[0usize; 0]]);
        let got = refusal::<Reduction>(&over(0), &[&[]]);
        assert!(got.starts_with("reduction_param.axis: "), "{got}");
    }
}
