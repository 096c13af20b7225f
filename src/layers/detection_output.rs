//! `DetectionOutput`: boxes and scores to detections (SSD `detection_output_layer.cpp`,
//! `bbox_util.cpp`; RefineDet).
//!
//! * bottoms: locations `N × (P·4)`, or `N × (P·C·4)` without `share_location`; scores
//!   `N × (P·C)`; priors `1 × 2 × (P·4)`, boxes and then variances. RefineDet adds the
//!   first stage: scores `N × (P·2)` and locations `N × (P·4)`.
//! * top `1 × 1 × K × 7`: image, label, score, corners; by image, label, score. Where
//!   nothing is found, a row −1 for each image.
//!
//! With `no_permute` (Synopsys) the bottoms are not joined: of each of `nbottom` maps the
//! scores `1 × C × B × H·W` of B boxes at each position, then of each the locations
//! `1 × B·4 × H × W`, then the priors of all of them. The variances of a map's priors are
//! taken in the order of positions within boxes, though the priors are not in it.
//!
//! Of each class the boxes above `confidence_threshold` are taken, at most `top_k`, and
//! of those that overlap the best; of each image the best `keep_top_k`. Caffe's order of
//! equal scores among more than 16 at that last limit depends on its C++ library; here
//! they keep theirs. Where sizes count, a prior without extent is an error, found when the
//! net runs.

use super::boxes::routine as boxes;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::prior_box_parameter::CodeType;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct DetectionOutput {
    classes: usize,
    share_location: bool,
    /// The class without detections; none if it is not one of the classes.
    background: usize,
    code: CodeType,
    /// Locations are not scaled by the variances.
    encoded: bool,
    /// Boxes are cut at 0 and 1 (OpenCV `detection_output_layer.cpp`).
    clip: bool,
    /// Most boxes of a class before suppression, of an image after it.
    top_k: usize,
    keep_top_k: usize,
    confidence: f32,
    nms: f32,
    eta: f32,
    objectness: f32,
    bottoms: usize,
    /// Of bottoms that are not joined.
    maps: Option<usize>,
}

