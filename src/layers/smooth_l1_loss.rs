//! `SmoothL1Loss`: `Σ f(a − b) / N`, f(d) being d²/2 within 1 of 0, else |d| − 1/2 (SSD
//! `smooth_L1_loss_layer.cpp`).
//!
//! * bottoms: a and b, `[N, …]`, of as many values; in Fast R-CNN then weights of the
//!   differences, and of f, of as many (`smooth_L1_loss_layer.cu`).
//! * top: a scalar.
//!
//! With Fast R-CNN's `sigma`, f(d) is (σd)²/2 within 1/σ² of 0, else |d| − 1/(2σ²).

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct SmoothL1Loss {
    sigma: f32,
}

impl Layer for SmoothL1Loss {
    fn claims() -> &'static [&'static str] {
        &["smooth_l1_loss_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.smooth_l1_loss_param.clone().unwrap_or_default();
        // SSD's layer has no weights, and Fast R-CNN's takes one or both.
        if cx.bottoms == 3 && cx.dialect != Some(Dialect::FastRcnn) {
            let message = "takes 2 bottoms, or 4 with Fast R-CNN's weights";
            let d = cx.invalid("bottom", message);
            return Err(d
                .help("for one kind of weights: --dialect fast-rcnn")
                .into());
        }
        cx.counts(2..=4, 0..=1)?;
        cx.not_in_place()?;
        let sigma = cx.above("smooth_l1_loss_param.sigma", p.sigma(), 0.0)?;
        Ok(SmoothL1Loss { sigma })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        let a = &bottoms[0];
        if let Some(b) = bottoms.iter().find(|b| b.count() != a.count()) {
            let message = format!("bottoms of {a} and {b} differ in the size of an item");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let items = bottoms[0][0];
        let values = vec![self.sigma];
        Some(Call::new(routine!("smooth_l1_loss"), vec![items], values))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let square = f64::from(values[0]) * f64::from(values[0]);
        let weight = |which: usize, i: usize| bottoms.get(which).map_or(1.0, |w| f64::from(w[i]));
        let one = |i: usize| {
            let d = weight(2, i) * (f64::from(bottoms[0][i]) - f64::from(bottoms[1][i]));
            let d = d.abs();
            let f = if d < 1.0 / square {
                d * d * square / 2.0
            } else {
                d - 0.5 / square
            };
            weight(3, i) * f
        };
        let sum: f64 = (0..bottoms[0].len()).map(one).sum();
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
    fn weights_and_sigma() {
        let param = LayerParameter {
            smooth_l1_loss_param: Some(
                SmoothL1LossParameter {
                    sigma: Some(2.),
                    ..SmoothL1LossParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let blob = |values: [f32; 2]| tensor(&[1, 2], values);
        let bottoms = [[1., 0.2], [0., 0.], [2., 1.], [1., 10.]].map(blob);
        let y = forward::<SmoothL1Loss>(&param, &bottoms, &[]);
        // 2 − 1/8 and 10 · 0.04 · 4/2.
        assert!(
            (y[0].data[0] - (1.875 + 0.8)).abs() < 1e-6,
            "{}",
            y[0].data[0]
        );
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
            sigma: Some(0.),
            ..SmoothL1LossParameter::default()
        };
        let pair: [&[usize]; 2] = [&[1, 2]; 2];
        assert!(refused(sigma, &pair).starts_with("smooth_l1_loss_param.sigma: "));
        let plain = SmoothL1LossParameter::default;
        let three: [&[usize]; 3] = [&[1, 2]; 3];
        assert!(refused(plain(), &three).starts_with("bottom: takes 2 bottoms"));
        assert!(refused(plain(), &[&[1, 2], &[1, 3]]).starts_with("bottom: "));
    }
}
