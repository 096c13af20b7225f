//! `DetectionEvaluate`: which detections hit an object (SSD `detection_evaluate_layer.cpp`,
//! `bbox_util.cpp`).
//!
//! * bottoms: detections `1 × 1 × K × 7` as DetectionOutput gives them; objects
//!   `1 × 1 × M × 8`: image, label, number, corners, whether difficult. Image −1: no row.
//! * top `1 × 1 × R × 5`: for each class but the background −1, label, its number of
//!   objects, −1, −1; then for each detection image, label, score, 1 for a hit, 1 for a
//!   miss, by image and label, and by score where the image has objects of the label.
//!
//! A detection hits the object of its label that it overlaps most, if that is enough and
//! no better one has hit it. A difficult object may be left out: what hits it is neither a
//! hit nor a miss. Corners are parts of the image; with the file `name_size_file` (lines of
//! name, height and width, one after another for the images that come) overlaps are those
//! of pixels. Boxes of pixels that are apart overlap by one pixel, as in SSD. The order of
//! more than 16 equal scores, which there depends on the C++ library, is here that of the
//! bottom.

use super::boxes::routine as boxes;
use super::{Cx, Layer, legacy};
use crate::diag::{Diagnostic, Kind, Result};
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::resize_parameter::ResizeMode;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct DetectionEvaluate {
    classes: usize,
    /// None if all classes have objects.
    background: Option<usize>,
    threshold: f32,
    difficult: bool,
    /// Height and width of each image, if overlaps are those of pixels.
    images: Vec<f32>,
    /// Whether each bottom has a data-dependent number of rows.
    counted: [bool; 2],
}

impl DetectionEvaluate {
    /// Rows that tell of classes.
    fn of_classes(&self) -> usize {
        self.classes - usize::from(self.background.is_some())
    }
}

