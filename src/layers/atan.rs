//! `Atan` of Synopsys' fork: the arc tangent of each element.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Atan;

impl Layer for Atan {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(Atan)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        Some(axis)
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        Some(Call::new(routine!("atan"), vec![], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], _sizes: &[usize], _values: &[f32]) {
        for (y, &x) in tops[0].iter_mut().zip(bottoms[0]) {
            *y = atan(f64::from(x)) as f32;
        }
    }

    // Our own, so that it is the same everywhere: the angle of 1/x above 1, halved twice,
    // and then the series.
    pub fn atan(x: f64) -> f64 {
        let size = x.abs();
        let turned = size > 1.0;
        let mut t = if turned { 1.0 / size } else { size };
        for _ in 0..2 {
            t /= 1.0 + (1.0 + t * t).sqrt();
        }
        // t is at most tan(π/16) = 0.2, the first term left out below 1e-17.
        let mut sum = 0.0;
        for term in (0..12).rev() {
            sum = 1.0 / f64::from(2 * term + 1) - t * t * sum;
        }
        let angle = 4.0 * t * sum;
        let angle = if turned {
            std::f64::consts::FRAC_PI_2 - angle
        } else {
            angle
        };
        angle.copysign(x)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, tensor};
    use super::*;
    use std::f32::consts::{FRAC_PI_2, FRAC_PI_4};

    #[test]
    fn values() {
        let x = [0., 1., -1., f32::INFINITY, f32::NEG_INFINITY, 3f32.sqrt()];
        let y = forward::<Atan>(&LayerParameter::default(), &[tensor(&[6], x)], &[]);
        let sixty = std::f32::consts::FRAC_PI_3;
        assert_eq!(
            y[0].data,
            [0., FRAC_PI_4, -FRAC_PI_4, FRAC_PI_2, -FRAC_PI_2, sixty]
        );
        let y = forward::<Atan>(
            &LayerParameter::default(),
            &[tensor(&[2], [f32::NAN, -0.0])],
            &[],
        );
        assert!(y[0].data[0].is_nan() && y[0].data[1].is_sign_negative());
    }

    #[test]
    fn as_close_as_a_double_can_be() {
        for i in -4000..4000 {
            let x = f64::from(i) / 500.0;
            assert!((routine::atan(x) - x.atan()).abs() < 1e-15, "{x}");
        }
    }
}
