//! `CenterGridOutput`: detections round the cells of square maps (caffe_train
//! `CenterGridDetectionLayer.cpp`, `center_bbox_util.cpp`).
//!
//! * bottoms: 3 to 6 maps `N × (4 + C) × H × W`, with landmarks `N × (14 + C) × H × W`:
//!   corners, landmarks, classes.
//! * top `1 × 1 × K × 7`: image, 1, score, corners; with landmarks `× 17`. Where nothing
//!   is found, a row −1 for each image.
//!
//! The y of landmarks is reckoned from the column, as the fork does. Its layer writes
//! the scores into its bottoms, which here stay as they are.

use super::boxes::routine as boxes;
use super::yolo::routine as yolo;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::center_object_loss_parameter::ClassType;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct CenterGridOutput {
    /// Background and class; else one score.
    softmax: bool,
    landmarks: bool,
    keep_top_k: usize,
    confidence: f32,
    threshold: f32,
    /// Width and height of the picture.
    net: [usize; 2],
    /// Of each bottom.
    scales: Vec<f32>,
}

impl CenterGridOutput {
    fn columns(&self) -> usize {
        if self.landmarks { 17 } else { 7 }
    }

    fn channels(&self) -> usize {
        let places = if self.landmarks { 14 } else { 4 };
        places + if self.softmax { 2 } else { 1 }
    }
}

