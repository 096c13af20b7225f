//! `SSDDecoder` of Synopsys' fork: the boxes of SSD's locations, without scores.
//!
//! * bottoms: locations `1 × (P·4)`; priors `1 × 2 × (P·4)`, boxes and then variances.
//! * top `1 × 1 × P × 4`: corners.
//!
//! `detection_output_param` is that of a DetectionOutput, of which `code_type` and
//! `variance_encoded_in_target` count. A prior without extent is an error where sizes
//! count, found when the net runs.

use super::detection_output::routine as detection_output;
use super::detection_output::{DetectionOutput, FLAT};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct SsdDecoder {
    of: DetectionOutput,
}

impl Layer for SsdDecoder {
    fn claims() -> &'static [&'static str] {
        &["detection_output_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        let of = DetectionOutput::read(param, cx)?.shared(cx)?;
        Ok(SsdDecoder { of })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let priors = bottoms[1].get(2).map_or(0, |values| values / 4);
        for (i, wanted) in [[1, 4 * priors, 1, 1], [1, 2, 4 * priors, 1]]
            .iter()
            .enumerate()
        {
            if bottoms[i].nchw().as_ref() != Some(wanted) {
                let message = format!(
                    "locations {} and priors {} do not go together",
                    bottoms[0], bottoms[1]
                );
                return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
            }
        }
        Ok(vec![cx.locate("bottom", Shape::new([1, 1, priors, 4]))?])
    }

    fn routine(&self, _bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let (sizes, values) = self.of.constants(1, tops[0][2]);
        let routine = routine!("ssd_decoder", "detection_output", "boxes", "math");
        Some(Call::new(routine, sizes, values).faults(FLAT))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::detection_output::{decode, has_extent};

    /// `sizes` are those of a DetectionOutput.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (code, encoded) = (sizes[5], sizes[6] == 1);
        let (priors, variances) = bottoms[1].split_at(bottoms[1].len() / 2);
        let mut flat = false;
        for (i, corners) in tops[0].chunks_exact_mut(4).enumerate() {
            let four = |values: &[f32]| [0, 1, 2, 3].map(|k| values[4 * i + k]);
            let prior = four(priors);
            let variance = if encoded { [1.0; 4] } else { four(variances) };
            flat |= code != 1 && !has_extent(&prior);
            corners.copy_from_slice(&decode(code, &prior, &variance, &bottoms[0][4 * i..]));
        }
        tops[1][0] = f32::from(flat);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DetectionOutputParameter;
    use crate::frontend::proto::prior_box_parameter::CodeType;
    use crate::ir::Tensor;

    fn param(share: bool) -> LayerParameter {
        let p = DetectionOutputParameter {
            num_classes: Some(2),
            share_location: Some(share),
            code_type: Some(CodeType::CenterSize.into()),
            ..DetectionOutputParameter::default()
        };
        LayerParameter {
            detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn boxes_of_locations() {
        let prior = [
            1., 2., 3., 6., 0., 0., 2., 2., 0.5, 0.5, 0.5, 0.5, 1., 1., 1., 1.,
        ];
        let bottoms = [
            tensor(&[1, 8], [1., -1., 0., 0., 1., 0., 0., 0.]),
            tensor(&[1, 2, 8], prior),
        ];
        let y = forward::<SsdDecoder>(&param(true), &bottoms, &[]);
        assert_eq!(
            y[0],
            tensor(&[1, 1, 2, 4], [2., 0., 4., 4., 2., 0., 4., 2.])
        );
    }

    #[test]
    fn a_prior_without_extent() {
        let (layer, tops) = infer::<SsdDecoder>(&param(true), &[&[1, 4], &[1, 2, 4]]).unwrap();
        let bottoms = [tensor(&[1, 4], [0.; 4]), tensor(&[1, 2, 4], [1.; 8])];
        let mut tops: Vec<Tensor> = tops.into_iter().map(Tensor::zeros).collect();
        let bottoms: Vec<&Tensor> = bottoms.iter().collect();
        assert_eq!(
            layer.checked_reference(&bottoms, &[], &mut tops),
            Err(FLAT[0])
        );
    }

    #[test]
    fn refusals() {
        let got = refusal::<SsdDecoder>(&param(false), &[&[1, 8], &[1, 2, 4]]);
        assert!(
            got.starts_with("detection_output_param.share_location: "),
            "{got}"
        );
        for (shapes, field) in [
            ([&[2, 4][..], &[1, 2, 4]], "bottom[0]"),
            ([&[1, 8], &[1, 2, 4]], "bottom[0]"),
            ([&[1, 4], &[1, 1, 4]], "bottom[1]"),
        ] {
            let got = refusal::<SsdDecoder>(&param(true), &shapes);
            assert!(got.starts_with(field), "{got}");
        }
    }
}