impl Layer for DetectionEvaluate {
    fn claims() -> &'static [&'static str] {
        &["detection_evaluate_param"]
    }

    /// Errors: also `Open` if nobody has read the file.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        if cx.dialect == Some(Dialect::CascadeRcnn) || cx.bottoms == 3 {
            let message = "DetectionEvaluate of Cascade R-CNN, whose rows have another order";
            return Err(cx.unsupported("type", message).into());
        }
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let field = |name: &str| format!("detection_evaluate_param.{name}");
        let p = param.detection_evaluate_param.clone().unwrap_or_default();
        let Some(classes) = p.num_classes else {
            let message = "num_classes is missing";
            return Err(cx.invalid("detection_evaluate_param", message).into());
        };
        // Read as an int, −1 is none.
        let background = Some(p.background_label_id()).filter(|&label| label != u32::MAX);
        if background.is_some_and(|label| label >= classes) {
            return Err(cx
                .wrong(&field("background_label_id"), "must be a class")
                .into());
        }
        let images = match (p.name_size_file(), cx.file) {
            ("", _) => Vec::new(),
            (_, Some(sizes)) => sizes.to_vec(),
            (file, None) => {
                let message = format!("the sizes `{file}` are not there");
                let at = (cx.span)(&field("name_size_file"));
                let d = Diagnostic::new(Kind::Open, message).at(at).layer(cx.name);
                return Err(d
                    .help("without `name_size_file`, overlaps are those of parts of the image")
                    .into());
            }
        };
        // Overlaps of parts of the image do not depend on how it was resized.
        let resized = p.resize_param.as_ref().filter(|_| !images.is_empty());
        if resized.is_some_and(|r| r.resize_mode() != ResizeMode::Warp) {
            let name = field("resize_param.resize_mode");
            return Err(cx.unsupported(&name, "a `resize_mode` but WARP").into());
        }
        Ok(DetectionEvaluate {
            classes: cx.positive(&field("num_classes"), classes)?,
            background: background.map(|label| label as usize),
            threshold: cx.above(&field("overlap_threshold"), p.overlap_threshold(), 0.0)?,
            difficult: p.evaluate_difficult_gt(),
            images,
            counted: [false; 2],
        })
    }

    /// Errors: `Invalid` unless the bottoms have rows of 7 and 8 values.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        for (i, (bottom, columns)) in bottoms.iter().zip([7, 8]).enumerate() {
            let at = format!("bottom[{i}]");
            let dims = legacy(bottom, &at, cx)?;
            if dims != [1, 1, dims[2], columns] {
                let message = format!("{bottom} instead of 1×1×rows×{columns}");
                return Err(cx.invalid(&at, message).into());
            }
        }
        let rows = self.of_classes().saturating_add(bottoms[0][2]);
        Ok(vec![cx.locate("bottom", Shape::new([1, 1, rows, 5]))?])
    }

    /// Joins nothing; remembers which counts there are.
    fn join(&mut self, axes: &[Option<usize>], _bottoms: &[Shape], _most: Option<usize>) -> bool {
        if axes.iter().flatten().all(|&axis| axis == 2) {
            self.counted = [axes[0].is_some(), axes[1].is_some()];
        }
        false
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn takes_counts(&self) -> bool {
        self.counted.contains(&true)
    }

    /// The image that comes next.
    fn state(&self, _bottoms: &[Shape]) -> Vec<Shape> {
        let next = Shape::new([1]).expect("one element");
        vec![next; usize::from(!self.images.is_empty())]
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![
            self.classes,
            self.background.unwrap_or(usize::MAX),
            usize::from(self.difficult),
            usize::from(self.counted[0]),
            usize::from(self.counted[1]),
        ];
        let values = [&[self.threshold], &self.images[..]].concat();
        let call = Call::new(routine!("detection_evaluate", "boxes"), sizes, values);
        Some(call.faults(&[
            "a detection of bottom 0 has the label of the background",
            "an object of bottom 1 has the label of the background",
        ]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{descending, max, min};
    use std::collections::BTreeMap;

    // Rows by image and label.
    type Rows<'a> = BTreeMap<i32, BTreeMap<i32, Vec<&'a [f32]>>>;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [classes, background] = [sizes[0], sizes[1]];
        let (blobs, counts) = bottoms.split_at(2);
        let mut counts = counts.iter().map(|count| count[0] as usize);
        let mut rows = |i: usize, columns: usize| {
            let counted = if sizes[3 + i] == 1 {
                counts.next()
            } else {
                None
            };
            let rows = blobs[i].chunks_exact(columns);
            let some = counted.unwrap_or(rows.len());
            rows.take(some)
        };
        let (detections, objects) = (rows(0, 7), rows(1, 8));
        let Some((top, [count, rest @ ..])) = tops.split_first_mut() else {
            return;
        };
        let Some((fault, next)) = rest.split_last_mut() else {
            return;
        };
        // SSD counts rows of all images with a label, though those of image −1 are none.
        let labelled = detections.clone().filter(|row| row[1] != -1.0).count();
        let (detections, objects) = (grouped(detections), grouped(objects));
        let in_background = |rows: &Rows| {
            rows.values()
                .any(|of| of.contains_key(&(background as i32)))
        };
        fault[0] = match background < classes {
            true if in_background(&detections) => 1.0,
            true if in_background(&objects) => 2.0,
            _ => 0.0,
        };
        let hard = |object: &[f32]| sizes[2] == 0 && object[7] != 0.0;
        let mut written = Vec::new();
        for class in (0..classes).filter(|&class| class != background) {
            let of_class = objects.values().filter_map(|of| of.get(&(class as i32)));
            let easy = of_class.flatten().filter(|object| !hard(object)).count();
            written.extend([-1.0, class as f32, easy as f32, -1.0, -1.0]);
        }
        for (image, labels) in &detections {
            let size = match next.first_mut() {
                None => None,
                Some(next) => {
                    let all = values[1..].chunks_exact(2);
                    let now = next[0] as usize;
                    next[0] = if now + 1 == all.len() {
                        0.0
                    } else {
                        (now + 1) as f32
                    };
                    all.clone().nth(now)
                }
            };
            for (label, rows) in labels.iter().filter(|(label, _)| **label != -1) {
                let row = |row: &[f32]| [*image as f32, *label as f32, row[2]];
                let there = objects.get(image).and_then(|of| of.get(label));
                let Some(there) = there else {
                    rows.iter().for_each(|found| {
                        written.extend(row(found));
                        written.extend([0.0, 1.0]);
                    });
                    continue;
                };
                let there: Vec<(Area, bool)> = there
                    .iter()
                    .map(|object| (Area::new(&object[3..7], size), hard(object)))
                    .collect();
                let mut hit = vec![false; there.len()];
                let mut rows = rows.clone();
                rows.sort_by(|a, b| descending(a[2], b[2]));
                for found in rows {
                    let area = Area::new(&found[3..7], size);
                    let mut best = (-1.0, 0);
                    for (i, (object, _)) in there.iter().enumerate() {
                        let overlap = area.overlap(object);
                        if overlap > best.0 {
                            best = (overlap, i);
                        }
                    }
                    written.extend(row(found));
                    written.extend(if best.0 < values[0] || best.0.is_nan() {
                        [0.0, 1.0]
                    } else if there[best.1].1 {
                        [0.0, 0.0]
                    } else if std::mem::replace(&mut hit[best.1], true) {
                        [0.0, 1.0]
                    } else {
                        [1.0, 0.0]
                    });
                }
            }
        }
        let len = written.len().min(top.len());
        top.fill(0.0);
        top[..len].copy_from_slice(&written[..len]);
        let of_classes = (0..classes).filter(|&class| class != background).count();
        count[0] = (of_classes + labelled) as f32;
    }

    fn grouped<'a>(rows: impl Iterator<Item = &'a [f32]>) -> Rows<'a> {
        let mut all = Rows::new();
        for row in rows.filter(|row| row[0] as i32 != -1) {
            let labels = all.entry(row[0] as i32).or_default();
            labels.entry(row[1] as i32).or_default().push(row);
        }
        all
    }

    struct Area {
        corners: [f32; 4],
        // What a box is wider than the difference of its corners.
        edge: f32,
        size: f32,
    }

    impl Area {
        // Within an image of this height and width, if overlaps are those of pixels.
        fn new(corners: &[f32], image: Option<&[f32]>) -> Area {
            let mut area = Area {
                corners: [corners[0], corners[1], corners[2], corners[3]],
                edge: 0.0,
                size: 0.0,
            };
            let mut wider = 0.0;
            if let Some(image) = image {
                area.edge = 1.0;
                for (i, corner) in area.corners.iter_mut().enumerate() {
                    *corner = max(min(*corner, 1.0), 0.0) * image[1 - i % 2];
                }
                wider = if image[0] > 1.0 || image[1] > 1.0 {
                    1.0
                } else {
                    0.0
                };
            }
            let [x1, y1, x2, y2] = area.corners;
            if !(x2 < x1 || y2 < y1) {
                area.size = (x2 - x1 + wider) * (y2 - y1 + wider);
            }
            area
        }

        // Intersection over union.
        fn overlap(&self, other: &Area) -> f32 {
            let [a, b] = [&self.corners, &other.corners];
            let apart = b[0] > a[2] || b[2] < a[0] || b[1] > a[3] || b[3] < a[1];
            let [x1, y1, x2, y2] = match apart {
                true => [0.0; 4],
                false => [
                    max(a[0], b[0]),
                    max(a[1], b[1]),
                    min(a[2], b[2]),
                    min(a[3], b[3]),
                ],
            };
            let [width, height] = [x2 - x1 + self.edge, y2 - y1 + self.edge];
            let both = width * height;
            match width > 0.0 && height > 0.0 {
                true => both / (self.size + other.size - both),
                false => 0.0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DetectionEvaluateParameter;
    use crate::ir::Tensor;

    fn param(difficult: bool) -> LayerParameter {
        let p = DetectionEvaluateParameter {
            num_classes: Some(3),
            evaluate_difficult_gt: Some(difficult),
            ..DetectionEvaluateParameter::default()
        };
        LayerParameter {
            detection_evaluate_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn bottoms() -> [Tensor; 2] {
        let detections = [
            // Hits the first object again, worse, then the best; the difficult one; too far.
            [0., 1., 0.5, 0., 0., 0.5, 0.4],
            [0., 1., 0.9, 0., 0., 0.5, 0.5],
            [0., 1., 0.7, 0.5, 0.5, 1., 1.],
            [0., 1., 0.1, 0., 0.75, 0.25, 1.],
            // No object of this label, no object in this image, nothing found, no image.
            [0., 2., 0.3, 0., 0., 1., 1.],
            [4., 1., 0.2, 0., 0., 1., 1.],
            [5., -1., -1., -1., -1., -1., -1.],
            [-1., 1., 0.6, 0., 0., 1., 1.],
        ];
        let objects = [
            [0., 1., 0., 0., 0., 0.5, 0.5, 0.],
            [0., 1., 1., 0.5, 0.5, 1., 1., 1.],
            [1., 2., 0., 0., 0., 1., 1., 0.],
            [-1., 2., 0., 0., 0., 1., 1., 0.],
        ];
        [
            tensor(&[1, 1, 8, 7], detections.concat()),
            tensor(&[1, 1, 4, 8], objects.concat()),
        ]
    }

    #[test]
    fn hits_and_misses() {
        for (difficult, objects, of_difficult) in [(true, 2., [1., 0.]), (false, 1., [0., 0.])] {
            let top = &forward_counted::<DetectionEvaluate>(&param(difficult), &bottoms())[0];
            // 2 classes and 7 detections with a label, one of which is of no image.
            assert_eq!(top.shape.dims(), [1, 1, 9, 5]);
            let want = [
                [-1., 1., objects, -1., -1.],
                [-1., 2., 1., -1., -1.],
                [0., 1., 0.9, 1., 0.],
                [0., 1., 0.7, of_difficult[0], of_difficult[1]],
                [0., 1., 0.5, 0., 1.],
                [0., 1., 0.1, 0., 1.],
                [0., 2., 0.3, 0., 1.],
                [4., 1., 0.2, 0., 1.],
                [0.; 5],
            ];
            assert_eq!(top.data, want.concat());
        }
    }

    #[test]
    fn pixels_have_edges_and_images_come_in_turns() {
        let (mut layer, _) =
            infer::<DetectionEvaluate>(&param(true), &[&[1, 1, 1, 7], &[1, 1, 1, 8]]).unwrap();
        // Of 9 × 9 pixels the left half, cut at the image, against a quarter: 5.5 · 5.5 over
        // 5.5 · 10. Sizes in an image of 1 × 1 have no edges: 1.5 · 1.5 over 0.75 − 2.25.
        layer.images = vec![9., 9., 1., 1.];
        layer.threshold = 0.55;
        let found = tensor(&[1, 1, 1, 7], [0., 1., 0.5, 0., -1., 0.5, 2.]);
        let object = tensor(&[1, 1, 1, 8], [0., 1., 0., 0., 0., 0.5, 0.5, 0.]);
        let mut tops = [&[1, 1, 3, 5][..], &[1], &[1]]
            .map(|dims| tensor(dims, vec![0.; dims.iter().product()]));
        for (hit, next) in [(1., 1.), (0., 0.), (1., 1.)] {
            layer.reference(&[&found, &object], &[], &mut tops);
            assert_eq!(tops[0].data[10..], [0., 1., 0.5, hit, 1. - hit]);
            assert_eq!(tops[2].data, [next]);
        }
    }

    #[test]
    fn rows_beyond_the_counts_are_none() {
        let [found, objects] = bottoms();
        let dims = [found.shape.dims(), objects.shape.dims()];
        let (mut layer, shapes) = infer::<DetectionEvaluate>(&param(true), &dims).unwrap();
        let all = [found.shape.clone(), objects.shape.clone()];
        assert!(!layer.join(&[None, Some(0)], &all, None) && !layer.takes_counts());
        assert!(!layer.join(&[None, Some(2)], &all, None) && layer.takes_counts());
        let one = tensor(&[1], [1.]);
        let mut tops: Vec<Tensor> = shapes.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [0.]));
        layer.reference(&[&found, &objects, &one], &[], &mut tops);
        assert_eq!(
            tops[0].data[..10],
            [-1., 1., 1., -1., -1., -1., 2., 0., -1., -1.]
        );
    }

    #[test]
    fn the_background_is_never_found() {
        let dims: [&[usize]; 2] = [&[1, 1, 1, 7], &[1, 1, 1, 8]];
        let (layer, shapes) = infer::<DetectionEvaluate>(&param(true), &dims).unwrap();
        let mut tops: Vec<Tensor> = shapes.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [0.]));
        let mut run = |found: f32, object: f32| {
            let mut bottoms = dims.map(|dims| tensor(dims, vec![0.; dims[3]]));
            (bottoms[0].data[1], bottoms[1].data[1]) = (found, object);
            layer.checked_reference(&[&bottoms[0], &bottoms[1]], &[], &mut tops)
        };
        assert!(run(1., 1.).is_ok());
        assert!(run(0., 1.).unwrap_err().contains("bottom 0"));
        assert!(run(1., 0.).unwrap_err().contains("bottom 1"));
    }

    #[test]
    fn refusals() {
        let refused = |change: fn(&mut DetectionEvaluateParameter)| {
            let mut param = param(true);
            change(param.detection_evaluate_param.as_mut().unwrap());
            refusal::<DetectionEvaluate>(&param, &[&[1, 1, 1, 7], &[1, 1, 1, 8]])
        };
        let field = |name: &str| format!("detection_evaluate_param.{name}: ");
        let got = refused(|p| p.background_label_id = Some(3));
        assert!(got.starts_with(&field("background_label_id")), "{got}");
        let got = refused(|p| p.overlap_threshold = Some(0.));
        assert!(got.starts_with(&field("overlap_threshold")), "{got}");
        let got = refused(|p| p.name_size_file = Some("sizes.txt".into()));
        assert!(got.starts_with(&field("name_size_file")), "{got}");
        let got = refused(|p| p.num_classes = None);
        assert!(got.starts_with("detection_evaluate_param: "), "{got}");
        let row: &[usize] = &[1, 1, 1, 7];
        let got = refusal::<DetectionEvaluate>(&param(true), &[row; 3]);
        assert!(got.starts_with("type: "), "{got}");
        let got = refusal::<DetectionEvaluate>(&param(true), &[row; 2]);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
