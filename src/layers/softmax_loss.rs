//! `SoftmaxWithLoss`: mean of −log of the true class's softmax probability (Caffe
//! `softmax_loss_layer.cpp`).
//!
//! * bottoms: scores, and labels, one for each place of the other axes.
//! * top: a scalar. `loss_weight` does not scale it.
//!
//! Probabilities count as at least the smallest normal f32; the divisor is at least 1.
//! A label outside the classes, which Caffe does not check, gives NaN here.

use super::accuracy::{items_of, labelled};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::loss_parameter::NormalizationMode;
use crate::frontend::proto::{LayerParameter, LossParameter};
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct SoftmaxWithLoss {
    pub axis: i32,
    pub ignore_label: Option<i32>,
    pub normalization: NormalizationMode,
}

impl Layer for SoftmaxWithLoss {
    /// Errors: `Invalid` with a second top: Caffe documents it (probabilities), but
    /// its own checks of `loss_weight` cannot be met with it.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=2)?;
        if cx.tops == 2 {
            let message = "Caffe refuses a second top here, whatever loss_weight says";
            let d = cx.invalid("top", message);
            return Err(d.help("add a Softmax layer for the probabilities").into());
        }
        cx.not_in_place()?;
        let loss = param.loss_param.clone().unwrap_or_default();
        Ok(SoftmaxWithLoss {
            axis: param.softmax_param.clone().unwrap_or_default().axis(),
            ignore_label: loss.ignore_label,
            normalization: normalization(&loss),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        labelled(bottoms, self.axis, "softmax_param", cx)?;
        let (scores, labels) = (&bottoms[0], &bottoms[1]);
        if scores.first() != labels.first() {
            let message = format!("scores of {scores} and labels of {labels} differ on axis 0");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let shape = &bottoms[0].shape;
        let outer = shape.count_of(0..super::concat::axis_of(self.axis, shape));
        let (mut loss, mut counted) = (0.0, 0usize);
        for (label, scores) in items_of(bottoms, self.axis) {
            if self.ignore_label == Some(label) {
                continue;
            }
            counted += 1;
            loss -= log_probability(&scores, label);
        }
        let divisor = match self.normalization {
            NormalizationMode::Full => bottoms[1].data.len(),
            NormalizationMode::Valid => counted,
            NormalizationMode::BatchSize => outer,
            NormalizationMode::None => 1,
        };
        for top in tops {
            top.data[0] = (loss / divisor.max(1) as f64) as f32;
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = super::concat::axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::softmax_loss(b, node, self, axis)
    }
}

/// `normalization`, or what the older `normalize` says.
fn normalization(loss: &LossParameter) -> NormalizationMode {
    match (loss.normalization, loss.normalize) {
        (None, Some(true)) => NormalizationMode::Valid,
        (None, Some(false)) => NormalizationMode::BatchSize,
        _ => loss.normalization(),
    }
}

fn log_probability(scores: &[f32], label: i32) -> f64 {
    let truth = usize::try_from(label).ok().and_then(|l| scores.get(l));
    let Some(&truth) = truth else {
        return f64::NAN;
    };
    let max = scores
        .iter()
        .fold(f32::MIN, |m, &s| if m < s { s } else { m });
    let exp = |s: f32| f64::from(s - max).exp();
    let sum: f64 = scores.iter().map(|&s| exp(s)).sum();
    let probability = exp(truth) / sum;
    let floor = f64::from(f32::MIN_POSITIVE);
    // Written so that NaN stays NaN.
    if probability < floor {
        floor
    } else {
        probability
    }
    .ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_item_by_hand() {
        assert!((log_probability(&[0.0, 0.0], 1) - 0.5f64.ln()).abs() < 1e-12);
        assert_eq!(
            log_probability(&[0.0, 1e4], 0),
            f64::from(f32::MIN_POSITIVE).ln()
        );
        assert!(log_probability(&[0.0, 0.0], 2).is_nan());
        assert!(log_probability(&[0.0, 0.0], -1).is_nan());
    }
}
