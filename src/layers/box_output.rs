//! `BoxOutput`: proposals from maps of several scales (MS-CNN `box_output_layer.cpp`),
//! and what `BoxGroupOutput` shares with it.
//!
//! * bottoms: for each scale `N × (C + 4) × H × W`: scores, background first, then
//!   offsets.
//! * tops: regions `R × 5 × 1 × 1`: image, corners; the same with the score,
//!   `R × 6 × 1 × 1`. Where none is found, one region (0, 1, 1, 10, 10), of zeros in the
//!   second top.
//!
//! The score is the best class' minus the background's. Of equal scores the last comes
//! first.

use super::boxes::routine as boxes;
use super::decode_bbox::statistics;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

/// What both types know of all maps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Least score, overlap at which a region is suppressed, least size.
    pub thresholds: [f32; 3],
    /// What the overlap is a share of: both boxes, the smaller, the better.
    pub of: usize,
    /// Largest factors on size and offset.
    pub factors: [f32; 2],
    /// Most regions of an image before and after suppression.
    pub before: usize,
    pub after: usize,
}

impl Limits {
    /// As the routines' first 15 values, with the statistics of the offsets.
    pub fn values(&self, statistics: [f32; 8]) -> Vec<f32> {
        let [size, offset] = self.factors;
        let log = f64::from(size).ln() as f32;
        let inverse = f64::from(1.0 / size).ln() as f32;
        let mut values = self.thresholds.to_vec();
        values.extend([-1.0 / offset, 1.0 / offset, inverse, log]);
        values.extend(statistics);
        values
    }

    /// Errors: `Invalid` for an unknown `nms_type`.
    pub fn of(nms_type: &str, field: &str, cx: &Cx) -> Result<usize> {
        let known = ["IOU", "IOMU", "IOFU"].iter().position(|&t| t == nms_type);
        let message = || format!("`{nms_type}` is not IOU, IOMU or IOFU");
        Ok(known.ok_or_else(|| cx.invalid(field, message()))?)
    }

    /// A limit that is missing where it is 0.
    pub fn limit(most: u32) -> usize {
        if most == 0 { usize::MAX } else { most as usize }
    }

    /// The shapes of the tops, of `boxes` an image.
    pub fn tops(&self, images: usize, boxes: usize, cx: &Cx) -> Result<Vec<Shape>> {
        let each = boxes.min(self.before).min(self.after);
        let rows = images.saturating_mul(each).max(1);
        let shape = |columns| cx.locate("bottom", Shape::new([rows, columns, 1, 1]));
        [5, 6][..cx.tops]
            .iter()
            .map(|&columns| shape(columns))
            .collect()
    }
}

#[derive(Clone, Debug)]
pub struct BoxOutput {
    limits: Limits,
    statistics: [f32; 8],
    /// Of each bottom: width and height of its objects, pixels per cell.
    maps: Vec<[u32; 3]>,
}