/// A number that means no limit, or nothing, below 0.
fn unlimited(value: i32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn field(name: &str) -> String {
    format!("detection_output_param.{name}")
}

impl DetectionOutput {
    /// What types have in common that give or take such boxes: all but the number of
    /// bottoms.
    pub(super) fn read(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.detection_output_param.clone().unwrap_or_default();
        cx.not_in_place()?;
        let Some(classes) = p.num_classes else {
            let message = "num_classes is missing";
            return Err(cx.invalid("detection_output_param", message).into());
        };
        let nms = p.nms_param.unwrap_or_default();
        let threshold = p.nms_threshold.unwrap_or(nms.nms_threshold());
        if threshold.is_nan() || threshold < 0.0 {
            let message = format!("{threshold} must not be below 0");
            return Err(cx
                .invalid(&field("nms_param.nms_threshold"), message)
                .into());
        }
        let eta = nms.eta();
        if eta.is_nan() || eta <= 0.0 || eta > 1.0 {
            let message = format!("{eta} must be above 0 and at most 1");
            return Err(cx.invalid(&field("nms_param.eta"), message).into());
        }
        if p.share_location() && p.background_label_id() == -1 {
            // Caffe's mark of a shared location is −1, too: it stops at the first pass.
            let message = "must be a class where the location is shared";
            return Err(cx.invalid(&field("background_label_id"), message).into());
        }
        Ok(DetectionOutput {
            classes: cx.positive(&field("num_classes"), classes)?,
            share_location: p.share_location(),
            background: unlimited(p.background_label_id()),
            code: p.code_type(),
            encoded: p.variance_encoded_in_target(),
            clip: p.clip(),
            top_k: unlimited(p.top_k.or(nms.top_k).unwrap_or(-1)),
            keep_top_k: unlimited(p.keep_top_k()),
            confidence: p.confidence_threshold.unwrap_or(f32::MIN),
            nms: threshold,
            eta,
            objectness: p.objectness_score(),
            bottoms: cx.bottoms,
            maps: None,
        })
    }

    /// The number of maps whose bottoms are not joined, if they are not, by Synopsys' rule:
    /// there are as many bottoms as `nbottom`, 6 unless given.
    fn separate(param: &LayerParameter, cx: &Cx) -> Result<Option<usize>> {
        let p = param.detection_output_param.clone().unwrap_or_default();
        let maps = usize::try_from(p.nbottom()).unwrap_or(0);
        if cx.bottoms < maps {
            return Ok(None);
        }
        for (given, name) in [
            (
                cx.bottoms != 2 * maps + 1 || maps < 2 || !p.no_permute(),
                "nbottom",
            ),
            (!p.share_location(), "share_location"),
        ] {
            if given {
                return Err(cx.unsupported(&field(name), field(name)).into());
            }
        }
        Ok(Some(maps))
    }

    /// Images and priors.
    fn sizes(&self, bottoms: &[Shape]) -> [usize; 2] {
        let dim = |shape: &Shape, axis: usize| shape.get(axis).copied().unwrap_or(1);
        let priors = &bottoms[self.maps.map_or(2, |maps| 2 * maps)];
        [dim(&bottoms[0], 0), dim(priors, 2) / 4]
    }

    /// Boxes at a position and positions of each map. Errors: `Invalid` unless scores,
    /// locations and priors belong together.
    fn of_maps(&self, maps: usize, bottoms: &[Shape], cx: &Cx) -> Result<()> {
        let mut boxes = 0;
        for (i, [scores, places]) in self.map_shapes(maps, bottoms).into_iter().enumerate() {
            let [_, channels, height, width] = places;
            if scores != [1, self.classes, channels / 4, height * width] {
                let message = format!(
                    "scores {} of {} classes do not go with locations {} of one image",
                    bottoms[i],
                    self.classes,
                    bottoms[i + maps]
                );
                return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
            }
            boxes += channels / 4 * height * width;
        }
        let priors = &bottoms[2 * maps];
        if priors.nchw() != Some([1, 2, 4 * boxes, 1]) {
            let message = format!("{priors} instead of 8 values for each of {boxes} priors");
            return Err(cx.invalid(&format!("bottom[{}]", 2 * maps), message).into());
        }
        Ok(())
    }

    /// Of each map scores and locations.
    fn map_shapes(&self, maps: usize, bottoms: &[Shape]) -> Vec<[[usize; 4]; 2]> {
        let view = |i: usize| bottoms[i].nchw().expect("checked before");
        (0..maps).map(|i| [view(i), view(i + maps)]).collect()
    }

    /// The most detections of so many boxes in each of so many images.
    /// Errors: there are too many.
    pub(super) fn top(&self, images: usize, priors: usize, cx: &Cx) -> Result<Shape> {
        let background = usize::from(self.background < self.classes);
        let of_image = priors
            .min(self.top_k)
            .saturating_mul(self.classes - background);
        let rows = images.saturating_mul(of_image.min(self.keep_top_k).max(1));
        cx.locate("bottom", Shape::new([1, 1, rows, 7]))
    }

    /// Constants of the routine.
    pub(super) fn constants(&self, images: usize, priors: usize) -> (Vec<usize>, Vec<f32>) {
        let sizes = vec![
            images,
            priors,
            self.classes,
            usize::from(self.share_location),
            self.background,
            self.code as usize,
            usize::from(self.encoded),
            self.top_k,
            self.keep_top_k,
            self.bottoms,
            usize::from(self.clip),
        ];
        (
            sizes,
            vec![self.confidence, self.nms, self.eta, self.objectness],
        )
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Errors: `Unsupported` where each class has locations of its own.
    pub(super) fn shared(self, cx: &Cx) -> Result<Self> {
        match self.share_location {
            true => Ok(self),
            false => Err(cx
                .unsupported(&field("share_location"), "no `share_location`")
                .into()),
        }
    }
}

/// What the routines tell of priors that have no size.
pub(super) const FLAT: &[&str] = &["bottom 2 has a prior without width or height"];

impl Layer for DetectionOutput {
    fn claims() -> &'static [&'static str] {
        &[
            "detection_output_param",
            "detection_output_param.objectness_score",
            "detection_output_param.clip",
            "detection_output_param.no_permute",
            "detection_output_param.nbottom",
            "detection_output_param.nms_threshold",
            "detection_output_param.top_k",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let maps = Self::separate(param, cx)?;
        if maps.is_none() {
            cx.counts(3..=5, 1..=1)?;
        }
        cx.counts(.., 1..=1)?;
        Ok(DetectionOutput {
            maps,
            ..Self::read(param, cx)?
        })
    }

    /// Errors: `Invalid` unless the bottoms have as many locations and scores as there
    /// are priors.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        for (i, bottom) in bottoms.iter().enumerate() {
            legacy(bottom, &format!("bottom[{i}]"), cx)?;
        }
        let [images, priors] = self.sizes(bottoms);
        if let Some(maps) = self.maps {
            self.of_maps(maps, bottoms, cx)?;
            return Ok(vec![self.top(images, priors, cx)?]);
        }
        let places = if self.share_location { 1 } else { self.classes };
        let of_priors = [4 * places, self.classes, 8, 2, 4 * places];
        for (i, (bottom, each)) in bottoms.iter().zip(of_priors).enumerate() {
            let wanted = match i {
                2 => each.checked_mul(priors),
                _ => each.checked_mul(priors).and_then(|n| n.checked_mul(images)),
            };
            if wanted != Some(bottom.count()) {
                let of = if i == 2 { "" } else { " and image" };
                let message =
                    format!("{bottom} instead of {each} values for each of {priors} priors{of}");
                let d = cx.invalid(&format!("bottom[{i}]"), message);
                let help =
                    "forks differ in the boxes of a PriorBox: --dialect textboxes or faceboxes";
                return Err(d.help(help).into());
            }
        }
        Ok(vec![self.top(images, priors, cx)?])
    }

    fn counted(&self) -> Option<usize> {
        Some(2)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, priors] = self.sizes(bottoms);
        let (mut sizes, values) = self.constants(images, priors);
        for [scores, _] in self.map_shapes(self.maps.unwrap_or(0), bottoms) {
            sizes.extend(&scores[2..]);
        }
        let routine = routine!("detection_output", "boxes", "math");
        Some(Call::new(routine, sizes, values).faults(FLAT))
    }
}

