//! `InfogainLoss`: SoftmaxWithLoss in which each pair of true and other class has a
//! weight (Caffe `infogain_loss_layer.cpp`).
//!
//! * bottoms: scores, labels, one for each place of the other axes, and the matrix H of
//!   classes × classes weights, unless it is in the file `source`.
//! * tops: a scalar, `−Σ H[label][c] · ln p[c]` over places and classes, divided as
//!   `loss_param` says; and the softmax probabilities p.
//!
//! Probabilities count as at least 1e-20. A label outside the classes, which Caffe does
//! not check, gives NaN here.

use super::accuracy::labelled;
use super::concat::axis_of;
use super::{Cx, Layer, loss};
use crate::diag::{Diagnostic, Kind, Result};
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::loss_parameter::NormalizationMode;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct InfogainLoss {
    pub axis: i32,
    pub ignore_label: Option<i32>,
    pub normalization: NormalizationMode,
    /// Of the file, where no bottom is the matrix.
    pub matrix: Vec<f32>,
}

impl Layer for InfogainLoss {
    /// Errors: `Invalid` for two tops without a `loss_weight` each, which Caffe asks for;
    /// `Open` if nobody has read the file.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=3, 0..=2)?;
        cx.not_in_place()?;
        if cx.tops == 2 && param.loss_weight.is_empty() {
            let message = "two tops need a loss_weight each";
            let d = cx.invalid("top", message);
            return Err(d.help("loss_weight: 1 loss_weight: 0").into());
        }
        let p = param.infogain_loss_param.clone().unwrap_or_default();
        let matrix = match (cx.bottoms, &p.source, cx.file) {
            (3, ..) => Vec::new(),
            (_, Some(_), Some(file)) => file.to_vec(),
            (_, Some(source), None) => {
                let message = format!("the matrix `{source}` is not there");
                let at = (cx.span)("infogain_loss_param.source");
                let d = Diagnostic::new(Kind::Open, message).at(at).layer(cx.name);
                let places = "it is looked for from the net's folder, from here and from the folders above the net";
                return Err(d.help(places).into());
            }
            (_, None, _) => {
                let d = cx.invalid("infogain_loss_param", "no matrix: `source` is missing");
                return Err(d.help("a third bottom can be the matrix").into());
            }
        };
        let loss = param.loss_param.clone().unwrap_or_default();
        Ok(InfogainLoss {
            axis: p.axis(),
            ignore_label: loss.ignore_label,
            normalization: loss::normalization(&loss, NormalizationMode::Valid),
            matrix,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let classes = labelled(bottoms, self.axis, "infogain_loss_param", cx)?;
        loss::items(bottoms, cx)?;
        let (field, values, found) = match bottoms.get(2) {
            Some(matrix) => ("bottom", matrix.count(), matrix.to_string()),
            None => {
                let values = self.matrix.len();
                (
                    "infogain_loss_param.source",
                    values,
                    format!("of {values} values"),
                )
            }
        };
        if classes.checked_mul(classes) != Some(values) {
            let message = format!("the matrix must be {classes}×{classes}, it is {found}");
            return Err(cx.invalid(field, message).into());
        }
        let tops = [Shape::default(), bottoms[0].clone()];
        Ok(tops[..cx.tops].to_vec())
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let scores = &bottoms[0];
        let axis = axis_of(self.axis, scores);
        let outer = scores.count_of(0..axis);
        let inner = scores.count_of(axis + 1..scores.len());
        let mut sizes = vec![outer, scores[axis], inner];
        sizes.extend(loss::sizes(self.ignore_label, self.normalization));
        let routine = routine!("infogain_loss", "loss");
        Some(Call::new(routine, sizes, self.matrix.clone()))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::loss::{class, divisor, ignored};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let matrix = bottoms.get(2).copied().unwrap_or(values);
        let [outer, classes, inner] = [sizes[0], sizes[1], sizes[2]];
        let (mut sum, mut valid) = (0.0, 0);
        for (place, &label) in bottoms[1].iter().enumerate() {
            let first = place / inner * classes * inner + place % inner;
            let at = |c: usize| first + c * inner;
            let probabilities = softmax((0..classes).map(|c| bottoms[0][at(c)]));
            if let Some(top) = tops.get_mut(1) {
                for (c, &p) in probabilities.iter().enumerate() {
                    top[at(c)] = p as f32;
                }
            }
            if ignored(label, &sizes[3..]) {
                continue;
            }
            valid += 1;
            let Some(truth) = class(label, classes) else {
                sum = f64::NAN;
                continue;
            };
            let gains = &matrix[truth * classes..][..classes];
            for (&p, &gain) in probabilities.iter().zip(gains) {
                let p = if p < 1e-20 { 1e-20 } else { p };
                sum -= f64::from(gain) * p.ln();
            }
        }
        if let Some(top) = tops.first_mut() {
            let divisor = divisor(&sizes[3..], outer * inner, valid, outer);
            top[0] = (sum / divisor) as f32;
        }
    }

    fn softmax(scores: impl Iterator<Item = f32>) -> Vec<f64> {
        let scores: Vec<f32> = scores.collect();
        let larger = |max: f32, &s: &f32| if max < s { s } else { max };
        let max = scores.iter().fold(f32::MIN, larger);
        let mut values: Vec<f64> = scores.iter().map(|&s| f64::from(s - max).exp()).collect();
        let sum: f64 = values.iter().sum();
        for value in &mut values {
            *value /= sum;
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{InfogainLossParameter, LossParameter};

    #[test]
    fn values() {
        let param = LayerParameter {
            top: vec!["loss".into(), "prob".into()],
            loss_weight: vec![1., 0.],
            loss_param: Some(
                LossParameter {
                    ignore_label: Some(1),
                    ..LossParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        // Probabilities ¼ and ¾ of the first place, ½ of the others.
        let ln3 = 3f32.ln();
        let scores = tensor(&[1, 2, 3], [0., 5., 1., ln3, 5., 1.]);
        let matrix = tensor(&[2, 2], [1., 2., 9., 9.]);
        let labels = |second| tensor(&[1, 3], [0., second, 0.5]);
        let bottoms = |second| [scores.clone(), labels(second), matrix.clone()];
        let y = forward::<InfogainLoss>(&param, &bottoms(1.), &[]);
        let first = 4f32.ln() + 2. * (4f32 / 3.).ln();
        assert_close(&y[0].data, &[(first + 3. * 2f32.ln()) / 2.], 1e-6);
        assert_close(&y[1].data, &[0.25, 0.5, 0.5, 0.75, 0.5, 0.5], 1e-7);
        let y = forward::<InfogainLoss>(&param, &bottoms(2.), &[]);
        assert!(y[0].data[0].is_nan());

        // The same matrix from a file.
        let layer = InfogainLoss {
            axis: 1,
            ignore_label: Some(1),
            normalization: NormalizationMode::Valid,
            matrix: matrix.data.clone(),
        };
        let mut tops = [tensor(&[], [0.]), tensor(&[1, 2, 3], [0.; 6])];
        layer.reference(&[&scores, &labels(1.)], &[], &mut tops);
        assert_close(&tops[0].data, &[(first + 3. * 2f32.ln()) / 2.], 1e-6);
    }

    #[test]
    fn bad_parameters() {
        let two: &[&[usize]] = &[&[2, 3], &[2]];
        let got = refusal::<InfogainLoss>(&LayerParameter::default(), two);
        assert!(got.starts_with("infogain_loss_param: no matrix"), "{got}");
        let file = LayerParameter {
            infogain_loss_param: Some(
                InfogainLossParameter {
                    source: Some("h.binaryproto".into()),
                    ..InfogainLossParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let got = refusal::<InfogainLoss>(&file, two);
        assert!(got.starts_with("infogain_loss_param.source: "), "{got}");
        assert!(infer::<InfogainLoss>(&file, &[&[2, 3], &[2], &[1, 1, 3, 3]]).is_ok());
        let got = refusal::<InfogainLoss>(&file, &[&[2, 3], &[2], &[2, 3]]);
        assert_eq!(got, "bottom: the matrix must be 3×3, it is 2×3");
        let tops = LayerParameter {
            top: vec!["loss".into(), "prob".into()],
            ..LayerParameter::default()
        };
        let got = refusal::<InfogainLoss>(&tops, &[&[2, 3], &[2], &[3, 3]]);
        assert!(got.starts_with("top: two tops"), "{got}");
    }
}