impl Layer for BoxOutput {
    fn claims() -> &'static [&'static str] {
        &["box_output_param", "bbox_reg_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..=2)?;
        cx.not_in_place()?;
        let p = param.box_output_param.clone().unwrap_or_default();
        for (values, field) in [
            (&p.field_w, "field_w"),
            (&p.field_h, "field_h"),
            (&p.downsample_rate, "downsample_rate"),
        ] {
            if values.len() != cx.bottoms {
                let message = format!("{} values for {} bottoms", values.len(), cx.bottoms);
                return Err(cx
                    .invalid(&format!("box_output_param.{field}"), message)
                    .into());
            }
        }
        let map = |i: usize| [p.field_w[i], p.field_h[i], p.downsample_rate[i]];
        Ok(BoxOutput {
            limits: Limits {
                thresholds: [p.fg_thr(), p.iou_thr(), p.min_size()],
                of: Limits::of(p.nms_type(), "box_output_param.nms_type", cx)?,
                factors: [p.field_whr(), p.field_xyr()],
                before: Limits::limit(p.max_nms_num()),
                after: Limits::limit(p.max_post_nms_num()),
            },
            statistics: statistics(param, cx)?,
            maps: (0..cx.bottoms).map(map).collect(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [images, channels, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        let mut cells = 0usize;
        for (i, bottom) in bottoms.iter().enumerate() {
            let at = format!("bottom[{i}]");
            let [n, c, height, width] = legacy(bottom, &at, cx)?;
            if n != images || c != channels || c < 5 {
                let message = format!("{bottom} does not go with {}", bottoms[0]);
                return Err(cx.invalid(&at, message).into());
            }
            cells = cells.saturating_add(height * width);
        }
        self.limits.tops(images, cells, cx)
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, channels, ..] = bottoms[0].nchw()?;
        let limits = &self.limits;
        let mut sizes = vec![limits.of, limits.before, limits.after, images, channels];
        let mut values = limits.values(self.statistics);
        for (bottom, map) in bottoms.iter().zip(&self.maps) {
            let [.., height, width] = bottom.nchw()?;
            sizes.extend([height, width]);
            values.extend(map.map(|value| value as f32));
        }
        let routine = routine!("box_output", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
pub mod routine {
    use super::boxes::{descending, keep, max, min, ranked_by};
    use super::math::exp;

    // x, y, width and height; the score.
    pub type Region = [f32; 5];

    // The box that offsets t mean in a cell. `map`: width and height of its objects,
    // pixels per cell.
    pub fn decode(t: [f32; 4], cell: [usize; 2], map: &[f32], values: &[f32]) -> [f32; 4] {
        let (bounds, statistics) = values[3..].split_at(4);
        let t: [f32; 4] = std::array::from_fn(|i| {
            let [low, high] = [bounds[i / 2 * 2], bounds[i / 2 * 2 + 1]];
            min(high, max(low, t[i] * statistics[4 + i] + statistics[i]))
        });
        let axis = |i: usize| {
            let center = t[i] * map[i] + (cell[i] as f32 + 0.5) * map[2];
            let size = map[i] * exp(f64::from(t[i + 2])) as f32;
            (center - size / 2.0, size)
        };
        let ((x, width), (y, height)) = (axis(0), axis(1));
        [x, y, width, height]
    }

    // An intersection as a share of what `of` says.
    pub fn share(both: f32, better: f32, other: f32, of: usize) -> f32 {
        both / match of {
            0 => better + other - both,
            1 => min(better, other),
            _ => better,
        }
    }

    // The best regions of an image that no better one suppresses.
    pub fn select(
        regions: &[Region],
        sizes: &[usize],
        values: &[f32],
        overlap: impl Fn(&Region, &Region) -> f32,
    ) -> Vec<Region> {
        let order = |a: usize, b: usize| descending(regions[a][4], regions[b][4]);
        let mut candidates = ranked_by(regions.len(), order);
        candidates.truncate(sizes[1]);
        let suppresses = |a: usize, b: usize| overlap(&regions[a], &regions[b]) > values[1];
        let kept = keep(&candidates, sizes[2], suppresses);
        kept.into_iter().map(|i| regions[i]).collect()
    }

    // Writes image and corners, and with them the scores into a second top.
    pub fn write(rows: &[[f32; 6]], tops: &mut [&mut [f32]]) {
        let Some((count, tops)) = tops.split_last_mut() else {
            return;
        };
        count[0] = rows.len().max(1) as f32;
        for (top, columns) in tops.iter_mut().zip([5, 6]) {
            top.fill(0.0);
            if rows.is_empty() && columns == 5 {
                top[..5].copy_from_slice(&[0.0, 1.0, 1.0, 10.0, 10.0]);
            }
            for (to, row) in top.chunks_exact_mut(columns).zip(rows) {
                to.copy_from_slice(&row[..columns]);
            }
        }
    }

    fn overlap(a: &Region, b: &Region, of: usize) -> f32 {
        if a[2] <= 0.0 || a[3] <= 0.0 || b[2] <= 0.0 || b[3] <= 0.0 {
            return 0.0;
        }
        let along = |i: usize| min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]);
        let [width, height] = [along(0), along(1)];
        let apart = width <= 0.0 || height <= 0.0;
        let both = if apart { 0.0 } else { width * height };
        share(both, a[2] * a[3], b[2] * b[3], of)
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [images, classes] = [sizes[3], sizes[4] - 4];
        let mut rows = Vec::new();
        for image in 0..images {
            let mut regions: Vec<Region> = Vec::new();
            let maps = sizes[5..].chunks_exact(2).zip(values[15..].chunks_exact(3));
            for (bottom, (extent, map)) in bottoms.iter().zip(maps) {
                let [height, width] = [extent[0], extent[1]];
                let cells = height * width;
                for cell in 0..cells {
                    let value = |c: usize| bottom[(image * sizes[4] + c) * cells + cell];
                    let best = (1..classes).map(value).fold(f32::MIN, max);
                    let score = best - value(0);
                    if score < values[0] || score.is_nan() {
                        continue;
                    }
                    let t = [0, 1, 2, 3].map(|i| value(classes + i));
                    let [x, y, w, h] = decode(t, [cell % width, cell / width], map, values);
                    let [x, y] = [max(x, 0.0), max(y, 0.0)];
                    let w = min(w, (width as f32 * map[2]).trunc() - x);
                    let h = min(h, (height as f32 * map[2]).trunc() - y);
                    if w >= values[2] && h >= values[2] {
                        regions.push([x, y, w, h, score]);
                    }
                }
            }
            regions.reverse();
            let overlap = |a: &Region, b: &Region| overlap(a, b, sizes[0]);
            for [x, y, w, h, score] in select(&regions, sizes, values, overlap) {
                rows.push([image as f32, x, y, x + w, y + h, score]);
            }
        }
        write(&rows, tops);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::BoxOutputParameter;

    fn param(p: BoxOutputParameter) -> LayerParameter {
        LayerParameter {
            top: vec!["regions".into(), "scores".into()],
            box_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Objects of 8 by 4 pixels in cells of 8.
    fn one() -> BoxOutputParameter {
        BoxOutputParameter {
            field_w: vec![8],
            field_h: vec![4],
            downsample_rate: vec![8],
            min_size: Some(1.),
            fg_thr: Some(0.25),
            ..BoxOutputParameter::default()
        }
    }

    /// Scores of two cells, and offsets of the second.
    fn found(p: BoxOutputParameter, scores: [f32; 2], t: [f32; 4]) -> Vec<f32> {
        let [x, y, w, h] = t.map(|t| [0., t]);
        let values = [[0.5; 2], scores.map(|s| s + 0.5), x, y, w, h];
        let bottom = tensor(&[1, 6, 1, 2], values.concat());
        forward_counted::<BoxOutput>(&param(p), &[bottom])
            .remove(1)
            .data
    }

    #[test]
    fn boxes_of_cells() {
        let got = found(one(), [0.5, 0.25], [0.; 4]);
        assert_eq!(got, [0., 0., 2., 8., 6., 0.5, 0., 8., 2., 16., 6., 0.25]);
        let got = found(one(), [0.125, 0.25], [-9., 0., 9., 2f32.ln()]);
        // Offset at most half of 8, size at most twice 8: from 0 to 16.
        assert_close(&got, &[0., 0., 0., 16., 8., 0.25], 1e-6);
        assert_eq!(found(one(), [f32::NAN; 2], [0.; 4]), [0.; 6]);
    }

    #[test]
    fn of_those_that_overlap_the_best() {
        let wide = [0., 0., 9., 0.];
        let overlapping = |threshold, kind: &str| {
            let p = BoxOutputParameter {
                iou_thr: Some(threshold),
                nms_type: Some(kind.into()),
                ..one()
            };
            found(p, [0.5, 1.], wide).len() / 6
        };
        // The second is cut at the picture's edge: 12 by 4, 4 of the first's 8 in it.
        assert_eq!(overlapping(4. / 16., "IOU"), 2);
        assert_eq!(overlapping(0.24, "IOU"), 1);
        assert_eq!(overlapping(0.49, "IOMU"), 1);
        assert_eq!(overlapping(0.5, "IOMU"), 2);
        assert_eq!(overlapping(0.32, "IOFU"), 1);
        assert_eq!(overlapping(0.34, "IOFU"), 2);
        let p = BoxOutputParameter {
            max_nms_num: Some(1),
            ..one()
        };
        assert_eq!(found(p, [0.5, 0.5], [0.; 4])[1], 8., "of equals the last");
    }

    #[test]
    fn refusals() {
        let shape: [&[usize]; 1] = [&[1, 6, 1, 2]];
        for (p, field) in [
            (
                BoxOutputParameter {
                    field_w: vec![],
                    ..one()
                },
                "field_w",
            ),
            (
                BoxOutputParameter {
                    nms_type: Some("best".into()),
                    ..one()
                },
                "nms_type",
            ),
        ] {
            let got = refusal::<BoxOutput>(&param(p), &shape);
            assert!(
                got.starts_with(&format!("box_output_param.{field}: ")),
                "{got}"
            );
        }
        let got = refusal::<BoxOutput>(&param(one()), &[&[1, 4, 1, 2]]);
        assert!(got.starts_with("bottom[0]: "), "{got}");
    }
}
