//! `ROIAlign` of MS-CNN and Cascade R-CNN (`roi_align_layer.cpp`): bilinear samples at
//! the corners of `pooled_h × pooled_w` parts of a region.
//!
//! * bottoms: maps `N × C × H × W`; regions `R × 5`.
//! * top `R × C × (pooled_h + 1) × (pooled_w + 1)`; 0 more than half a cell outside, and
//!   for regions without extent. A region of an image that is not there is an error,
//!   found when the net runs.

use super::boxes::routine as boxes;
use super::roi_pooling::{NO_IMAGE, pooled, regions};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct RoiAlign {
    pooled: [usize; 2],
    scale: f32,
    pad_ratio: f32,
}

impl Layer for RoiAlign {
    fn claims() -> &'static [&'static str] {
        &["roi_pooling_param", "roi_pooling_param.pad_ratio"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        if cx.dialect == Some(Dialect::Synopsys) {
            let message = "ROIAlign of the fork Synopsys, which is another layer";
            return Err(cx.unsupported("type", message).into());
        }
        let p = param.roi_pooling_param.clone().unwrap_or_default();
        Ok(RoiAlign {
            pooled: pooled(&p, cx)?,
            scale: p.spatial_scale.unwrap_or(1.0),
            pad_ratio: p.pad_ratio(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let ([_, channels, ..], regions) = regions(bottoms, cx)?;
        let [h, w] = self.pooled;
        let top = Shape::new([regions, channels, h + 1, w + 1]);
        Ok(vec![cx.locate("roi_pooling_param", top)?])
    }

    /// A part of the top for each region.
    fn carries(&self, bottom: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (bottom == 1 && axis == 0).then_some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, channels, height, width] = bottoms[0].nchw()?;
        let [h, w] = self.pooled;
        let sizes = vec![images, channels, height, width, h, w];
        let values = vec![self.scale, self.pad_ratio];
        let call = Call::new(routine!("roi_align", "boxes"), sizes, values);
        Some(call.faults(&[NO_IMAGE]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::each_region;

    // Two neighbours, and the share of the second.
    type Sample = (usize, usize, f32);

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        each_region(bottoms, tops, sizes, |maps, region, y| {
            one(maps, region, y, sizes, values)
        });
    }

    // One region of the maps of its image.
    fn one(maps: &[f32], region: &[f32], top: &mut [f32], sizes: &[usize], values: &[f32]) {
        let [height, width] = [sizes[2], sizes[3]];
        // Where a sample lies outside there is none.
        let samples = |axis: usize, pooled: usize, len: usize| -> Vec<Option<Sample>> {
            let [from, to] = [region[1 + axis], region[3 + axis]];
            let pad = (to - from + 1.0) * values[1];
            let first = (from - pad) * values[0] - 0.5;
            let extent = (to + pad) * values[0] - 0.5 - first;
            let last = len - 1;
            let sample = |i: usize| {
                let at = first + i as f32 * (extent / pooled as f32);
                let inside = f64::from(at) >= -0.5 && f64::from(at) <= len as f64 - 0.5;
                let low = (at.floor().max(0.0) as usize).min(last);
                let high = ((at.floor() + 1.0).max(0.0) as usize).min(last);
                let share = at.max(0.0).min(last as f32) - low as f32;
                (inside && extent > 0.0).then_some((low, high, share))
            };
            (0..=pooled).map(sample).collect()
        };
        let [rows, columns] = [samples(1, sizes[4], height), samples(0, sizes[5], width)];
        let each = rows.len() * columns.len();
        for (i, y) in top.iter_mut().enumerate() {
            let map = &maps[i / each * height * width..];
            let sample = (rows[i % each / columns.len()], columns[i % columns.len()]);
            *y = match sample {
                (Some((top, bottom, down)), Some((left, right, aside))) => {
                    let at = |h: usize, w: usize| map[h * width + w];
                    let [up, before] = [1.0 - down, 1.0 - aside];
                    before * up * at(top, left)
                        + aside * up * at(top, right)
                        + before * down * at(bottom, left)
                        + aside * down * at(bottom, right)
                }
                _ => 0.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::RoiPoolingParameter;

    fn param(pooled: u32, pad_ratio: f32) -> LayerParameter {
        let p = RoiPoolingParameter {
            pooled_h: Some(pooled),
            pooled_w: Some(pooled),
            pad_ratio: Some(pad_ratio),
            ..RoiPoolingParameter::default()
        };
        LayerParameter {
            roi_pooling_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Of the map 0 to 15, four by four.
    fn align(pad_ratio: f32, region: [f32; 5]) -> Vec<f32> {
        let map: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let bottoms = [tensor(&[1, 1, 4, 4], map), tensor(&[1, 5], region)];
        forward::<RoiAlign>(&param(1, pad_ratio), &bottoms, &[])
            .remove(0)
            .data
    }

    #[test]
    fn samples_at_corners() {
        // Corners at 0.5 and 1.5 cells.
        assert_eq!(align(0., [0., 1., 1., 2., 2.]), [2.5, 3.5, 6.5, 7.5]);
        // Half a cell outside counts as the border; pads of 1 = half of 2.
        assert_eq!(align(0.5, [0., 1., 1., 2., 2.]), [0., 2.5, 10., 12.5]);
    }

    #[test]
    fn outside_and_without_extent_there_is_0() {
        assert_eq!(align(0., [0., 3., 3., 9., 9.]), [12.5, 0., 0., 0.]);
        assert_eq!(align(0., [0., 2., 1., 2., 2.]), [0.; 4]);
        assert_eq!(align(0., [0., f32::NAN, 1., 2., 2.]), [0.; 4]);
        assert!(align(0., [1., 1., 1., 2., 2.])[0].is_nan());
    }

    #[test]
    fn refusals() {
        let got = refusal::<RoiAlign>(&param(0, 0.), &[&[1, 1, 4, 4], &[1, 5]]);
        assert!(got.starts_with("roi_pooling_param.pooled_h: "), "{got}");
    }
}
