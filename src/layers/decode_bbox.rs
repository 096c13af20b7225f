//! `DecodeBBox`: regions moved by offsets (Cascade R-CNN `decode_bbox_layer.cpp`).
//!
//! * bottoms: offsets `R × 8`, of which the second four count; regions `R × 5`: image,
//!   corners.
//! * top `R × 5 × 1 × 1`.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct DecodeBBox {
    /// Of the offsets: mean, then deviation.
    statistics: [f32; 8],
}

/// What `bbox_reg_param` says offsets were normalised by: means, then deviations, of x,
/// y, width and height.
///
/// Errors: `Invalid` unless both are missing or four, deviations above 0.
pub fn statistics(param: &LayerParameter, cx: &Cx) -> Result<[f32; 8]> {
    let p = param.bbox_reg_param.clone().unwrap_or_default();
    let (&[], &[]) = (&p.bbox_mean[..], &p.bbox_std[..]) else {
        for (values, field) in [(&p.bbox_mean, "bbox_mean"), (&p.bbox_std, "bbox_std")] {
            if values.len() != 4 {
                let message = format!("{} values instead of 4", values.len());
                let field = format!("bbox_reg_param.{field}");
                return Err(cx.invalid(&field, message).into());
            }
        }
        for &deviation in &p.bbox_std {
            cx.above("bbox_reg_param.bbox_std", deviation, 0.0)?;
        }
        let value = |i: usize| {
            if i < 4 {
                p.bbox_mean[i]
            } else {
                p.bbox_std[i - 4]
            }
        };
        return Ok(std::array::from_fn(value));
    };
    Ok([0., 0., 0., 0., 1., 1., 1., 1.])
}

impl Layer for DecodeBBox {
    fn claims() -> &'static [&'static str] {
        &["bbox_reg_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        if cx.phase == Phase::Train {
            let message = "DecodeBBox in phase TRAIN, where it drops regions";
            return Err(cx.unsupported("type", message).into());
        }
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        Ok(DecodeBBox {
            statistics: statistics(param, cx)?,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [regions, ..] = legacy(&bottoms[1], "bottom[1]", cx)?;
        for (i, columns) in [8, 5].into_iter().enumerate() {
            let at = format!("bottom[{i}]");
            if legacy(&bottoms[i], &at, cx)? != [regions, columns, 1, 1] {
                let message = format!(
                    "{} instead of {columns} values for each of {regions} regions",
                    bottoms[i]
                );
                return Err(cx.invalid(&at, message).into());
            }
        }
        Ok(vec![Shape::new([regions, 5, 1, 1])?])
    }

    /// Row by row.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0).then_some(0)
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = routine!("decode_bbox", "math");
        Some(Call::new(routine, vec![], self.statistics.to_vec()))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::math::exp;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], _sizes: &[usize], values: &[f32]) {
        let rows = bottoms[0].chunks_exact(8).zip(bottoms[1].chunks_exact(5));
        for (y, (offsets, region)) in tops[0].chunks_exact_mut(5).zip(rows) {
            let offset = |i: usize| offsets[4 + i] * values[4 + i] + values[i];
            y[0] = region[0];
            for axis in 0..2 {
                let [from, to] = [region[1 + axis], region[3 + axis]];
                let size = to - from + 1.0;
                let center = offset(axis) * size + 0.5 * (to + from);
                let size = size * exp(f64::from(offset(axis + 2))) as f32;
                y[1 + axis] = center - (size - 1.0) / 2.0;
                y[3 + axis] = y[1 + axis] + size - 1.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::BBoxRegParameter;

    fn param(mean: &[f32], std: &[f32]) -> LayerParameter {
        let p = BBoxRegParameter {
            bbox_mean: mean.to_vec(),
            bbox_std: std.to_vec(),
            ..BBoxRegParameter::default()
        };
        LayerParameter {
            bbox_reg_param: Some(p.into()),
            phase: Some(Phase::Test.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_second_four_offsets() {
        let offsets = [9., 9., 9., 9., 1., 0., 2f32.ln(), 0.];
        let bottoms = [
            tensor(&[1, 8], offsets),
            tensor(&[1, 5], [3., 1., 1., 4., 2.]),
        ];
        let y = forward::<DecodeBBox>(&param(&[], &[]), &bottoms, &[]);
        // 4 wide round 2.5 becomes 8 wide round 6.5.
        assert_close(&y[0].data, &[3., 3., 1., 10., 2.], 1e-6);
        let p = param(&[-0.5, 0., 0., 0.], &[0.5, 1., 1e-30, 1.]);
        let y = forward::<DecodeBBox>(&p, &bottoms, &[]);
        assert_close(&y[0].data, &[3., 1., 1., 4., 2.], 1e-6);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 2] = [&[2, 8], &[2, 5]];
        for (mean, std, field) in [
            (&[0.; 4][..], &[][..], "bbox_std"),
            (&[0.; 3], &[1.; 4], "bbox_mean"),
            (&[0.; 4], &[0.; 4], "bbox_std"),
        ] {
            let got = refusal::<DecodeBBox>(&param(mean, std), &shapes);
            assert!(
                got.starts_with(&format!("bbox_reg_param.{field}: ")),
                "{got}"
            );
        }
        for shapes in [[&[2, 8][..], &[3, 5]], [&[2, 4], &[2, 5]]] {
            let got = refusal::<DecodeBBox>(&param(&[], &[]), &shapes);
            assert!(got.starts_with("bottom[0]: "), "{got}");
        }
        let train = LayerParameter {
            phase: Some(Phase::Train.into()),
            ..LayerParameter::default()
        };
        assert!(refusal::<DecodeBBox>(&train, &shapes).contains("TRAIN"));
    }
}
