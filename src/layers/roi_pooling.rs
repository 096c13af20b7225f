//! `ROIPooling`: the maximum in each of `pooled_h × pooled_w` parts of a region (Fast
//! R-CNN `roi_pooling_layer.cpp`; `pad_ratio`: MS-CNN).
//!
//! * bottoms: maps `N × C × H × W`; regions `R × 5`: image, corners in pixels.
//! * top `R × C × pooled_h × pooled_w`; 0 where a part lies outside of the map.
//!
//! Without `spatial_scale` the regions are in cells, in jolibrain's fork in shares of
//! the map. A region of an image that is not there is an error, found when the net runs.

use super::boxes::routine as boxes;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::{LayerParameter, RoiPoolingParameter};
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct RoiPooling {
    pooled: [usize; 2],
    /// Cells per pixel; the size of the map per pixel where it is missing.
    scale: Option<f32>,
    pad_ratio: f32,
}

/// A fault of regions.
pub const NO_IMAGE: &str = "bottom 1 has a region of an image that bottom 0 does not have";

/// Height and width of what a region becomes.
pub fn pooled(p: &RoiPoolingParameter, cx: &Cx) -> Result<[usize; 2]> {
    if !p.pooled_size.is_empty() {
        let field = "roi_pooling_param.pooled_size";
        return Err(cx.unsupported(field, field).into());
    }
    let h = cx.positive("roi_pooling_param.pooled_h", p.pooled_h())?;
    Ok([h, cx.positive("roi_pooling_param.pooled_w", p.pooled_w())?])
}

/// The maps' dimensions and the number of regions.
pub fn regions(bottoms: &[Shape], cx: &Cx) -> Result<([usize; 4], usize)> {
    let maps = legacy(&bottoms[0], "bottom[0]", cx)?;
    let [regions, rest @ ..] = legacy(&bottoms[1], "bottom[1]", cx)?;
    if rest.iter().product::<usize>() != 5 {
        let message = format!("regions of {} instead of 5 values each", bottoms[1]);
        return Err(cx.invalid("bottom[1]", message).into());
    }
    Ok((maps, regions))
}

