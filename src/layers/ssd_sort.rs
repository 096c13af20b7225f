//! `SSDSort` of Synopsys' fork: what a DetectionOutput does after its boxes are made.
//!
//! * bottoms: corners `1 × 1 × P × 4`; scores `1 × (P·C)`.
//! * top `1 × 1 × K × 7`: image, label, score, corners; by label, score. Where nothing is
//!   found, one row −1.

use super::detection_output::DetectionOutput;
use super::detection_output::routine as detection_output;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct SsdSort {
    of: DetectionOutput,
}

impl Layer for SsdSort {
    fn claims() -> &'static [&'static str] {
        &[
            "detection_output_param",
            "detection_output_param.nms_threshold",
            "detection_output_param.top_k",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        let of = DetectionOutput::read(param, cx)?.shared(cx)?;
        Ok(SsdSort { of })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let Some([1, 1, priors, 4]) = bottoms[0].nchw() else {
            let message = format!("must be 1 × 1 × P × 4, not {}", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        if bottoms[1].nchw() != Some([1, priors * self.of.classes(), 1, 1]) {
            let message = format!(
                "{} instead of {} scores for each of {priors} boxes",
                bottoms[1],
                self.of.classes()
            );
            return Err(cx.invalid("bottom[1]", message).into());
        }
        Ok(vec![self.of.top(1, priors, cx)?])
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let (sizes, values) = self.of.constants(1, bottoms[0][2]);
        let routine = routine!("ssd_sort", "detection_output", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::detection_output::detect;

    /// The boxes are corners of priors at 0, with the variances in them.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let priors = vec![0.0; 2 * bottoms[0].len()];
        let mut sizes = sizes.to_vec();
        [sizes[5], sizes[6], sizes[9]] = [1, 1, 3];
        let [found, count] = tops else { return };
        let mut flat = [0.0];
        let mut tops = [&mut **found, &mut **count, &mut flat];
        detect(
            &[bottoms[0], bottoms[1], &priors],
            &mut tops,
            &sizes,
            values,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DetectionOutputParameter;

    fn param() -> LayerParameter {
        let p = DetectionOutputParameter {
            num_classes: Some(2),
            confidence_threshold: Some(0.25),
            ..DetectionOutputParameter::default()
        };
        LayerParameter {
            detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_best_of_those_that_overlap() {
        let corners = [
            0., 0., 2., 2., 0., 1., 2., 3., 5., 5., 6., 6., 7., 7., 8., 8.,
        ];
        let scores = |two| tensor(&[1, 8], [9., 0.5, 9., two, 9., 0.1, 9., 0.3]);
        let boxes = tensor(&[1, 1, 4, 4], corners);
        let y = forward_counted::<SsdSort>(&param(), &[boxes.clone(), scores(0.75)]);
        let want = [0., 1., 0.75, 0., 1., 2., 3., 0., 1., 0.3, 7., 7., 8., 8.];
        assert_eq!(y[0].data, want);
        let none = tensor(&[1, 8], [0.; 8]);
        let y = forward_counted::<SsdSort>(&param(), &[boxes, none]);
        assert_eq!(y[0].data, [0., -1., -1., -1., -1., -1., -1.]);
    }

    #[test]
    fn refusals() {
        for (shapes, field) in [
            ([&[1, 1, 4, 5][..], &[1, 8]], "bottom[0]"),
            ([&[1, 1, 4, 4], &[1, 7]], "bottom[1]"),
            ([&[1, 1, 4, 4], &[2, 4]], "bottom[1]"),
        ] {
            let got = refusal::<SsdSort>(&param(), &shapes);
            assert!(got.starts_with(field), "{got}");
        }
    }
}
