//! `SigmoidCrossEntropyLoss`: `−t·ln σ(x) − (1 − t)·ln(1 − σ(x))`, summed (Caffe
//! `sigmoid_cross_entropy_loss_layer.cpp`).
//!
//! * bottoms: scores and targets, `[N, …]`, with as many values.
//! * top: a scalar, by default divided by N.
//!
//! Each element is computed as `ln(1 + e^−|x|) − x·(t − [x ≥ 0])`, which does not
//! overflow. Targets whose integer part is `ignore_label` do not count.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::loss_parameter::NormalizationMode;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct SigmoidCrossEntropyLoss {
    pub ignore_label: Option<i32>,
    pub normalization: NormalizationMode,
}

impl Layer for SigmoidCrossEntropyLoss {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=1)?;
        cx.not_in_place()?;
        let p = param.loss_param.clone().unwrap_or_default();
        Ok(SigmoidCrossEntropyLoss {
            ignore_label: p.ignore_label,
            normalization: loss::normalization(&p, NormalizationMode::BatchSize),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        let (scores, targets) = (&bottoms[0], &bottoms[1]);
        if scores.count() != targets.count() {
            let message = format!("scores of {scores} and targets of {targets} differ in size");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let mut sizes = vec![bottoms[0][0]];
        sizes.extend(loss::sizes(self.ignore_label, self.normalization));
        let routine = routine!("sigmoid_cross_entropy_loss", "loss");
        Some(Call::new(routine, sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::loss::{divisor, ignored};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (mut sum, mut valid) = (0.0, 0);
        for (&score, &target) in bottoms[0].iter().zip(bottoms[1]) {
            if ignored(target, &sizes[1..]) {
                continue;
            }
            valid += 1;
            let (x, t) = (f64::from(score), f64::from(target));
            let positive = if x >= 0.0 { 1.0 } else { 0.0 };
            sum += (1.0 + (x - 2.0 * x * positive).exp()).ln() - x * (t - positive);
        }
        let divisor = divisor(&sizes[1..], bottoms[0].len(), valid, sizes[0]);
        for top in tops {
            top[0] = (sum / divisor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LossParameter;

    fn run(loss: LossParameter) -> Vec<f32> {
        let param = LayerParameter {
            loss_param: Some(loss.into()),
            ..LayerParameter::default()
        };
        let scores = tensor(&[2, 2], [0., 1000., -1000., 0.]);
        let targets = tensor(&[2, 2, 1], [0.5, 0.25, 1., 7.]);
        forward::<SigmoidCrossEntropyLoss>(&param, &[scores, targets], &[])
            .remove(0)
            .data
    }

    #[test]
    fn values() {
        // ln 2, 750, 1000 and ln 2.
        let ln2 = std::f32::consts::LN_2;
        assert_close(&run(LossParameter::default()), &[875. + ln2], 1e-7);
        let valid = LossParameter {
            ignore_label: Some(7),
            normalization: Some(NormalizationMode::Valid.into()),
            ..LossParameter::default()
        };
        assert_close(&run(valid), &[(1750. + ln2) / 3.], 1e-7);
    }

    #[test]
    fn as_many_targets_as_scores() {
        let param = LayerParameter::default();
        let got = refusal::<SigmoidCrossEntropyLoss>(&param, &[&[2, 3], &[2]]);
        assert!(got.starts_with("bottom: scores of 2×3"), "{got}");
    }
}
