//! `YoloDetectionOutput`: maps of YOLOv2 to detections (MobileNet-YOLO
//! `yolo_detection_output_layer.cpp`).
//!
//! * bottoms: one or two square maps `N × (num_box·(5 + C)) × H × H`: offsets,
//!   logarithms of sizes, objectness, classes; both of the same anchors, in cells.
//! * top as of [`Yolov3DetectionOutput`](super::yolov3_detection_output).
//!
//! Of each box only the best class counts, by a softmax over classes.

use super::yolo::routine as yolo;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct YoloDetectionOutput {
    classes: usize,
    anchors: Vec<[f32; 2]>,
    confidence: f32,
    threshold: f32,
}

impl Layer for YoloDetectionOutput {
    fn claims() -> &'static [&'static str] {
        &["yolo_detection_output_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param
            .yolo_detection_output_param
            .clone()
            .unwrap_or_default();
        let field = |name: &str| format!("yolo_detection_output_param.{name}");
        let Some(classes) = p.num_classes else {
            let message = "num_classes is missing";
            return Err(cx.invalid("yolo_detection_output_param", message).into());
        };
        let boxes = cx.positive(&field("num_box"), p.num_box())?;
        let sizes = p.biases.chunks_exact(2).take(boxes);
        let anchors: Vec<[f32; 2]> = sizes.map(|size| [size[0], size[1]]).collect();
        if anchors.len() != boxes {
            let message = format!("{} values for {boxes} anchors", p.biases.len());
            return Err(cx.invalid(&field("biases"), message).into());
        }
        Ok(YoloDetectionOutput {
            classes: cx.positive(&field("num_classes"), classes)?,
            anchors,
            confidence: p.confidence_threshold(),
            threshold: p.nms_threshold(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let mut rows = 0usize;
        for (i, bottom) in bottoms.iter().enumerate() {
            let at = format!("bottom[{i}]");
            let [images, channels, height, width] = legacy(bottom, &at, cx)?;
            let (each, boxes) = (self.classes.saturating_add(5), self.anchors.len());
            if channels != each.saturating_mul(boxes) || height != width {
                let message =
                    format!("{bottom} instead of a square map of {boxes} times {each} channels");
                return Err(cx.invalid(&at, message).into());
            }
            let found = cx
                .locate(&at, Shape::new([images, height, width, boxes]))?
                .count();
            rows = rows.saturating_add(found).max(images);
        }
        Ok(vec![cx.locate("bottom", Shape::new([1, 1, rows, 7]))?])
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let mut sizes = vec![self.classes];
        for bottom in bottoms {
            let [images, _, side, _] = bottom.nchw()?;
            sizes.extend([images, side]);
        }
        let mut values = vec![self.confidence, self.threshold];
        values.extend(self.anchors.iter().flatten());
        let routine = routine!("yolo_detection_output", "yolo", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::math::exp;
    use super::yolo::{Found, boxes, place, sigmoid, write};

    // The first class of the largest share in a softmax, and its share.
    fn best(classes: &[f32]) -> (usize, f32) {
        let largest = classes
            .iter()
            .fold(classes[0], |a, &b| if b > a { b } else { a });
        let e = |&x: &f32| exp(f64::from(x - largest)) as f32;
        let shares: Vec<f32> = classes.iter().map(e).collect();
        let sum: f32 = shares.iter().sum();
        let mut best = (0, shares[0] / sum);
        for (class, share) in shares.iter().enumerate() {
            if share / sum > best.1 {
                best = (class, share / sum);
            }
        }
        best
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (classes, maps) = (sizes[0], sizes[1..].chunks_exact(2));
        let anchors: Vec<&[f32]> = values[2..].chunks_exact(2).collect();
        let mut found = Vec::new();
        for (bottom, map) in bottoms.iter().zip(maps) {
            let [images, side] = [map[0], map[1]];
            let cells = side * side;
            let counts = [images, cells, anchors.len(), 5 + classes];
            boxes(bottom, counts, |cell, n, value| {
                let scores: Vec<f32> = (0..classes).map(|class| value(5 + class)).collect();
                let (class, share) = best(&scores);
                let score = sigmoid(value(4)) * share;
                if score >= values[0] {
                    let axis = |i: usize, at: usize| {
                        place(at, side, value(i), value(i + 2), anchors[n][i], side as f32)
                    };
                    let ([x, w], [y, h]) = (axis(0, cell % side), axis(1, cell / side));
                    let place = [x, y, w, h];
                    found.push(Found {
                        place,
                        score,
                        class,
                    });
                }
            });
        }
        write(&found, values[1], sizes[1], tops);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::YoloDetectionOutputParameter;

    fn param(p: YoloDetectionOutputParameter) -> LayerParameter {
        LayerParameter {
            yolo_detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// One anchor of half a cell by one.
    fn one() -> YoloDetectionOutputParameter {
        YoloDetectionOutputParameter {
            num_classes: Some(2),
            num_box: Some(1),
            biases: vec![0.5, 1.],
            confidence_threshold: Some(0.375),
            ..YoloDetectionOutputParameter::default()
        }
    }

    fn detect(values: [f32; 7]) -> Vec<f32> {
        let bottom = tensor(&[1, 7, 1, 1], values);
        forward_counted::<YoloDetectionOutput>(&param(one()), &[bottom])
            .remove(0)
            .data
    }

    #[test]
    fn the_best_class_at_the_threshold() {
        // σ(0) · 3/4 is just enough.
        let ln3 = 3f32.ln();
        let got = detect([0., 0., 0., 0., 0., 0., ln3]);
        assert_close(&got, &[0., 2., 0.375, 0.25, 0., 0.75, 1.], 1e-6);
        let none = [0., -1., -1., -1., -1., -1., -1.];
        assert_eq!(detect([0., 0., 0., 0., 0., ln3, ln3]), none);
        assert_eq!(detect([f32::NAN; 7]), none);
    }

    #[test]
    fn refusals() {
        let refused = |p, dims: &[usize]| refusal::<YoloDetectionOutput>(&param(p), &[dims]);
        let few = YoloDetectionOutputParameter {
            biases: vec![1.],
            ..one()
        };
        let got = refused(few, &[1, 7, 1, 1]);
        assert!(
            got.starts_with("yolo_detection_output_param.biases: "),
            "{got}"
        );
        for dims in [[1, 8, 1, 1], [1, 7, 1, 2]] {
            assert!(refused(one(), &dims).starts_with("bottom[0]: "));
        }
    }
}
