//! `SmoothL1Loss`: `Σ f(a − b) / N`, f(d) being d²/2 within 1 of 0, else |d| − 1/2 (SSD
//! `smooth_L1_loss_layer.cpp`).
//!
//! * bottoms: a and b, `[N, …]`, of as many values. (Fast R-CNN's form with weights
//!   has GPU code only.)
//! * top: a scalar.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct SmoothL1Loss;

impl Layer for SmoothL1Loss {
    fn claims() -> &'static [&'static str] {
        &["smooth_l1_loss_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.smooth_l1_loss_param.clone().unwrap_or_default();
        if p.sigma() != 1.0 || cx.bottoms > 2 {
            let message = "SmoothL1Loss with weights or sigma, whose forks have GPU code only";
            return Err(cx.unsupported("smooth_l1_loss_param.sigma", message).into());
        }
        if p.abssum.is_some() {
            let field = "smooth_l1_loss_param.abssum";
            return Err(cx.unsupported(field, field).into());
        }
        cx.counts(2..=2, 0..=1)?;
        cx.not_in_place()?;
        Ok(SmoothL1Loss)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        let (a, b) = (&bottoms[0], &bottoms[1]);
        if a.count() != b.count() {
            let message = format!("bottoms of {a} and {b} differ in the size of an item");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let items = bottoms[0][0];
        Some(Call::new(routine!("smooth_l1_loss"), vec![items], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let one = |(&a, &b): (&f32, &f32)| {
            let d = (f64::from(a) - f64::from(b)).abs();
            if d < 1.0 { d * d / 2.0 } else { d - 0.5 }
        };
        let sum: f64 = bottoms[0].iter().zip(bottoms[1]).map(one).sum();
        for top in tops {
            top[0] = (sum / sizes[0] as f64) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::SmoothL1LossParameter;

    #[test]
    fn values() {
        let a = tensor(&[2, 2], [1., 0.5, 3., -4.]);
        let b = tensor(&[2, 2], [0., 0., 3., 0.]);
        let y = forward::<SmoothL1Loss>(&LayerParameter::default(), &[a, b], &[]);
        // 1/2, 1/8, 0 and 7/2, halved.
        assert_eq!(y[0].data, [2.0625]);
    }

    #[test]
    fn refusals() {
        let refused = |p: SmoothL1LossParameter, shapes: &[&[usize]]| {
            let param = LayerParameter {
                smooth_l1_loss_param: Some(p.into()),
                ..LayerParameter::default()
            };
            refusal::<SmoothL1Loss>(&param, shapes)
        };
        let sigma = SmoothL1LossParameter {
            sigma: Some(3.),
            ..SmoothL1LossParameter::default()
        };
        let pair: [&[usize]; 2] = [&[1, 2]; 2];
        assert!(refused(sigma, &pair).contains("GPU"));
        let plain = SmoothL1LossParameter::default;
        let three: [&[usize]; 3] = [&[1, 2]; 3];
        assert!(refused(plain(), &three).contains("GPU"));
        assert!(refused(plain(), &[&[1, 2], &[1, 3]]).starts_with("bottom: "));
    }
}
