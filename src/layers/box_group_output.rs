//! `BoxGroupOutput`: proposals from maps with several anchors a cell (Cascade R-CNN
//! `box_group_output_layer.cpp`).
//!
//! * bottoms: for each scale of A anchors, scores `(N·A) × C × H × W` and offsets
//!   `(N·A) × 4 × H × W`.
//! * tops as of [`BoxOutput`](super::box_output).
//!
//! The score is 1 minus the background's. Boxes count their last pixel. Of equal scores
//! the first comes first; Caffe leaves it to its C++ library.

use super::box_output::{Limits, routine as box_output};
use super::boxes::routine as boxes;
use super::decode_bbox::statistics;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct BoxGroupOutput {
    limits: Limits,
    statistics: [f32; 8],
    /// Of each scale: pixels per cell, width and height of each anchor.
    maps: Vec<(u32, Vec<[u32; 2]>)>,
}

impl Layer for BoxGroupOutput {
    fn claims() -> &'static [&'static str] {
        &["box_group_output_param", "bbox_reg_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2.., 1..=2)?;
        cx.not_in_place()?;
        let p = param.box_group_output_param.clone().unwrap_or_default();
        let groups = p.box_group_param.len();
        if 2 * groups != cx.bottoms {
            let message = format!("{groups} box_group_param for {} bottoms", cx.bottoms);
            return Err(cx.invalid("box_group_output_param", message).into());
        }
        let mut maps = Vec::new();
        for (i, group) in p.box_group_param.iter().enumerate() {
            if group.field_w.is_empty() || group.field_w.len() != group.field_h.len() {
                let message = "as many field_h as field_w, at least one";
                let field = format!("box_group_output_param.box_group_param[{i}].field_w");
                return Err(cx.invalid(&field, message).into());
            }
            let sizes = group.field_w.iter().zip(&group.field_h);
            maps.push((group.stride(), sizes.map(|(&w, &h)| [w, h]).collect()));
        }
        Ok(BoxGroupOutput {
            limits: Limits {
                thresholds: [p.fg_thr(), p.iou_thr(), p.min_size()],
                of: Limits::of(p.nms_type(), "box_group_output_param.nms_type", cx)?,
                factors: [p.field_whr(), p.field_xyr()],
                before: Limits::limit(p.max_nms_num()),
                after: Limits::limit(p.max_post_nms_num()),
            },
            statistics: statistics(param, cx)?,
            maps,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [all, classes, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        let images = all / self.maps[0].1.len();
        let mut boxes = 0usize;
        for (i, (pair, (_, anchors))) in bottoms.chunks(2).zip(&self.maps).enumerate() {
            let [n, c, height, width] = legacy(&pair[0], &format!("bottom[{}]", 2 * i), cx)?;
            if c != classes || n != images * anchors.len() {
                let (scores, each) = (&pair[0], anchors.len());
                let message =
                    format!("{scores} for {images} images, {each} anchors, {classes} classes");
                return Err(cx.invalid(&format!("bottom[{}]", 2 * i), message).into());
            }
            let at = format!("bottom[{}]", 2 * i + 1);
            if legacy(&pair[1], &at, cx)? != [n, 4, height, width] {
                let message = format!("{} does not go with scores of {}", pair[1], pair[0]);
                return Err(cx.invalid(&at, message).into());
            }
            boxes = boxes.saturating_add(anchors.len() * height * width);
        }
        self.limits.tops(images, boxes, cx)
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [all, classes, ..] = bottoms[0].nchw()?;
        let limits = &self.limits;
        let images = all / self.maps[0].1.len();
        let mut sizes = vec![limits.of, limits.before, limits.after, images, classes];
        let mut values = limits.values(self.statistics);
        for (pair, (stride, anchors)) in bottoms.chunks(2).zip(&self.maps) {
            let [.., height, width] = pair[0].nchw()?;
            sizes.extend([height, width, anchors.len()]);
            for [w, h] in anchors {
                values.extend([*w as f32, *h as f32, *stride as f32]);
            }
        }
        let routine = routine!("box_group_output", "box_output", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::box_output::{Region, decode, select, share, write};
    use super::boxes::{max, min};

    // Of regions from x, y to x, y.
    fn overlap(a: &Region, b: &Region, of: usize) -> f32 {
        if a[2] < a[0] || a[3] < a[1] || b[2] < b[0] || b[3] < b[1] {
            return 0.0;
        }
        let area = |r: &Region| (r[2] - r[0] + 1.0) * (r[3] - r[1] + 1.0);
        let [x1, y1] = [max(a[0], b[0]), max(a[1], b[1])];
        let [x2, y2] = [min(a[2], b[2]), min(a[3], b[3])];
        // Regions that share one column overlap, those that share one row do not.
        let apart = x1 > x2 || y1 >= y2;
        let both = if apart {
            0.0
        } else {
            (x2 - x1 + 1.0) * (y2 - y1 + 1.0)
        };
        share(both, area(a), area(b), of)
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [images, classes] = [sizes[3], sizes[4]];
        let mut rows = Vec::new();
        for image in 0..images {
            let mut regions: Vec<Region> = Vec::new();
            let mut anchors = values[15..].chunks_exact(3);
            for (pair, map) in bottoms.chunks_exact(2).zip(sizes[5..].chunks_exact(3)) {
                let [height, width, each] = [map[0], map[1], map[2]];
                let cells = height * width;
                for (k, anchor) in anchors.by_ref().take(each).enumerate() {
                    let group = image * each + k;
                    let limit = |len: usize| (len as f32 * anchor[2]).trunc();
                    for cell in 0..cells {
                        let score = 1.0 - pair[0][group * classes * cells + cell];
                        if score < values[0] || score.is_nan() {
                            continue;
                        }
                        let t = [0, 1, 2, 3].map(|i| pair[1][(4 * group + i) * cells + cell]);
                        let [x, y, w, h] = decode(t, [cell % width, cell / width], anchor, values);
                        let x2 = min(limit(width), x + w - 1.0);
                        let y2 = min(limit(height), y + h - 1.0);
                        let [x, y] = [max(0.0, x), max(0.0, y)];
                        if x2 - x + 1.0 >= values[2] && y2 - y + 1.0 >= values[2] {
                            regions.push([x, y, x2, y2, score]);
                        }
                    }
                }
            }
            let overlap = |a: &Region, b: &Region| overlap(a, b, sizes[0]);
            for [x1, y1, x2, y2, score] in select(&regions, sizes, values, overlap) {
                rows.push([image as f32, x1, y1, x2, y2, score]);
            }
        }
        write(&rows, tops);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{BoxGroupOutputParameter, BoxGroupParameter};

    fn param(p: BoxGroupOutputParameter) -> LayerParameter {
        LayerParameter {
            top: vec!["regions".into(), "scores".into()],
            box_group_output_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Anchors of 8 by 8 and 4 by 4 pixels in one cell of 8.
    fn two() -> BoxGroupOutputParameter {
        let group = BoxGroupParameter {
            field_w: vec![8, 4],
            field_h: vec![8, 4],
            stride: Some(8),
        };
        BoxGroupOutputParameter {
            box_group_param: vec![group],
            min_size: Some(1.),
            fg_thr: Some(0.25),
            iou_thr: Some(16. / 64.),
            ..BoxGroupOutputParameter::default()
        }
    }

    fn found(p: BoxGroupOutputParameter, background: [f32; 2]) -> Vec<f32> {
        let bottoms = [
            tensor(&[2, 1, 1, 1], background),
            tensor(&[2, 4, 1, 1], [0.; 8]),
        ];
        forward_counted::<BoxGroupOutput>(&param(p), &bottoms)
            .remove(1)
            .data
    }

    #[test]
    fn anchors_of_a_cell() {
        let got = found(two(), [0.5, 0.25]);
        assert_eq!(got, [0., 2., 2., 5., 5., 0.75, 0., 0., 0., 7., 7., 0.5]);
        let p = BoxGroupOutputParameter {
            iou_thr: Some(0.24),
            ..two()
        };
        assert_eq!(found(p, [0.5, 0.25]).len(), 6);
        assert_eq!(found(two(), [0.8, f32::NAN]), [0.; 6]);
        let p = BoxGroupOutputParameter {
            min_size: Some(5.),
            ..two()
        };
        assert_eq!(found(p, [0.5, 0.25])[5], 0.5);
    }

    #[test]
    fn where_there_is_none_there_is_one() {
        let bottoms = [
            tensor(&[2, 1, 1, 1], [1.; 2]),
            tensor(&[2, 4, 1, 1], [0.; 8]),
        ];
        let tops = forward_counted::<BoxGroupOutput>(&param(two()), &bottoms);
        assert_eq!(tops[0].data, [0., 1., 1., 10., 10.]);
    }

    #[test]
    fn refusals() {
        let p = BoxGroupOutputParameter::default();
        let shapes: [&[usize]; 2] = [&[2, 1, 1, 1], &[2, 4, 1, 1]];
        let got = refusal::<BoxGroupOutput>(&param(p), &shapes);
        assert!(got.starts_with("box_group_output_param: 0 "), "{got}");
        for (shapes, at) in [
            ([&[3, 1, 1, 1][..], &[3, 4, 1, 1]], 0),
            ([&[2, 1, 1, 1], &[2, 4, 1, 2]], 1),
        ] {
            let got = refusal::<BoxGroupOutput>(&param(two()), &shapes);
            assert!(got.starts_with(&format!("bottom[{at}]: ")), "{got}");
        }
    }
}