impl Layer for CenterGridOutput {
    fn claims() -> &'static [&'static str] {
        &[
            "detection_output_param",
            "detection_output_param.net_width",
            "detection_output_param.net_height",
            "detection_output_param.bias_scale",
            "detection_output_param.class_type",
            "detection_output_param.nms_thresh",
            "detection_output_param.has_lm",
        ]
    }

    /// What else DetectionOutput reads, the fork's layer does not.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=6, 1..=1)?;
        cx.not_in_place()?;
        let p = param.detection_output_param.clone().unwrap_or_default();
        let field = |name: &str| format!("detection_output_param.{name}");
        let softmax = p.class_type() == ClassType::Softmax;
        let wanted = if softmax { 2 } else { 1 };
        if p.num_classes != Some(wanted) {
            let message = format!("num_classes must be {wanted} for this class_type");
            return Err(cx.invalid(&field("num_classes"), message).into());
        }
        if p.has_lm() && !softmax {
            let message = "landmarks come with class_type SOFTMAX";
            return Err(cx.invalid(&field("has_lm"), message).into());
        }
        if p.bias_scale.len() != cx.bottoms {
            let message = format!("{} values for {} bottoms", p.bias_scale.len(), cx.bottoms);
            return Err(cx.invalid(&field("bias_scale"), message).into());
        }
        let size = |name: &str, value: i32| cx.positive(&field(name), value.max(0) as u32);
        Ok(CenterGridOutput {
            softmax,
            landmarks: p.has_lm(),
            keep_top_k: usize::try_from(p.keep_top_k())
                .ok()
                .filter(|&k| k > 0)
                .unwrap_or(usize::MAX),
            confidence: p.confidence_threshold.unwrap_or(f32::MIN),
            threshold: p.nms_thresh(),
            net: [
                size("net_width", p.net_width())?,
                size("net_height", p.net_height())?,
            ],
            // An int in the fork.
            scales: p.bias_scale.iter().map(|scale| scale.trunc()).collect(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [images, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        let mut cells = 0usize;
        for (i, bottom) in bottoms.iter().enumerate() {
            let at = format!("bottom[{i}]");
            let [n, channels, height, width] = legacy(bottom, &at, cx)?;
            if n != images || channels != self.channels() || height != width {
                let wanted = self.channels();
                let message =
                    format!("{bottom} instead of {images} square maps of {wanted} channels");
                return Err(cx.invalid(&at, message).into());
            }
            cells = cells.saturating_add(height * width);
        }
        let rows = images.saturating_mul(cells.min(self.keep_top_k).max(1));
        let top = Shape::new([1, 1, rows, self.columns()]);
        Ok(vec![cx.locate("bottom", top)?])
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, ..] = bottoms[0].nchw()?;
        let softmax = usize::from(self.softmax);
        let mut sizes = vec![images, self.columns(), self.keep_top_k, softmax];
        sizes.extend(self.net);
        let mut values = vec![self.confidence, self.threshold];
        values.extend(&self.scales);
        for bottom in bottoms {
            sizes.push(bottom.nchw()?[3]);
        }
        let routine = routine!("center_grid_output", "yolo", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{descending, exceeds, keep, max, min, nothing, ranked_by, write_rows};
    use super::math::exp;
    use super::yolo::sigmoid;

    fn overlap(a: &[f32], b: &[f32]) -> f32 {
        let area = |r: &[f32]| (r[2] - r[0]) * (r[3] - r[1]);
        let along = |i: usize| max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1.0, 0.0);
        let both = along(0) * along(1);
        both / (area(b) + area(a) - both)
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [images, columns, keep_top_k] = [sizes[0], sizes[1], sizes[2]];
        let softmax = sizes[3] == 1;
        let net = [sizes[4] as f32, sizes[5] as f32];
        let places = columns - 3;
        let channels = places + 1 + sizes[3];
        let mut rows = Vec::new();
        for image in 0..images {
            // Image, label, score, then corners and landmarks in pixels.
            let mut found: Vec<Vec<f32>> = Vec::new();
            for (bottom, (&side, &scale)) in bottoms.iter().zip(sizes[6..].iter().zip(&values[2..]))
            {
                let cells = side * side;
                let stride = net[0] / side as f32;
                let limit = stride * side as f32;
                let reach = if softmax { stride } else { 2.0 * stride };
                for cell in 0..cells {
                    let value = |c: usize| bottom[(image * channels + c) * cells + cell];
                    let place = |i: usize| {
                        let at = match i {
                            0 | 2 => (cell % side) as f64 + 0.5,
                            1 | 3 => (cell / side) as f64 + 0.5,
                            _ => (cell % side) as f64,
                        };
                        let moved = at - f64::from(value(i) * scale / reach);
                        let pixel = (moved * f64::from(stride)) as f32;
                        min(max(pixel, 0.0), limit)
                    };
                    let last = value(channels - 1);
                    let score = if softmax {
                        let other = value(channels - 2);
                        let largest = max(other, last);
                        let [a, b] = [other, last].map(|x| exp(f64::from(x - largest)) as f32);
                        b / (a + b)
                    } else {
                        sigmoid(last)
                    };
                    let empty = place(2) - place(0) <= 0.0 || place(3) - place(1) <= 0.0;
                    if !empty && score >= values[0] {
                        let mut row = vec![image as f32, 1.0, score];
                        row.extend((0..places).map(place));
                        found.push(row);
                    }
                }
            }
            let order = ranked_by(found.len(), |a, b| descending(found[a][2], found[b][2]));
            let suppresses =
                |a: usize, b: usize| exceeds(overlap(&found[a][3..], &found[b][3..]), values[1]);
            for i in keep(&order, keep_top_k, suppresses) {
                let mut row = found[i].clone();
                for (i, place) in row[3..].iter_mut().enumerate() {
                    *place /= net[i % 2];
                }
                rows.push(row);
            }
        }
        if rows.is_empty() {
            rows = nothing(images, columns);
        }
        tops[1][0] = write_rows(&rows, tops[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DetectionOutputParameter;

    fn param(p: DetectionOutputParameter) -> LayerParameter {
        LayerParameter {
            detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// A picture of 16 by 16, anchors of 16.
    fn sigmoid() -> DetectionOutputParameter {
        DetectionOutputParameter {
            num_classes: Some(1),
            class_type: Some(ClassType::Sigmoid.into()),
            confidence_threshold: Some(0.5),
            nms_thresh: Some(0.5),
            bias_scale: vec![16.; 3],
            net_width: Some(16),
            net_height: Some(16),
            ..DetectionOutputParameter::default()
        }
    }

    /// Three maps of one cell, the last two without a score.
    fn detect(p: DetectionOutputParameter, values: &[f32]) -> Vec<f32> {
        let none: Vec<f32> = values.iter().map(|_| -9.).collect();
        let map = |values: &[f32]| tensor(&[1, values.len(), 1, 1], values);
        let bottoms = [map(values), map(&none), map(&none)];
        forward_counted::<CenterGridOutput>(&param(p), &bottoms)
            .remove(0)
            .data
    }

    #[test]
    fn corners_round_a_cell() {
        // (0.5 − t / 2) · 16, cut at 16.
        let got = detect(sigmoid(), &[0.5, 1., -0.5, -9., 0.]);
        assert_eq!(got, [0., 1., 0.5, 0.25, 0., 0.75, 1.]);
        let none = [0., -1., -1., -1., -1., -1., -1.];
        assert_eq!(detect(sigmoid(), &[0.5, 1., 0.5, -9., 0.]), none);
        assert_eq!(detect(sigmoid(), &[f32::NAN; 5]), none);
    }

    #[test]
    fn landmarks_and_softmax() {
        let p = DetectionOutputParameter {
            num_classes: Some(2),
            class_type: Some(ClassType::Softmax.into()),
            has_lm: Some(true),
            ..sigmoid()
        };
        let mut values = vec![0.25, 0.25, -0.25, -0.25];
        values.extend([-0.5; 10]);
        values.extend([0., 3f32.ln()]);
        let got = detect(p, &values);
        let mut want = vec![0., 1., 0.75, 0.25, 0.25, 0.75, 0.75];
        want.extend([0.5; 10]);
        assert_close(&got, &want, 1e-6);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 3] = [&[1, 5, 1, 1]; 3];
        for (p, field) in [
            (
                DetectionOutputParameter {
                    num_classes: None,
                    ..sigmoid()
                },
                "num_classes",
            ),
            (
                DetectionOutputParameter {
                    bias_scale: vec![],
                    ..sigmoid()
                },
                "bias_scale",
            ),
            (
                DetectionOutputParameter {
                    net_width: None,
                    ..sigmoid()
                },
                "net_width",
            ),
            (
                DetectionOutputParameter {
                    has_lm: Some(true),
                    ..sigmoid()
                },
                "has_lm",
            ),
        ] {
            let got = refusal::<CenterGridOutput>(&param(p), &shapes);
            assert!(
                got.starts_with(&format!("detection_output_param.{field}: ")),
                "{got}"
            );
        }
        let got = refusal::<CenterGridOutput>(
            &param(sigmoid()),
            &[&[1, 5, 1, 1], &[1, 6, 1, 1], &[1, 5, 1, 1]],
        );
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