/// Pasted into emitted source.
pub mod routine {
    use super::boxes::{descending, max, min, nothing, write_rows};
    use super::math::exp;
    use std::cell::Cell;

    pub type Box = [f32; 4];

    // Of CORNER, CENTER_SIZE and CORNER_SIZE. Sums and products are floats, halves and
    // what is made of them doubles.
    pub fn decode(code: usize, prior: &Box, variance: &Box, t: &[f32]) -> Box {
        let t = [0, 1, 2, 3].map(|i| variance[i] * t[i]);
        let size = [prior[2] - prior[0], prior[3] - prior[1]];
        if code != 2 {
            let unit = if code == 1 { [1.0; 2] } else { size };
            return [0, 1, 2, 3].map(|i| prior[i] + t[i] * unit[i % 2]);
        }
        let axis = |i: usize| {
            let middle = (f64::from(prior[i] + prior[i + 2]) / 2.0) as f32;
            let center = f64::from(t[i] * size[i] + middle);
            let half = f64::from(exp(f64::from(t[i + 2])) as f32 * size[i]) / 2.0;
            [(center - half) as f32, (center + half) as f32]
        };
        let [x, y] = [axis(0), axis(1)];
        [x[0], y[0], x[1], y[1]]
    }

    pub fn has_extent(b: &Box) -> bool {
        b[2] - b[0] > 0.0 && b[3] - b[1] > 0.0
    }

