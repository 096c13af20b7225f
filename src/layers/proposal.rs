//! `Proposal`: regions from objectness and box offsets at anchors (mini-caffe and
//! Synopsys `proposal_layer.cpp`).
//!
//! * bottoms: scores `1 × 2A × H × W`, background first; offsets `1 × 4A × H × W`;
//!   height, width and scale of the picture.
//! * tops: regions `R × 5`: image 0 and corners; their scores, `R`, of Synopsys `R × 1`.
//!
//! Of mini-caffe (`ratio`, `scale`) a region below `min_size` gets a score of 0 and
//! stays; equal scores come in the order of its quicksort. Of Synopsys (`anchor_ratio`
//! and `anchor_scale` say how many) it goes, unless it is the last; of equal scores the
//! last comes first, and beyond the best `pre_nms_topn` the others follow unsorted.

use super::boxes::routine as boxes;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Proposal {
    synopsys: bool,
    /// Corners.
    anchors: Vec<[f32; 4]>,
    stride: usize,
    min_size: f32,
    /// Most regions before and after suppression.
    before: usize,
    after: usize,
    threshold: f32,
    /// There is a second top.
    scores: bool,
}

/// Boxes of the area of a square of `base`, for each ratio at each scale: whole sizes
/// before they are scaled.
pub(super) fn anchors(base: f32, ratios: &[f32], scales: &[f32]) -> Vec<[f32; 4]> {
    let center = 0.5 * (base - 1.0);
    let boxes = ratios.iter().flat_map(|&ratio| {
        let width = (base * base / ratio).sqrt().round();
        let height = (width * ratio).round();
        scales.iter().map(move |&scale| {
            let [x, y] = [width, height].map(|size| 0.5 * (size * scale - 1.0));
            [center - x, center - y, center + x, center + y]
        })
    });
    boxes.collect()
}