impl Layer for RoiPooling {
    fn claims() -> &'static [&'static str] {
        &[
            "roi_pooling_param",
            "roi_pooling_param.pooled_size",
            "roi_pooling_param.pad_ratio",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.roi_pooling_param.clone().unwrap_or_default();
        let jolibrain = cx.dialect == Some(Dialect::Jolibrain);
        let default = if jolibrain { -1.0 } else { 1.0 };
        let scale = p.spatial_scale.unwrap_or(default);
        Ok(RoiPooling {
            pooled: pooled(&p, cx)?,
            scale: (!jolibrain || scale != -1.0).then_some(scale),
            pad_ratio: p.pad_ratio(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let ([_, channels, ..], regions) = regions(bottoms, cx)?;
        let [h, w] = self.pooled;
        let top = Shape::new([regions, channels, h, w]);
        Ok(vec![cx.locate("roi_pooling_param", top)?])
    }

    /// A part of the top for each region.
    fn carries(&self, bottom: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (bottom == 1 && axis == 0).then_some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, channels, height, width] = bottoms[0].nchw()?;
        let [h, w] = self.pooled;
        let of_map = [width as f32, height as f32];
        let mut values = self.scale.map_or(of_map, |s| [s; 2]).to_vec();
        values.push(self.pad_ratio);
        let sizes = vec![images, channels, height, width, h, w];
        let call = Call::new(routine!("roi_pooling", "boxes"), sizes, values);
        Some(call.faults(&[NO_IMAGE]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{each_region, part};

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        each_region(bottoms, tops, sizes, |maps, region, y| {
            one(maps, region, y, sizes, values)
        });
    }

    // One region of the maps of its image.
    fn one(maps: &[f32], region: &[f32], top: &mut [f32], sizes: &[usize], values: &[f32]) {
        let [channels, height, width] = [sizes[1], sizes[2], sizes[3]];
        let [pooled_h, pooled_w] = [sizes[4], sizes[5]];
        // First cell and number of cells along an axis.
        let extent = |axis: usize| {
            let [from, to] = [region[1 + axis], region[3 + axis]];
            let pad = (to - from + 1.0) * values[2];
            let cell = |x: f32| i64::from((x * values[axis]).round() as i32);
            let first = cell(from - pad);
            (first, (cell(to + pad) - first + 1).max(1))
        };
        let parts = |axis: usize, pooled: usize, len: usize| -> Vec<std::ops::Range<usize>> {
            let (first, cells) = extent(axis);
            let size = cells as f32 / pooled as f32;
            let bounds = |i: usize| (i as f32 * size, (i + 1) as f32 * size);
            (0..pooled).map(|i| part(bounds(i), first, len)).collect()
        };
        let rows = parts(1, pooled_h, height);
        let columns = parts(0, pooled_w, width);
        for c in 0..channels {
            let map = &maps[c * height * width..];
            for (ph, rows) in rows.iter().enumerate() {
                for (pw, columns) in columns.iter().enumerate() {
                    let empty = rows.is_empty() || columns.is_empty();
                    let mut largest = if empty { 0.0 } else { f32::MIN };
                    for h in rows.clone() {
                        for &x in &map[h * width..][columns.clone()] {
                            if x > largest && !empty {
                                largest = x;
                            }
                        }
                    }
                    top[(c * pooled_h + ph) * pooled_w + pw] = largest;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    fn param(scale: Option<f32>, pad_ratio: f32, pooled: u32) -> LayerParameter {
        let p = RoiPoolingParameter {
            pooled_h: Some(pooled),
            pooled_w: Some(pooled),
            spatial_scale: scale,
            pad_ratio: Some(pad_ratio),
            ..RoiPoolingParameter::default()
        };
        LayerParameter {
            roi_pooling_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Of the map 0 to 15, four by four.
    fn pool(param: &LayerParameter, region: [f32; 5]) -> Vec<f32> {
        let map: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let bottoms = [tensor(&[1, 1, 4, 4], map), tensor(&[1, 5], region)];
        forward::<RoiPooling>(param, &bottoms, &[]).remove(0).data
    }

    #[test]
    fn parts_overlap_where_the_cells_do_not_divide() {
        let p = param(None, 0.0, 2);
        assert_eq!(pool(&p, [0., 0., 0., 3., 3.]), [5., 7., 13., 15.]);
        assert_eq!(pool(&p, [0., 0., 0., 2., 2.]), [5., 6., 9., 10.]);
        // Turned round it is one cell.
        assert_eq!(pool(&p, [0., 2., 2., 1., 1.]), [10.; 4]);
    }

    #[test]
    fn halves_are_rounded_away_from_0_after_scaling() {
        let p = param(Some(0.5), 0.0, 1);
        assert_eq!(pool(&p, [0., 1., 1., 3., 3.]), [10.]);
        assert_eq!(pool(&p, [0., -1., -1., 0., 0.]), [0.]);
    }

    #[test]
    fn outside_there_is_0_and_padding_grows_the_region() {
        let p = param(None, 0.0, 2);
        assert_eq!(pool(&p, [0., 3., 3., 4., 4.]), [15., 0., 0., 0.]);
        assert_eq!(pool(&p, [0., -1e30, f32::NAN, 1e30, f32::NAN]).len(), 4);
        let p = param(None, 0.5, 1);
        assert_eq!(pool(&p, [0., 1., 1., 2., 2.]), [15.]);
        assert_eq!(
            pool(&p, [0., 1., 1., 1., 1.]),
            [10.],
            "1.5 rounds to 2, 0.5 to 1"
        );
    }

    #[test]
    fn an_image_that_is_not_there_is_no_number() {
        let p = param(None, 0.0, 1);
        for image in [1., -1., f32::INFINITY] {
            assert!(pool(&p, [image, 0., 0., 1., 1.])[0].is_nan());
        }
    }

    #[test]
    fn refusals() {
        let got = refusal::<RoiPooling>(&param(None, 0., 0), &[&[1, 1, 4, 4], &[1, 5]]);
        assert!(got.starts_with("roi_pooling_param.pooled_h: "), "{got}");
        let got = refusal::<RoiPooling>(&param(None, 0., 1), &[&[1, 1, 4, 4], &[1, 4]]);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