    fn area(b: &Box) -> f32 {
        if b[2] < b[0] || b[3] < b[1] {
            0.0
        } else {
            (b[2] - b[0]) * (b[3] - b[1])
        }
    }

    fn overlap(a: &Box, b: &Box) -> f32 {
        if b[0] > a[2] || b[2] < a[0] || b[1] > a[3] || b[3] < a[1] {
            return 0.0;
        }
        let width = min(a[2], b[2]) - max(a[0], b[0]);
        let height = min(a[3], b[3]) - max(a[1], b[1]);
        if width > 0.0 && height > 0.0 {
            let both = width * height;
            both / (area(a) + area(b) - both)
        } else {
            0.0
        }
    }

    // Of the candidates, best first, those that overlap no better one by more than the
    // threshold, which falls with each of them.
    fn suppress(boxes: &[Box], candidates: &[usize], threshold: f32, eta: f32) -> Vec<usize> {
        let mut kept: Vec<usize> = Vec::new();
        let mut threshold = threshold;
        for &candidate in candidates {
            let apart = |&other: &usize| overlap(&boxes[candidate], &boxes[other]) <= threshold;
            if kept.iter().all(apart) {
                kept.push(candidate);
                if eta < 1.0 && threshold > 0.5 {
                    threshold *= eta;
                }
            }
        }
        kept
    }

    // Locations, scores and priors of maps that are not joined: `shapes` are boxes at a
    // position and positions of each.
    fn joined(
        bottoms: &[&[f32]],
        shapes: &[usize],
        priors: usize,
        classes: usize,
    ) -> [Vec<f32>; 3] {
        let maps = shapes.len() / 2;
        let (given, variances) = bottoms[2 * maps].split_at(4 * priors);
        let mut joined: [Vec<f32>; 3] = Default::default();
        let mut first = 0;
        for (map, shape) in shapes.chunks_exact(2).enumerate() {
            let (each, cells) = (shape[0], shape[1]);
            for i in 0..each * cells {
                let (k, cell) = (i / cells, i % cells);
                let place = |n: usize| bottoms[map + maps][(4 * k + n) * cells + cell];
                joined[0].extend([0, 1, 2, 3].map(place));
                let score = |class: usize| bottoms[map][class * each * cells + i];
                joined[1].extend((0..classes).map(score));
                let prior = 4 * (first + cell * each + k);
                joined[2].extend(&given[prior..prior + 4]);
            }
            first += each * cells;
        }
        joined[2].extend(variances);
        joined
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        if sizes.len() == 11 {
            return detect(bottoms, tops, sizes, values);
        }
        let joined = joined(bottoms, &sizes[11..], sizes[1], sizes[2]);
        let mut sizes = sizes[..11].to_vec();
        sizes[9] = 3;
        detect(
            &joined.each_ref().map(|blob| &blob[..]),
            tops,
            &sizes,
            values,
        );
    }

