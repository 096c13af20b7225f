//! `Yolov3DetectionOutput`: maps of YOLOv3 to detections (MobileNet-YOLO
//! `yolov3_detection_output_layer.cpp`).
//!
//! * bottoms: maps `N × (num_box·(5 + C)) × H × W`: offsets, logarithms of sizes,
//!   objectness, classes.
//! * top `1 × 1 × K × 7`: 0, class + 1, score, corners; best first. Where nothing is
//!   found, a row −1 for each image.
//!
//! All images and classes are one list, and suppress each other. Of equal scores the
//! first comes first; Caffe leaves it to its C++ library among more than 16.
//!
//! `Yolov3Detection` (yuqj1991/caffe_train `Yolov3DetectionLayer.cpp`) is the same on square
//! maps, with 0.4 as the `nms_threshold` of those that do not say it, not 0.45.

use super::yolo::routine as yolo;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Yolov3DetectionOutput {
    classes: usize,
    /// Of each bottom: pixels per cell, and width and height of its anchors.
    maps: Vec<(usize, Vec<[f32; 2]>)>,
    confidence: f32,
    threshold: f32,
    /// Maps are as high as they are wide.
    square: bool,
}

impl Layer for Yolov3DetectionOutput {
    fn claims() -> &'static [&'static str] {
        &["yolov3_detection_output_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..=1)?;
        cx.not_in_place()?;
        let p = param
            .yolov3_detection_output_param
            .clone()
            .unwrap_or_default();
        let field = |name: &str| format!("yolov3_detection_output_param.{name}");
        if p.gaussian_box() {
            let message = "gaussian_box, whose CPU code reads memory that nobody wrote";
            return Err(cx.unsupported(&field("gaussian_box"), message).into());
        }
        let Some(classes) = p.num_classes else {
            let message = "num_classes is missing";
            return Err(cx.invalid("yolov3_detection_output_param", message).into());
        };
        let groups = p.mask_group_num() as usize;
        if groups != cx.bottoms {
            let message = format!("{groups} for {} bottoms", cx.bottoms);
            return Err(cx.invalid(&field("mask_group_num"), message).into());
        }
        if p.anchors_scale.len() < groups {
            let message = "a scale for each bottom is needed";
            return Err(cx.invalid(&field("anchors_scale"), message).into());
        }
        let boxes = cx.positive(&field("num_box"), p.num_box())?;
        let mut maps = Vec::new();
        for (i, &scale) in p.anchors_scale[..groups].iter().enumerate() {
            let scale = cx.positive(&field(&format!("anchors_scale[{i}]")), scale)?;
            let first = i * (p.mask.len() / groups);
            let Some(masks) = first
                .checked_add(boxes)
                .and_then(|end| p.mask.get(first..end))
            else {
                let message = format!("bottom {i} needs {boxes} anchors from {first} on");
                return Err(cx.invalid(&field("mask"), message).into());
            };
            let anchor = |&mask: &u32| {
                let mut sizes = p.biases.chunks_exact(2);
                let size = sizes.nth(mask as usize);
                let message = format!("there is no anchor {mask}");
                let missing = || cx.invalid(&field("biases"), message.clone());
                size.map(|s| [s[0], s[1]]).ok_or_else(missing)
            };
            let anchors: Result<Vec<_>, _> = masks.iter().map(anchor).collect();
            maps.push((scale, anchors?));
        }
        let square = param.r#type() == "Yolov3Detection";
        Ok(Yolov3DetectionOutput {
            classes: cx.positive(&field("num_classes"), classes)?,
            maps,
            confidence: p.confidence_threshold(),
            threshold: p.nms_threshold.unwrap_or(if square { 0.4 } else { 0.45 }),
            square,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let mut rows = 0usize;
        for (i, (bottom, (_, anchors))) in bottoms.iter().zip(&self.maps).enumerate() {
            let at = format!("bottom[{i}]");
            let [images, channels, height, width] = legacy(bottom, &at, cx)?;
            if self.square && height != width {
                let message = format!("a map of {height}×{width}: this type reads square ones");
                return Err(cx.invalid(&at, message).into());
            }
            let each = self.classes.saturating_add(5);
            if channels != each.saturating_mul(anchors.len()) {
                let message = format!(
                    "{channels} channels instead of {each} for each of {} anchors",
                    anchors.len()
                );
                return Err(cx.invalid(&at, message).into());
            }
            let found = [images, height, width, anchors.len(), self.classes];
            let found = cx.locate(&at, Shape::new(found))?.count();
            rows = rows.saturating_add(found).max(images);
        }
        Ok(vec![cx.locate("bottom", Shape::new([1, 1, rows, 7]))?])
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let mut sizes = vec![self.classes];
        let mut values = vec![self.confidence, self.threshold];
        for (bottom, (scale, anchors)) in bottoms.iter().zip(&self.maps) {
            let [images, _, height, width] = bottom.nchw()?;
            sizes.extend([images, height, width, *scale, anchors.len()]);
            values.extend(anchors.iter().flatten());
        }
        let routine = routine!("yolov3_detection_output", "yolo", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::yolo::{Found, boxes, place, sigmoid, write};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (classes, maps) = (sizes[0], sizes[1..].chunks_exact(5));
        let mut anchors = values[2..].chunks_exact(2);
        let mut found = Vec::new();
        for (bottom, map) in bottoms.iter().zip(maps.clone()) {
            let [images, height, width, scale] = [map[0], map[1], map[2], map[3]];
            let cells = height * width;
            let anchors: Vec<&[f32]> = anchors.by_ref().take(map[4]).collect();
            let counts = [images, cells, anchors.len(), 5 + classes];
            boxes(bottom, counts, |cell, n, value| {
                let axis = |i: usize, at: usize, len: usize| {
                    let whole = (len * scale) as f32;
                    place(at, len, value(i), value(i + 2), anchors[n][i], whole)
                };
                let object = sigmoid(value(4));
                for class in 0..classes {
                    let score = sigmoid(value(5 + class)) * object;
                    if score > values[0] {
                        let [x, w] = axis(0, cell % width, width);
                        let [y, h] = axis(1, cell / width, height);
                        let place = [x, y, w, h];
                        found.push(Found {
                            place,
                            score,
                            class,
                        });
                    }
                }
            });
        }
        write(&found, values[1], sizes[1], tops);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward_counted, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::Yolov3DetectionOutputParameter;

    fn param(p: Yolov3DetectionOutputParameter) -> LayerParameter {
        LayerParameter {
            yolov3_detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// One anchor of 8 by 16, cells of 16 pixels.
    fn one() -> Yolov3DetectionOutputParameter {
        Yolov3DetectionOutputParameter {
            num_classes: Some(1),
            num_box: Some(1),
            mask_group_num: Some(1),
            mask: vec![1],
            biases: vec![1., 1., 8., 16.],
            anchors_scale: vec![16],
            confidence_threshold: Some(0.3),
            ..Yolov3DetectionOutputParameter::default()
        }
    }

    /// Of a map of one by two cells: offsets, objectness and class of both.
    fn detect(values: [[f32; 2]; 6]) -> Vec<Vec<f32>> {
        let bottom = tensor(&[1, 6, 1, 2], values.concat());
        let top = forward_counted::<Yolov3DetectionOutput>(&param(one()), &[bottom]).remove(0);
        top.data.chunks(7).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn boxes_of_cells() {
        // σ(0) = 1/2, σ(ln 3) = 3/4.
        let ln3 = 3f32.ln();
        let got = detect([[0.; 2], [0.; 2], [0.; 2], [0.; 2], [ln3, 9.], [ln3, -9.]]);
        assert_eq!(got.len(), 1);
        assert_close(&got[0], &[0., 1., 0.5625, 0.125, 0., 0.375, 1.], 1e-6);
    }

    #[test]
    fn suppression_is_at_the_threshold() {
        // Wide enough to overlap: widths of 1, centres 1/4 and 3/4: 1/3 of both.
        let wide = 4f32.ln();
        let values = |w: f32| [[0.; 2], [0.; 2], [w; 2], [0.; 2], [9., 8.], [9.; 2]];
        assert_eq!(detect(values(wide)).len(), 2);
        // Widths of 2: 3/5.
        let got = detect(values(8f32.ln()));
        assert_eq!(got.len(), 1);
        assert_close(&got[0][3..4], &[-0.75], 1e-6);
    }

    #[test]
    fn the_layer_of_yuqj1991() {
        let of = |p| LayerParameter {
            r#type: Some("Yolov3Detection".into()),
            ..param(p)
        };
        // Two classes of one box, which suppress each other, the second better.
        let p = Yolov3DetectionOutputParameter {
            num_classes: Some(2),
            ..one()
        };
        let bottom = tensor(&[1, 7, 1, 1], [0., 0., 0., 0., 9., 3., 4.]);
        let top = forward_counted::<Yolov3DetectionOutput>(&of(p), &[bottom]).remove(0);
        assert_eq!((top.data.len(), top.data[1]), (7, 2.));
        let (layer, _) = infer::<Yolov3DetectionOutput>(&of(one()), &[&[1, 6, 2, 2]]).unwrap();
        assert_eq!(layer.threshold, 0.4);
        let got = refusal::<Yolov3DetectionOutput>(&of(one()), &[&[1, 6, 1, 2]]);
        assert!(got.starts_with("bottom[0]: a map of 1×2"), "{got}");
    }

    #[test]
    fn nothing_is_a_row_and_nan_is_nothing() {
        let none = [0., -1., -1., -1., -1., -1., -1.];
        assert_eq!(detect([[-9.; 2]; 6]), [none]);
        assert_eq!(detect([[f32::NAN; 2]; 6]), [none]);
    }

    #[test]
    fn refusals() {
        let refused = |p, dims: &[usize]| refusal::<Yolov3DetectionOutput>(&param(p), &[dims]);
        let dims = [1, 6, 1, 2];
        for (p, field) in [
            (
                Yolov3DetectionOutputParameter {
                    gaussian_box: Some(true),
                    ..one()
                },
                "gaussian_box",
            ),
            (
                Yolov3DetectionOutputParameter {
                    mask_group_num: None,
                    ..one()
                },
                "mask_group_num",
            ),
            (
                Yolov3DetectionOutputParameter {
                    mask: vec![],
                    ..one()
                },
                "mask",
            ),
            (
                Yolov3DetectionOutputParameter {
                    mask: vec![2],
                    ..one()
                },
                "biases",
            ),
            (
                Yolov3DetectionOutputParameter {
                    anchors_scale: vec![],
                    ..one()
                },
                "anchors_scale",
            ),
            (
                Yolov3DetectionOutputParameter {
                    num_classes: Some(0),
                    ..one()
                },
                "num_classes",
            ),
        ] {
            let got = refused(p, &dims);
            let want = format!("yolov3_detection_output_param.{field}: ");
            assert!(got.starts_with(&want), "{got}");
        }
        assert!(refused(one(), &[1, 7, 1, 2]).starts_with("bottom[0]: 7 channels"));
    }
}
