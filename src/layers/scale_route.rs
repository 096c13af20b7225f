//! `ScaleRoute`: the regions of a range of sizes (Cascade R-CNN `scale_route_layer.cpp`).
//!
//! * bottoms: regions `R × 5`; blobs `R × …`.
//! * tops: their rows, as blobs of 4 axes.
//!
//! A region counts if the root of its area is at least `low_scale` and below
//! `high_scale`; if none does, the one nearest to the middle of both, by logarithm.
//! That none has an area at all is an error, found when the net runs.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ScaleRoute {
    low: f32,
    high: f32,
    middle: f32,
    blobs: usize,
}

impl Layer for ScaleRoute {
    fn claims() -> &'static [&'static str] {
        &["scale_route_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., cx.bottoms..=cx.bottoms)?;
        cx.not_in_place()?;
        let p = param.scale_route_param.clone().unwrap_or_default();
        let low = p
            .low_scale
            .map(|low| cx.above("scale_route_param.low_scale", low, 0.0));
        let low = low.transpose()?;
        if let Some(high) = p.high_scale {
            let floor = low.unwrap_or(0.0);
            if high.is_nan() || high < floor || high <= 0.0 || high >= f32::MAX {
                let message = format!("{high} must be finite and at least {floor}");
                return Err(cx.invalid("scale_route_param.high_scale", message).into());
            }
        }
        let middle = match (low, p.high_scale) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => 256.0,
        };
        Ok(ScaleRoute {
            low: low.unwrap_or(0.0),
            high: p.high_scale.unwrap_or(f32::MAX),
            middle,
            blobs: cx.bottoms,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [regions, columns, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        if bottoms[0].count() != 5 * regions || columns != 5 || regions == 0 {
            let message = format!("regions of {} instead of 5 values each", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        }
        let mut tops = Vec::new();
        for (i, bottom) in bottoms.iter().enumerate() {
            let at = format!("bottom[{i}]");
            let dims = legacy(bottom, &at, cx)?;
            if dims[0] != regions {
                let message = format!("{bottom} does not have a row for each of {regions} regions");
                return Err(cx.invalid(&at, message).into());
            }
            tops.push(Shape::new(dims)?);
        }
        Ok(tops)
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn selects(&self) -> Option<[f32; 2]> {
        Some([self.low, self.high])
    }

    fn takes_counts(&self) -> bool {
        true
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let values = vec![self.low, self.high, self.middle];
        let routine = routine!("scale_route", "math");
        let call = Call::new(routine, vec![self.blobs, bottoms[0][0]], values);
        Some(call.faults(&["no region of bottom 0 has an area"]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::math::ln;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (blobs, counts) = bottoms.split_at(sizes[0]);
        let regions = counts.first().map_or(sizes[1], |count| count[0] as usize);
        let scale = |region: &[f32]| {
            let [x1, y1, x2, y2] = [region[1], region[2], region[3], region[4]];
            let none = x2 < x1 || y2 < y1;
            let area = if none {
                0.0
            } else {
                (x2 - x1 + 1.0) * (y2 - y1 + 1.0)
            };
            area.sqrt()
        };
        let regions = blobs[0].chunks_exact(5).take(regions);
        let scales: Vec<f32> = regions.map(scale).collect();
        let inside = |&i: &usize| scales[i] >= values[0] && scales[i] < values[1];
        let mut chosen: Vec<usize> = (0..scales.len()).filter(inside).collect();
        let mut none = false;
        if chosen.is_empty() {
            let mut nearest = (f64::from(f32::MAX), 0);
            for (i, &scale) in scales.iter().enumerate() {
                let distance = ln(f64::from(scale / values[2])).abs();
                if distance < nearest.0 {
                    nearest = (distance, i);
                }
            }
            chosen.push(nearest.1);
            none = nearest.0 == f64::from(f32::MAX);
        }
        let [tops @ .., count, fault] = tops else {
            return;
        };
        fault[0] = f32::from(none);
        count[0] = chosen.len() as f32;
        for (top, blob) in tops.iter_mut().zip(blobs) {
            let row = blob.len() / sizes[1];
            top.fill(0.0);
            for (to, from) in chosen.iter().enumerate() {
                top[to * row..(to + 1) * row].copy_from_slice(&blob[from * row..(from + 1) * row]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward_counted, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ScaleRouteParameter;
    use crate::ir::Tensor;

    fn param(low: Option<f32>, high: Option<f32>) -> LayerParameter {
        let p = ScaleRouteParameter {
            low_scale: low,
            high_scale: high,
        };
        LayerParameter {
            top: vec!["regions".into(), "other".into()],
            scale_route_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Regions of 4, 8 and 16 pixels and one turned round, with their numbers.
    fn bottoms() -> [Tensor; 2] {
        let region = |size: f32| [0., 1., 1., size, size];
        let regions = [region(4.), region(8.), region(16.), [0., 9., 9., 1., 1.]];
        [
            tensor(&[4, 5], regions.concat()),
            tensor(&[4, 1], [0., 1., 2., 3.]),
        ]
    }

    #[test]
    fn at_least_low_and_below_high_or_the_nearest() {
        for (low, high, want) in [
            (Some(4.), Some(16.), &[0., 1.][..]),
            (Some(8.), None, &[1., 2.]),
            (None, Some(8.), &[0., 3.]),
            (None, None, &[0., 1., 2., 3.]),
            (Some(20.), Some(40.), &[2.]),
            // The root of 5 by 7 is nearer to 4 than to 8 by logarithm? 5.92 > 5.66: to 8.
            (Some(5.), Some(7.), &[1.]),
        ] {
            let tops = forward_counted::<ScaleRoute>(&param(low, high), &bottoms());
            assert_eq!(tops[1].data, want);
            assert_eq!(tops[0].shape.dims(), [want.len(), 5, 1, 1]);
        }
    }

    #[test]
    fn regions_beyond_the_count_do_not_count() {
        let param = param(None, None);
        let (layer, shapes) = infer::<ScaleRoute>(&param, &[&[4, 5], &[4, 1]]).unwrap();
        let [regions, other] = bottoms();
        let count = tensor(&[1], [2.]);
        let mut tops: Vec<Tensor> = shapes.into_iter().map(Tensor::zeros).collect();
        tops.push(tensor(&[1], [0.]));
        layer.reference(&[&regions, &other, &count, &count], &[], &mut tops);
        assert_eq!(tops[2].data, [2.]);
        assert_eq!(tops[1].data, [0., 1., 0., 0.]);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 2] = [&[4, 5], &[4, 1]];
        for (low, high, field) in [
            (Some(0.), None, "low_scale"),
            (Some(2.), Some(1.), "high_scale"),
            (None, Some(f32::MAX), "high_scale"),
        ] {
            let got = refusal::<ScaleRoute>(&param(low, high), &shapes);
            assert!(
                got.starts_with(&format!("scale_route_param.{field}: ")),
                "{got}"
            );
        }
        let got = refusal::<ScaleRoute>(&param(None, None), &[&[4, 5], &[3, 1]]);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }
}
