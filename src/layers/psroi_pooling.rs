//! `PSROIPooling`: the mean of each of `group_size × group_size` parts of a region, each
//! part from channels of its own (R-FCN `psroi_pooling_layer.cu`).
//!
//! * bottoms: maps `N × (output_dim·group_size²) × H × W`; regions `R × 5`.
//! * top `R × output_dim × group_size × group_size`; 0 where a part lies outside.
//!
//! Corners are rounded before they are scaled. A region of an image that is not there is
//! an error, found when the net runs.

use super::boxes::routine as boxes;
use super::roi_pooling::{NO_IMAGE, regions};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct PsRoiPooling {
    scale: f32,
    outputs: usize,
    group: usize,
}

impl Layer for PsRoiPooling {
    fn claims() -> &'static [&'static str] {
        &["psroi_pooling_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.psroi_pooling_param.clone().unwrap_or_default();
        let size = |field: &str, value: i32| cx.positive(field, value.max(0) as u32);
        Ok(PsRoiPooling {
            scale: p.spatial_scale(),
            outputs: size("psroi_pooling_param.output_dim", p.output_dim())?,
            group: size("psroi_pooling_param.group_size", p.group_size())?,
        })
    }

    /// Errors: `Invalid` unless there is a channel for each part of each output.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let ([_, channels, ..], regions) = regions(bottoms, cx)?;
        let wanted = Shape::new([self.outputs, self.group, self.group]);
        let wanted = cx.locate("psroi_pooling_param", wanted)?.count();
        if channels != wanted {
            let message =
                format!("{channels} channels instead of output_dim·group_size² = {wanted}");
            return Err(cx.invalid("bottom[0]", message).into());
        }
        let top = Shape::new([regions, self.outputs, self.group, self.group]);
        Ok(vec![cx.locate("psroi_pooling_param", top)?])
    }

    /// A part of the top for each region.
    fn carries(&self, bottom: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (bottom == 1 && axis == 0).then_some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [images, channels, height, width] = bottoms[0].nchw()?;
        let sizes = vec![images, channels, height, width, self.group];
        let call = Call::new(routine!("psroi_pooling", "boxes"), sizes, vec![self.scale]);
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
        let [height, width] = [sizes[2], sizes[3]];
        let group = sizes[4];
        let parts = |axis: usize, len: usize| -> Vec<std::ops::Range<usize>> {
            let first = region[1 + axis].round() * values[0];
            let end = (region[3 + axis].round() + 1.0) * values[0];
            let size = (end - first).max(0.1) / group as f32;
            let bound = |i: usize| i as f32 * size + first;
            (0..group)
                .map(|i| part((bound(i), bound(i + 1)), 0, len))
                .collect()
        };
        let [rows, columns] = [parts(1, height), parts(0, width)];
        for (i, y) in top.iter_mut().enumerate() {
            let map = &maps[i * height * width..];
            let [rows, columns] = [&rows[i / group % group], &columns[i % group]];
            let mut sum = 0.0;
            for h in rows.clone() {
                for &x in map[h * width..].get(columns.clone()).unwrap_or(&[]) {
                    sum += f64::from(x);
                }
            }
            let cells = rows.len() * columns.len();
            *y = if cells == 0 {
                0.0
            } else {
                (sum / cells as f64) as f32
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::PsroiPoolingParameter;

    fn param(scale: f32, outputs: i32, group: i32) -> LayerParameter {
        let p = PsroiPoolingParameter {
            spatial_scale: Some(scale),
            output_dim: Some(outputs),
            group_size: Some(group),
        };
        LayerParameter {
            psroi_pooling_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Of four maps of two by two, 0 to 15.
    fn pool(scale: f32, region: [f32; 5]) -> Vec<f32> {
        let map: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let bottoms = [tensor(&[1, 4, 2, 2], map), tensor(&[1, 5], region)];
        forward::<PsRoiPooling>(&param(scale, 1, 2), &bottoms, &[])
            .remove(0)
            .data
    }

    #[test]
    fn each_part_from_a_map_of_its_own() {
        assert_eq!(pool(1., [0., 0., 0., 1., 1.]), [0., 5., 10., 15.]);
        // Parts of half a cell cover the whole of it.
        assert_eq!(pool(1., [0., 0., 0., 0., 0.]), [0., 4., 8., 12.]);
        // From 0 to 1.5 cells, as 0.4 rounds to 0: parts 0 to 0.75 and 0.75 to 1.5.
        assert_eq!(pool(0.5, [0., 0.4, 0., 2.4, 2.]), [0., 4.5, 9., 13.5]);
    }

    #[test]
    fn outside_there_is_0_and_without_image_no_number() {
        assert_eq!(pool(1., [0., 5., 5., 9., 9.]), [0.; 4]);
        assert_eq!(pool(1., [0., f32::NAN, 0., 1e30, -1e30]).len(), 4);
        assert!(pool(1., [2., 0., 0., 1., 1.])[0].is_nan());
    }

    #[test]
    fn refusals() {
        let got = refusal::<PsRoiPooling>(&param(1., 2, 3), &[&[1, 17, 4, 4], &[1, 5]]);
        assert_eq!(
            got,
            "bottom[0]: 17 channels instead of output_dim·group_size² = 18"
        );
        let got = refusal::<PsRoiPooling>(&param(1., -2, 3), &[&[1, 17, 4, 4], &[1, 5]]);
        assert!(got.starts_with("psroi_pooling_param.output_dim: "), "{got}");
    }
}
