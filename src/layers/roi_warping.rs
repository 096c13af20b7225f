//! `ROIWarping` (MNC `roi_warping_layer.cu`): the maximum of interpolated values in each of
//! `pooled_h × pooled_w` parts of a region.
//!
//! * bottoms: maps `N × C × H × W`; regions `R × 5`: image, corners in pixels, which are
//!   rounded to cells.
//! * top `R × C × pooled_h × pooled_w`; 0 where no sample of a part lies on the map.
//!
//! A part of so many cells, rounded up to n, has samples at its n + 1 ends of nth parts, more
//! or less as f32 adds up, at most 65,537 along an axis. Up to half a cell outside of the map
//! a sample has the value of the edge. A region of an image that is not there is an error,
//! found when the net runs.

use super::boxes::routine as boxes;
use super::roi_pooling::{NO_IMAGE, regions};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct RoiWarping {
    pooled: [usize; 2],
    /// Cells per pixel.
    scale: f32,
}

impl Layer for RoiWarping {
    fn claims() -> &'static [&'static str] {
        &["roi_warping_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.roi_warping_param.clone().unwrap_or_default();
        let pooled =
            |field: &str, size: u32| cx.positive(&format!("roi_warping_param.{field}"), size);
        Ok(RoiWarping {
            pooled: [
                pooled("pooled_h", p.pooled_h())?,
                pooled("pooled_w", p.pooled_w())?,
            ],
            scale: p.spatial_scale(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let ([_, channels, ..], regions) = regions(bottoms, cx)?;
        let [h, w] = self.pooled;
        let top = Shape::new([regions, channels, h, w]);
        Ok(vec![cx.locate("roi_warping_param", top)?])
    }

    /// A part of the top for each region.
    fn carries(&self, bottom: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (bottom == 1 && axis == 0).then_some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let mut sizes = bottoms[0].nchw()?.to_vec();
        sizes.extend(self.pooled);
        let call = Call::new(routine!("roi_warping", "boxes"), sizes, vec![self.scale]);
        Some(call.faults(&[NO_IMAGE]))
    }
}

/// Pasted into emitted source.
pub mod routine {
    use super::boxes::each_region;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        each_region(bottoms, tops, sizes, |maps, region, y| {
            one(maps, region, y, sizes, values)
        });
    }

    // One region of the maps of its image.
    fn one(maps: &[f32], region: &[f32], top: &mut [f32], sizes: &[usize], values: &[f32]) {
        let [height, width] = [sizes[2], sizes[3]];
        let parts = |axis: usize, len: usize, pooled: usize| -> Vec<Vec<Place>> {
            let cell = |x: f32| (x * values[0]).round();
            let (from, to) = (cell(region[1 + axis]), cell(region[3 + axis]));
            let cells = (to - from).max(0.0);
            let size = cells / pooled as f32;
            let samples = size.ceil().min(65536.0);
            let step = (1.0 / f64::from(samples)) as f32;
            let part = |i: usize| {
                let mut places = Vec::new();
                let mut at = i as f32;
                for _ in 0..=samples as usize + 1 {
                    if at > (i + 1) as f32 {
                        break;
                    }
                    places.extend(place(from + at * size, len));
                    at += step;
                }
                places
            };
            (0..pooled).map(part).collect()
        };
        let rows = parts(1, height, sizes[4]);
        let columns = parts(0, width, sizes[5]);
        for (i, y) in top.iter_mut().enumerate() {
            let map = &maps[i / (sizes[4] * sizes[5]) * height * width..];
            let mut largest = None;
            for row in &rows[i / sizes[5] % sizes[4]] {
                for column in &columns[i % sizes[5]] {
                    let value = at(map, width, row, column);
                    if value > largest.unwrap_or(f32::MIN) {
                        largest = Some(value);
                    }
                }
            }
            *y = largest.unwrap_or(0.0);
        }
    }

    // Between two elements, and how much of the later one counts.
    pub struct Place {
        at: usize,
        next: usize,
        share: f32,
    }

    // A place on an axis of `len`, if it is less than half an element outside.
    pub fn place(x: f32, len: usize) -> Option<Place> {
        let last = len.checked_sub(1)?;
        if !(x >= -0.5 && x <= len as f32 - 0.5) {
            return None;
        }
        let x = x.max(0.0);
        let at = (x as usize).min(last);
        let share = if at == last { 0.0 } else { x - at as f32 };
        let next = (at + 1).min(last);
        Some(Place { at, next, share })
    }

    pub fn at(map: &[f32], width: usize, row: &Place, column: &Place) -> f32 {
        let [lower, right] = [f64::from(row.share), f64::from(column.share)];
        let of = |row: usize, column: usize| f64::from(map[row * width + column]);
        let line = |row: usize| (1.0 - right) * of(row, column.at) + right * of(row, column.next);
        ((1.0 - lower) * line(row.at) + lower * line(row.next)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::RoiWarpingParameter;

    fn param(pooled_h: u32, pooled_w: u32, scale: f32) -> LayerParameter {
        let p = RoiWarpingParameter {
            pooled_h: Some(pooled_h),
            pooled_w: Some(pooled_w),
            spatial_scale: Some(scale),
        };
        LayerParameter {
            roi_warping_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Of the map 0, 8, 16, 24, … of one row.
    fn pool(param: &LayerParameter, from: f32, to: f32) -> Vec<f32> {
        let map = [0., 8., 16., 24.];
        let bottoms = [
            tensor(&[1, 1, 1, 4], map),
            tensor(&[1, 5], [0., from, 0., to, 0.]),
        ];
        forward::<RoiWarping>(param, &bottoms, &[]).remove(0).data
    }

    #[test]
    fn samples_at_the_ends_of_parts() {
        // Parts of one cell: samples at 0 and 1, 1 and 2, 2 and 3.
        assert_eq!(pool(&param(1, 3, 1.), 0., 3.), [8., 16., 24.]);
        // Of half a cell: 1, 1.5, 2.
        assert_eq!(pool(&param(1, 2, 0.5), 2., 4.), [12., 16.]);
        // Of one and a half, in two steps: 0, 0.75, 1.5, 2.25, 3.
        assert_eq!(pool(&param(1, 2, 1.), 0., 3.), [12., 24.]);
        // A region of no size has one sample.
        assert_eq!(pool(&param(1, 2, 1.), 2., 1.), [16., 16.]);
    }

    #[test]
    fn half_a_cell_outside_is_the_edge() {
        // −1.5 to 0.5 in halves rounds away from 0: −2 to 1; a part from −2 to −0.5, one to 1.
        assert_eq!(pool(&param(1, 2, 1.), -1.5, 0.5), [0., 8.]);
        assert_eq!(pool(&param(1, 1, 1.), 5., 9.), [0.]);
        assert_eq!(pool(&param(1, 1, 1.), 3., 1e30), [24.]);
        assert_eq!(pool(&param(1, 1, 1.), f32::NAN, f32::INFINITY), [0.]);
    }

    #[test]
    fn refusals() {
        let got = refusal::<RoiWarping>(&param(0, 1, 1.), &[&[1, 1, 4, 4], &[1, 5]]);
        assert!(got.starts_with("roi_warping_param.pooled_h: "), "{got}");
        let got = refusal::<RoiWarping>(&param(1, 1, 1.), &[&[1, 1, 4, 4], &[1, 4]]);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