impl Layer for Proposal {
    fn claims() -> &'static [&'static str] {
        &[
            "proposal_param",
            "proposal_param.feat_stride",
            "proposal_param.base_size",
            "proposal_param.min_size",
            "proposal_param.ratio",
            "proposal_param.scale",
            "proposal_param.pre_nms_topn",
            "proposal_param.post_nms_topn",
            "proposal_param.nms_thresh",
            "proposal_param.nms_input_num",
            "proposal_param.nms_output_num",
            "proposal_param.stride_h",
            "proposal_param.stride_w",
            "proposal_param.nms_iou_th",
            "proposal_param.min_width",
            "proposal_param.min_height",
            "proposal_param.anchor",
            "proposal_param.anchor_base_size",
            "proposal_param.anchor_scale",
            "proposal_param.anchor_ratio",
            "proposal_param.max_rois",
            "proposal_param.rpn_min_size",
            "proposal_param.rpn_nms_thresh",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=3, 1..=2)?;
        cx.not_in_place()?;
        let p = param.proposal_param.clone().unwrap_or_default();
        let field = |name: &str| format!("proposal_param.{name}");
        for (given, name) in [
            (p.nms_input_num.is_some(), "nms_input_num"),
            (p.nms_output_num.is_some(), "nms_output_num"),
            (p.stride_h.is_some(), "stride_h"),
            (p.stride_w.is_some(), "stride_w"),
            (p.nms_iou_th.is_some(), "nms_iou_th"),
            (p.min_width.is_some(), "min_width"),
            (p.min_height.is_some(), "min_height"),
            (!p.anchor.is_empty(), "anchor"),
        ] {
            if given {
                return Err(cx.unsupported(&field(name), field(name)).into());
            }
        }
        let positive = |name: &str, value: i32| cx.positive(&field(name), value.max(0) as u32);
        let of_synopsys = p.anchor_base_size.is_some()
            || p.anchor_scale.is_some()
            || p.anchor_ratio.is_some()
            || p.max_rois.is_some()
            || p.rpn_min_size.is_some()
            || p.rpn_nms_thresh.is_some();
        let synopsys = of_synopsys || cx.dialect == Some(Dialect::Synopsys);
        let stride = positive("feat_stride", p.feat_stride())?;
        let before = positive("pre_nms_topn", p.pre_nms_topn())?;
        if synopsys {
            let three = |three: bool, all: [f32; 3], one: f32| match three {
                true => all.to_vec(),
                false => vec![one],
            };
            let ratios = three(p.anchor_ratio() == 3, [0.5, 1.0, 2.0], 1.0);
            let scales = three(p.anchor_scale() == 3, [8.0, 16.0, 32.0], 32.0);
            let base = positive("anchor_base_size", p.anchor_base_size())?;
            return Ok(Proposal {
                synopsys,
                anchors: anchors(base as f32, &ratios, &scales),
                stride,
                min_size: p.rpn_min_size(),
                before,
                after: positive("max_rois", p.max_rois())?,
                threshold: p.rpn_nms_thresh(),
                scores: cx.tops == 2,
            });
        }
        if p.ratio.is_empty() || p.scale.is_empty() {
            let message = "ratio or scale is missing";
            return Err(cx.invalid("proposal_param", message).into());
        }
        let base = cx.positive(&field("base_size"), p.base_size())?;
        Ok(Proposal {
            synopsys,
            anchors: anchors(base as f32, &p.ratio, &p.scale),
            stride,
            min_size: p.min_size() as f32,
            before,
            after: cx.positive(&field("post_nms_topn"), p.post_nms_topn())?,
            threshold: p.nms_thresh(),
            scores: cx.tops == 2,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [images, channels, height, width] = legacy(&bottoms[0], "bottom[0]", cx)?;
        if images != 1 {
            let message = format!("{images} pictures: this type takes one");
            return Err(cx.invalid("bottom[0]", message).into());
        }
        let each = self.anchors.len();
        if channels != 2 * each {
            let message = format!("{channels} channels instead of 2 for each of {each} anchors");
            return Err(cx.invalid("bottom[0]", message).into());
        }
        if legacy(&bottoms[1], "bottom[1]", cx)? != [1, 4 * each, height, width] {
            let message = format!("{} does not go with scores of {}", bottoms[1], bottoms[0]);
            return Err(cx.invalid("bottom[1]", message).into());
        }
        if bottoms[2].count() < 3 {
            let message = "height, width and scale of the picture: 3 values";
            return Err(cx.invalid("bottom[2]", message).into());
        }
        let before = if self.synopsys {
            usize::MAX
        } else {
            self.before
        };
        let rows = self.after.min(before).min(each * height * width).max(1);
        let mut tops = vec![vec![rows, 5]];
        if self.scores {
            tops.push(if self.synopsys {
                vec![rows, 1]
            } else {
                vec![rows]
            });
        }
        let located = |dims| cx.locate("proposal_param", Shape::new(dims));
        tops.into_iter().map(located).collect()
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [_, _, height, width] = bottoms[0].nchw()?;
        let form = usize::from(self.synopsys);
        let sizes = vec![height, width, self.stride, self.before, self.after, form];
        let mut values = vec![self.min_size, self.threshold];
        values.extend(self.anchors.iter().flatten());
        let routine = routine!("proposal", "boxes", "math");
        Some(Call::new(routine, sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{descending, exceeds, keep, max, min, overlap};
    use super::math::exp;

    // Corners and score.
    type Region = [f32; 5];

    // The regions in mini-caffe's order: a quicksort that leaves what comes after the
    // first `most` unsorted where it can.
    fn quicksort(regions: &mut [Region], most: usize) {
        let score = |region: &Region| {
            if region[4].is_nan() {
                f32::NEG_INFINITY
            } else {
                region[4]
            }
        };
        let mut open = vec![(0, regions.len().saturating_sub(1))];
        while let Some((left, right)) = open.pop() {
            let (mut first, mut last) = (left, right);
            let Some(&key) = regions.get(first) else {
                continue;
            };
            while first < last {
                while first < last && score(&regions[last]) <= score(&key) {
                    last -= 1;
                }
                regions[first] = regions[last];
                while first < last && score(&regions[first]) >= score(&key) {
                    first += 1;
                }
                regions[last] = regions[first];
            }
            regions[first] = key;
            if left + 1 < first {
                open.push((left, first - 1));
            }
            if first + 1 < most && first + 1 < right {
                open.push((first + 1, right));
            }
        }
    }

    // In Synopsys' order: the best `most`, of equal scores the last first. Each of the
    // others stands where it was, or where one stood that took its place among the best.
    fn partly_ranked(regions: &[Region], most: usize) -> Vec<usize> {
        let order = |a: usize, b: usize| descending(regions[a][4], regions[b][4]).then(b.cmp(&a));
        let mut best: Vec<usize> = (0..regions.len().min(most)).collect();
        best.sort_by(|&a, &b| order(a, b));
        let mut others = Vec::new();
        for i in best.len()..regions.len() {
            match best.pop() {
                Some(worst) if order(i, worst).is_lt() => {
                    let at = best.partition_point(|&other| order(other, i).is_lt());
                    best.insert(at, i);
                    others.push(worst);
                }
                worst => {
                    best.extend(worst);
                    others.push(i);
                }
            }
        }
        best.extend(others);
        best
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [height, width, stride] = [sizes[0], sizes[1], sizes[2]];
        let [before, after] = [sizes[3], sizes[4]];
        let synopsys = sizes[5] == 1;
        let anchors = &values[2..];
        let (each, cells) = (anchors.len() / 4, height * width);
        let picture = bottoms[2];
        // Synopsys takes whole pixels.
        let [picture_h, picture_w] =
            [picture[0], picture[1]].map(|x| if synopsys { x.trunc() } else { x });
        let smallest = values[0] * picture[2];
        // The region, and whether it is large enough.
        let region = |k: usize, cell: usize| -> (Region, bool) {
            let offset = |i: usize| bottoms[1][(4 * k + i) * cells + cell];
            let axis = |i: usize, at: usize, limit: f32| {
                let (low, high) = (anchors[4 * k + i], anchors[4 * k + 2 + i]);
                let at = (at * stride) as f32;
                let (low, size) = (at + low, (at + high) - (at + low) + 1.0);
                let center = offset(i) * size + (low + 0.5 * size);
                let half = 0.5 * (exp(f64::from(offset(i + 2))) as f32 * size);
                let clip = |x: f32| max(0.0, min(x, limit - 1.0));
                (clip(center - half), clip(center + half))
            };
            let (x1, x2) = axis(0, cell % width, picture_w);
            let (y1, y2) = axis(1, cell / width, picture_h);
            let fits = x2 - x1 + 1.0 >= smallest && y2 - y1 + 1.0 >= smallest;
            let score = bottoms[0][(each + k) * cells + cell];
            ([x1, y1, x2, y2, score], fits)
        };
        let mut regions: Vec<Region> = Vec::new();
        let candidates: Vec<usize> = if synopsys {
            for i in 0..each * cells {
                let (region, fits) = region(i / cells, i % cells);
                if fits || i + 1 == each * cells {
                    regions.push(region);
                }
            }
            partly_ranked(&regions, before)
        } else {
            for i in 0..each * cells {
                let (mut region, fits) = region(i % each, i / each);
                region[4] *= f32::from(fits);
                regions.push(region);
            }
            quicksort(&mut regions, before);
            (0..regions.len().min(before)).collect()
        };
        let suppresses = |better: usize, other: usize| {
            let shared = overlap(&regions[better], &regions[other], 1.0);
            // They differ where it is no number.
            if synopsys {
                exceeds(shared, values[1])
            } else {
                shared > values[1]
            }
        };
        let kept = keep(&candidates, after, suppresses);
        for top in tops.iter_mut() {
            top.fill(0.0);
        }
        let Some((count, tops)) = tops.split_last_mut() else {
            return;
        };
        count[0] = kept.len() as f32;
        for (row, &i) in kept.iter().enumerate() {
            let [x1, y1, x2, y2, score] = regions[i];
            tops[0][5 * row..5 * row + 5].copy_from_slice(&[0.0, x1, y1, x2, y2]);
            if let [_, scores] = tops {
                scores[row] = score;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ProposalParameter;

    fn param(p: ProposalParameter) -> LayerParameter {
        LayerParameter {
            top: vec!["regions".into(), "scores".into()],
            proposal_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// One anchor of 16 pixels.
    fn mini() -> ProposalParameter {
        ProposalParameter {
            ratio: vec![1.0],
            scale: vec![1.0],
            ..ProposalParameter::default()
        }
    }

    /// Of three cells in a picture of 16 by 48, offsets 0.
    fn propose(p: ProposalParameter, scores: [f32; 3], scale: f32) -> (Vec<f32>, Vec<f32>) {
        let bottoms = [
            tensor(&[1, 2, 1, 3], [[9.0; 3], scores].concat()),
            tensor(&[1, 4, 1, 3], [0.0; 12]),
            tensor(&[1, 3], [16., 48., scale]),
        ];
        let tops = forward_counted::<Proposal>(&param(p), &bottoms);
        let left = tops[0].data.chunks(5).map(|row| row[1]).collect();
        (left, tops[1].data.clone())
    }

    #[test]
    fn anchors_have_whole_sizes_before_they_are_scaled() {
        let got = anchors(16., &[0.5, 2.], &[2.]);
        // 23 by 12, as 22.6 and 11.5 round, and 11 by 22.
        assert_eq!(got, [[-15., -4., 30., 19.], [-3., -14., 18., 29.]]);
    }

    #[test]
    fn the_best_first() {
        // Boxes move right by half a pixel: their centre is first pixel + half the width.
        let (left, scores) = propose(mini(), [0.5, 0.75, 0.25], 1.);
        assert_eq!(scores, [0.75, 0.5, 0.25]);
        assert_eq!(left, [16., 0., 32.]);
    }

    #[test]
    fn small_ones_stay_with_a_score_of_0() {
        let (left, scores) = propose(mini(), [0.5, 0.75, 0.25], 1.05);
        // The middle one is 17 pixels wide and 16 high.
        assert_eq!(scores, [0.; 3]);
        assert_eq!(left.len(), 3);
        let (_, scores) = propose(mini(), [f32::NAN, 0.75, 0.25], 1.);
        assert_eq!(scores[..2], [0.75, 0.25]);
    }

    #[test]
    fn limits_and_suppression() {
        let p = ProposalParameter {
            post_nms_topn: Some(1),
            ..mini()
        };
        assert_eq!(propose(p, [0.5, 0.75, 0.25], 1.).0, [16.]);
        let p = ProposalParameter {
            pre_nms_topn: Some(2),
            ..mini()
        };
        assert_eq!(propose(p, [0.5, 0.75, 0.25], 1.).0, [16., 0.]);
        let p = ProposalParameter {
            nms_thresh: Some(0.02),
            ..mini()
        };
        // Neighbours share a column: 16 of 16·17 + 16·17 − 16 cells.
        assert_eq!(propose(p, [0.5, 0.75, 0.25], 1.).0, [16.]);
    }

    #[test]
    fn synopsys_drops_small_ones_but_the_last() {
        let p = ProposalParameter {
            anchor_ratio: Some(1),
            anchor_scale: Some(1),
            rpn_min_size: Some(100.),
            rpn_nms_thresh: Some(1.),
            ..ProposalParameter::default()
        };
        let (_, scores) = propose(p.clone(), [0.5, 0.75, 0.25], 1.);
        assert_eq!(scores, [0.25]);
        let p = ProposalParameter {
            rpn_min_size: Some(0.),
            ..p
        };
        assert_eq!(propose(p.clone(), [0.5, 0.75, 0.5], 1.).1, [0.75, 0.5, 0.5]);
        let p = ProposalParameter {
            pre_nms_topn: Some(1),
            ..p
        };
        // The second takes the place of the first, then the third that of the second.
        assert_eq!(propose(p, [0.25, 0.5, 0.75], 1.).1, [0.75, 0.25, 0.5]);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 3] = [&[1, 2, 1, 3], &[1, 4, 1, 3], &[1, 3]];
        let refused = |p, shapes: &[&[usize]]| refusal::<Proposal>(&param(p), shapes);
        let got = refused(ProposalParameter::default(), &shapes);
        assert_eq!(got, "proposal_param: ratio or scale is missing");
        let p = ProposalParameter {
            stride_h: Some(1),
            ..mini()
        };
        assert!(refused(p, &shapes).starts_with("proposal_param.stride_h: "));
        for (i, dims) in [
            (0, &[2, 2, 1, 3][..]),
            (0, &[1, 4, 1, 3]),
            (1, &[1, 4, 3, 1]),
            (2, &[1, 2]),
        ] {
            let mut shapes = shapes;
            shapes[i] = dims;
            let got = refused(mini(), &shapes);
            assert!(got.starts_with(&format!("bottom[{i}]: ")), "{got}");
        }
    }
}
