//! `HingeLoss`: `Σ max(0, 1 ∓ x) / N`, minus for the true class, or the sum of the
//! squares (Caffe `hinge_loss_layer.cpp`).
//!
//! * bottoms: scores `[N, …]`, and labels, the first N of which count.
//! * top: a scalar.
//!
//! A score that is NaN counts 0, as in Caffe. A label outside the classes, which Caffe
//! does not check, gives NaN here.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::hinge_loss_parameter::Norm;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct HingeLoss {
    pub norm: Norm,
}

impl Layer for HingeLoss {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=1)?;
        cx.not_in_place()?;
        let norm = param.hinge_loss_param.clone().unwrap_or_default().norm();
        Ok(HingeLoss { norm })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let squares = usize::from(self.norm == Norm::L2);
        let sizes = vec![bottoms[0][0], squares];
        Some(Call::new(routine!("hinge_loss", "loss"), sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::loss::class;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (items, squares) = (sizes[0], sizes[1] == 1);
        let classes = bottoms[0].len() / items;
        let mut sum = 0.0;
        for (scores, &label) in bottoms[0].chunks(classes).zip(bottoms[1]) {
            let truth = class(label, classes);
            if truth.is_none() {
                sum = f64::NAN;
            }
            for (i, &score) in scores.iter().enumerate() {
                let score = f64::from(score);
                let margin = 1.0 + if Some(i) == truth { -score } else { score };
                let margin = if margin > 0.0 { margin } else { 0.0 };
                sum += if squares { margin * margin } else { margin };
            }
        }
        for top in tops {
            top[0] = (sum / items as f64) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::HingeLossParameter;

    fn run(norm: Norm, scores: [f32; 6], labels: [f32; 2]) -> f32 {
        let param = LayerParameter {
            hinge_loss_param: Some(
                HingeLossParameter {
                    norm: Some(norm.into()),
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let bottoms = [tensor(&[2, 3], scores), tensor(&[2], labels)];
        forward::<HingeLoss>(&param, &bottoms, &[]).remove(0).data[0]
    }

    #[test]
    fn values() {
        // Margins: 0.5, 0, 3 and 1, 3, 0.
        let scores = [0.5, -1.5, 2., 0., -2., -1.];
        assert_eq!(run(Norm::L1, scores, [0., 1.]), 7.5 / 2.);
        assert_eq!(run(Norm::L2, scores, [0., 1.]), 19.25 / 2.);
        assert!(run(Norm::L1, scores, [0., 3.]).is_nan());
        assert_eq!(run(Norm::L1, [f32::NAN; 6], [0., 0.]), 0.);
    }

    #[test]
    fn as_many_labels_as_items() {
        let got = refusal::<HingeLoss>(&LayerParameter::default(), &[&[2, 3], &[3]]);
        assert!(got.starts_with("bottom: "));
    }
}