    // Of bottoms that are joined. `sizes`: images, priors, classes; whether locations are
    // shared; the background; code; whether locations are encoded with the variances; most
    // boxes of a class and of an image; bottoms; whether boxes are cut.
    pub fn detect(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [images, priors, classes] = [sizes[0], sizes[1], sizes[2]];
        let [shared, encoded] = [sizes[3] == 1, sizes[6] == 1];
        let [background, code] = [sizes[4], sizes[5]];
        let [top_k, keep_top_k] = [sizes[7], sizes[8]];
        let [confidence, threshold, eta] = [values[0], values[1], values[2]];
        // The first stage of RefineDet.
        let (arm_scores, arm_places) = match bottoms[..sizes[9]] {
            [_, _, _, scores, places] => (Some(scores), Some(places)),
            [_, _, _, scores] => (Some(scores), None),
            _ => (None, None),
        };
        let four = |values: &[f32], i: usize| [0, 1, 2, 3].map(|k| values[4 * i + k]);
        let variance = |i: usize| match encoded {
            true => [1.0; 4],
            false => four(&bottoms[2][4 * priors..], i),
        };
        let places = if shared { 1 } else { classes };
        let flat = Cell::new(false);
        let mut rows = Vec::new();
        for image in 0..images {
            let decoded = |place: usize| -> Vec<Box> {
                let one = |i: usize| {
                    let at = 4 * ((image * priors + i) * places + place);
                    let mut prior = four(bottoms[2], i);
                    if let Some(arm) = arm_places {
                        prior = decode(code, &prior, &variance(i), &arm[at..]);
                    }
                    flat.set(flat.get() || code != 1 && !has_extent(&prior));
                    let found = decode(code, &prior, &variance(i), &bottoms[0][at..]);
                    match sizes[10] {
                        0 => found,
                        _ => found.map(|x| max(min(x, 1.0), 0.0)),
                    }
                };
                (0..priors).map(one).collect()
            };
            let score = |i: usize, class: usize| {
                let prior = image * priors + i;
                match arm_scores {
                    Some(arm) if arm[2 * prior + 1] < values[3] => f32::from(class == 0),
                    _ => bottoms[1][prior * classes + class],
                }
            };
            let mut boxes = if shared { decoded(0) } else { Vec::new() };
            let mut found: Vec<Vec<f32>> = Vec::new();
            for class in (0..classes).filter(|&class| class != background) {
                let scores: Vec<f32> = (0..priors).map(|i| score(i, class)).collect();
                let above = |&i: &usize| scores[i] > confidence;
                let mut candidates: Vec<usize> = (0..priors).filter(above).collect();
                candidates.sort_by(|&a, &b| descending(scores[a], scores[b]));
                candidates.truncate(top_k);
                if !shared {
                    boxes = decoded(class);
                }
                for i in suppress(&boxes, &candidates, threshold, eta) {
                    let [a, b, c, d] = boxes[i];
                    found.push(vec![image as f32, class as f32, scores[i], a, b, c, d]);
                }
            }
            if found.len() > keep_top_k {
                found.sort_by(|a, b| descending(a[2], b[2]));
                found.truncate(keep_top_k);
                found.sort_by(|a, b| descending(b[1], a[1]));
            }
            rows.extend(found);
        }
        if rows.is_empty() {
            rows = nothing(images, 7);
        }
        tops[1][0] = write_rows(&rows, tops[0]);
        tops[2][0] = f32::from(flat.get());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{DetectionOutputParameter, NonMaximumSuppressionParameter};

    fn param(p: DetectionOutputParameter) -> LayerParameter {
        LayerParameter {
            detection_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn two_classes() -> DetectionOutputParameter {
        DetectionOutputParameter {
            num_classes: Some(2),
            ..DetectionOutputParameter::default()
        }
    }

    fn nms(p: NonMaximumSuppressionParameter) -> DetectionOutputParameter {
        DetectionOutputParameter {
            nms_param: Some(p),
            ..two_classes()
        }
    }

    /// Detections at boxes that lie where the priors do, variance 0.5, with the scores of
    /// class 1; images follow each other.
    fn detect(p: DetectionOutputParameter, boxes: &[[f32; 4]], scores: &[f32]) -> Vec<Vec<f32>> {
        let (priors, images) = (boxes.len(), scores.len() / boxes.len());
        let mut prior = boxes.concat();
        prior.extend(vec![0.5; 4 * priors]);
        let both: Vec<f32> = scores.iter().flat_map(|&s| [1.0, s]).collect();
        let bottoms = [
            tensor(&[images, 4 * priors], vec![0.0; images * 4 * priors]),
            tensor(&[images, 2 * priors], both),
            tensor(&[1, 2, 4 * priors], prior),
        ];
        rows(p, &bottoms)
    }

    fn rows(p: DetectionOutputParameter, bottoms: &[crate::ir::Tensor]) -> Vec<Vec<f32>> {
        let top = forward_counted::<DetectionOutput>(&param(p), bottoms).remove(0);
        top.data.chunks(7).map(<[f32]>::to_vec).collect()
    }

    /// The first two overlap by a third.
    const THREE: [[f32; 4]; 3] = [[0., 0., 2., 2.], [0., 1., 2., 3.], [5., 5., 6., 6.]];

    #[test]
    fn the_best_of_those_that_overlap() {
        let got = detect(two_classes(), &THREE, &[0.5, 0.75, -1.]);
        let want = [
            [0., 1., 0.75, 0., 1., 2., 3.],
            [0., 1., -1., 5., 5., 6., 6.],
        ];
        assert_eq!(got, want);
        // An overlap of just the threshold is none.
        let equal = NonMaximumSuppressionParameter {
            nms_threshold: Some(2. / 6.),
            ..NonMaximumSuppressionParameter::default()
        };
        assert_eq!(detect(nms(equal), &THREE, &[0.5, 0.75, -1.]).len(), 3);
    }

    #[test]
    fn boxes_are_cut_at_0_and_1() {
        let p = DetectionOutputParameter {
            clip: Some(true),
            ..two_classes()
        };
        let got = detect(p, &[[-1., 0.25, 0.5, 2.]], &[0.5]);
        assert_eq!(got, [[0., 1., 0.5, 0., 0.25, 0.5, 1.]]);
    }

    #[test]
    fn ties_stay_nan_goes_and_nothing_is_a_row() {
        let apart = [THREE[0], THREE[2], THREE[0]];
        let got = detect(two_classes(), &apart, &[0.5, 0.5, 0.5]);
        assert_eq!([got[0][3], got[1][3], got.len() as f32], [0., 5., 2.]);
        let none = vec![vec![0., -1., -1., -1., -1., -1., -1.]];
        assert_eq!(detect(two_classes(), &THREE, &[f32::NAN; 3]), none);
        let mut p = two_classes();
        p.confidence_threshold = Some(0.5);
        assert_eq!(detect(p.clone(), &THREE, &[0.5; 3]), none);
        // An image without detections beside one with some has no row.
        let got = detect(p.clone(), &THREE, &[0.5, 0.5, 0.5, 0.1, 0.2, 0.9]);
        assert_eq!(got, [[1., 1., 0.9, 5., 5., 6., 6.]]);
        let got = detect(p, &THREE, &[0.5; 6]);
        assert_eq!([got[0][0], got[1][0], got.len() as f32], [0., 1., 2.]);
    }

    #[test]
    fn limits_of_classes_and_images() {
        let limit = NonMaximumSuppressionParameter {
            top_k: Some(2),
            ..NonMaximumSuppressionParameter::default()
        };
        let got = detect(nms(limit), &THREE, &[0.5, 0.75, 0.25]);
        assert_eq!(got.len(), 1, "the third is cut, the first suppressed");
        let mut p = two_classes();
        p.keep_top_k = Some(1);
        p.background_label_id = Some(7);
        // Class 0 has scores of 1 everywhere.
        let got = detect(p.clone(), &THREE, &[0.5, 2., 0.25]);
        assert_eq!(got, [[0., 1., 2., 0., 1., 2., 3.]]);
        p.keep_top_k = Some(3);
        let got = detect(p.clone(), &THREE, &[0.5, 2., 0.25]);
        let labels: Vec<f32> = got.iter().map(|row| row[1]).collect();
        assert_eq!(labels, [0., 0., 1.]);
        p.keep_top_k = Some(0);
        assert_eq!(detect(p, &THREE, &[0.5, 2., 0.25])[0][1], -1.);
    }

    #[test]
    fn the_threshold_falls_with_each_box_kept() {
        // Overlaps of 2/3 and 1/2 with the first two.
        let boxes = [[0., 0., 1., 5.], [9., 0., 10., 5.], [0., 1., 1., 6.]];
        let falling = |eta| {
            nms(NonMaximumSuppressionParameter {
                nms_threshold: Some(0.9),
                eta: Some(eta),
                ..NonMaximumSuppressionParameter::default()
            })
        };
        assert_eq!(detect(falling(1.0), &boxes, &[3., 2., 1.]).len(), 3);
        assert_eq!(detect(falling(0.8), &boxes, &[3., 2., 1.]).len(), 2);
        // Above 1/2 it falls: to 0.45, which is not lowered again.
        assert_eq!(detect(falling(0.5), &boxes, &[3., 2., 1.]).len(), 2);
    }

    #[test]
    fn codes_of_locations() {
        use CodeType::{CenterSize, Corner, CornerSize};
        let prior = [1., 2., 3., 6., 0.5, 0.5, 0.5, 0.5];
        let ln4 = 4f32.ln();
        for (code, encoded, t, want) in [
            (Corner, false, [1., 2., 3., 4.], [1.5, 3., 4.5, 8.]),
            (Corner, true, [1., 2., 3., 4.], [2., 4., 6., 10.]),
            (CornerSize, false, [1., 1., 2., 2.], [2., 4., 5., 10.]),
            (CenterSize, false, [1., -1., ln4, -ln4], [1., 1., 5., 3.]),
        ] {
            let p = DetectionOutputParameter {
                code_type: Some(code.into()),
                variance_encoded_in_target: Some(encoded),
                ..two_classes()
            };
            let bottoms = [
                tensor(&[1, 4], t),
                tensor(&[1, 2], [0., 1.]),
                tensor(&[1, 2, 4], prior),
            ];
            let got = rows(p, &bottoms);
            super::super::testing::assert_close(&got[0][3..], &want, 1e-6);
        }
    }

    #[test]
    fn places_of_each_class_and_a_first_stage() {
        let prior = tensor(&[1, 2, 4], [0., 0., 1., 1., 1., 1., 1., 1.]);
        let p = DetectionOutputParameter {
            share_location: Some(false),
            background_label_id: Some(-1),
            ..two_classes()
        };
        let place = tensor(&[1, 8], [0., 0., 0., 0., 2., 2., 2., 2.]);
        let score = tensor(&[1, 2], [0.5, 0.25]);
        let got = rows(p, &[place, score.clone(), prior.clone()]);
        let want = [
            [0., 0., 0.5, 0., 0., 1., 1.],
            [0., 1., 0.25, 2., 2., 3., 3.],
        ];
        assert_eq!(got, want);
        let place = tensor(&[1, 4], [1.; 4]);
        let first = |objectness: f32| {
            let scores = tensor(&[1, 2], [9., objectness]);
            let bottoms = [&place, &score, &prior, &scores, &place].map(Clone::clone);
            rows(two_classes(), &bottoms)
        };
        assert_eq!(first(0.01), [[0., 1., 0.25, 2., 2., 3., 3.]]);
        // Class 0 alone is left, and it is the background: class 1 has a score of 0.
        assert_eq!(first(0.0), [[0., 1., 0., 2., 2., 3., 3.]]);
    }

    /// Two maps, of 2 boxes at 1 × 2 positions and of 1 box at 1 × 1.
    #[test]
    fn maps_that_are_not_joined() {
        let p = DetectionOutputParameter {
            no_permute: Some(true),
            nbottom: Some(2),
            nms_param: Some(NonMaximumSuppressionParameter {
                nms_threshold: Some(1.0),
                ..NonMaximumSuppressionParameter::default()
            }),
            ..two_classes()
        };
        let mut place = vec![0.0; 16];
        // Left side of box 1 at position 0.
        place[8] = 1.0;
        let square = |at: f32| [at, at, at + 1.0, at + 1.0];
        // Box by box at each position.
        let mut prior = [0., 10., 1., 11., 20.].map(square).concat();
        prior.extend((0..5).flat_map(|i| [i as f32; 4]));
        let bottoms = [
            tensor(&[1, 2, 2, 2], [0., 0., 0., 0., 0.5, 0.4, 0.3, 0.2]),
            tensor(&[1, 2, 1, 1], [0., 0.1]),
            tensor(&[1, 8, 1, 2], place),
            tensor(&[1, 4, 1, 1], [0.; 4]),
            tensor(&[1, 2, 20], prior),
        ];
        let got = rows(p.clone(), &bottoms);
        let lefts: Vec<f32> = got.iter().map(|row| row[3]).collect();
        // Of box 1 at position 0 the prior is number 1, the variance number 2.
        assert_eq!(lefts, [0., 1., 12., 11., 20.]);
        let scores: Vec<f32> = got.iter().map(|row| row[2]).collect();
        assert_eq!(scores, [0.5, 0.4, 0.3, 0.2, 0.1]);

        let good: [&[usize]; 5] = [
            &[1, 2, 2, 2],
            &[1, 2, 1, 1],
            &[1, 8, 1, 2],
            &[1, 4, 1, 1],
            &[1, 2, 20],
        ];
        for (at, shape, want) in [
            (0, &[1, 3, 2, 2][..], "bottom[0]: scores"),
            (3, &[1, 8, 1, 1], "bottom[1]: scores"),
            (4, &[1, 2, 24], "bottom[4]: "),
        ] {
            let mut shapes = good;
            shapes[at] = shape;
            let got = refusal::<DetectionOutput>(&param(p.clone()), &shapes);
            assert!(got.starts_with(want), "{got}");
        }
        type Change = fn(&mut DetectionOutputParameter);
        let cases: [(&str, Change); 3] = [
            ("nbottom", |p| p.no_permute = None),
            ("nbottom", |p| p.nbottom = Some(3)),
            ("share_location", |p| p.share_location = Some(false)),
        ];
        for (name, change) in cases {
            let mut p = p.clone();
            change(&mut p);
            let got = refusal::<DetectionOutput>(&param(p), &good);
            assert_eq!(
                got,
                format!("detection_output_param.{name}: detection_output_param.{name}")
            );
        }
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 3] = [&[1, 8], &[1, 4], &[1, 2, 8]];
        let refused = |p| refusal::<DetectionOutput>(&param(p), &shapes);
        let got = refused(DetectionOutputParameter::default());
        assert_eq!(got, "detection_output_param: num_classes is missing");
        let threshold = |t| NonMaximumSuppressionParameter {
            nms_threshold: Some(t),
            ..NonMaximumSuppressionParameter::default()
        };
        let eta = |eta| NonMaximumSuppressionParameter {
            eta: Some(eta),
            ..NonMaximumSuppressionParameter::default()
        };
        let mut none = two_classes();
        none.background_label_id = Some(-1);
        for (p, field) in [
            (nms(threshold(-0.5)), "nms_param.nms_threshold"),
            (nms(threshold(f32::NAN)), "nms_param.nms_threshold"),
            (nms(eta(0.)), "nms_param.eta"),
            (nms(eta(1.5)), "nms_param.eta"),
            (none, "background_label_id"),
        ] {
            let got = refused(p);
            let want = format!("detection_output_param.{field}: ");
            assert!(got.starts_with(&want), "{got}");
        }
        for (shapes, field) in [
            ([&[1, 9][..], &[1, 4], &[1, 2, 8]], "bottom[0]"),
            ([&[1, 8], &[1, 6], &[1, 2, 8]], "bottom[1]"),
            ([&[1, 8], &[2, 4], &[1, 2, 8]], "bottom[1]"),
            ([&[1, 8], &[1, 4], &[1, 1, 8]], "bottom[2]"),
        ] {
            let got = refusal::<DetectionOutput>(&param(two_classes()), &shapes);
            assert!(got.starts_with(field), "{got}");
        }
    }
}
