//! `Power`: `(shift + scale·x)^power` (Caffe `power_layer.cpp`).
//!
//! If `power·scale` is 0 (in f32) the bottom is not read: the top is the constant
//! `shift^power`, or 1 if the power is 0. A negative base gives NaN unless the power is
//! an integer.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;
use crate::leaf::Function;

#[derive(Clone, Debug)]
pub struct Power {
    pub power: f32,
    pub scale: f32,
    pub shift: f32,
}

impl Power {
    /// The value of every element, if the bottom has no influence.
    pub fn constant(&self) -> Option<f32> {
        let base = f64::from(self.shift);
        let value = || base.powf(f64::from(self.power)) as f32;
        (self.power * self.scale == 0.0).then(value)
    }
}

impl Layer for Power {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.power_param.clone().unwrap_or_default();
        Ok(Power {
            power: p.power(),
            scale: p.scale(),
            shift: p.shift(),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        if let Some(value) = self.constant() {
            tops[0].data.fill(value);
            return;
        }
        let [power, scale, shift] = [self.power, self.scale, self.shift].map(f64::from);
        map(bottoms[0], &mut tops[0], |x| {
            (shift + scale * x).powf(power)
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let x = Pointwise::Bottom(0);
        let [scale, shift] = [self.scale, self.shift].map(Pointwise::Const);
        if let Some(value) = self.constant() {
            return Some(Pointwise::Const(value));
        }
        Some(match (self.power, self.scale, self.shift) {
            (1.0, 1.0, 0.0) => x,
            (1.0, 1.0, _) => Pointwise::binary(BinaryOp::Add, x, shift),
            (1.0, _, 0.0) => Pointwise::binary(BinaryOp::Mul, x, scale),
            (1.0, ..) => Pointwise::Fma(Box::new(x), Box::new(scale), Box::new(shift)),
            (power, scale, shift) => Pointwise::function(Function::Power, [power, scale, shift], x),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, tensor};
    use super::*;
    use crate::frontend::proto::PowerParameter;

    fn run(power: f32, scale: f32, shift: f32, x: [f32; 3]) -> Vec<f32> {
        let p = LayerParameter {
            power_param: Some(
                PowerParameter {
                    power: Some(power),
                    scale: Some(scale),
                    shift: Some(shift),
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        forward::<Power>(&p, &[tensor(&[3], x)], &[]).remove(0).data
    }

    #[test]
    fn values() {
        assert_eq!(run(2., 0.5, 1., [2., -4., 0.]), [4., 1., 1.]);
        assert_eq!(run(1., 2., 1., [2., -4., 0.]), [5., -7., 1.]);
        assert_eq!(run(1., 1., 3., [2., -4., 0.]), [5., -1., 3.]);
        assert_eq!(run(1., -3., 0., [2., -4., 0.]), [-6., 12., 0.]);
        let y = run(0.5, 1., 0., [4., -4., 0.]);
        assert!(y[0] == 2. && y[1].is_nan() && y[2] == 0.);
        assert_eq!(
            run(-1., 1., 0., [4., -4., 0.]),
            [0.25, -0.25, f32::INFINITY]
        );
    }

    #[test]
    fn constants_do_not_read_the_bottom() {
        let x = [f32::NAN, f32::INFINITY, 0.];
        assert_eq!(run(0., 2., -1., x), [1.; 3]);
        assert_eq!(run(3., 0., 2., x), [8.; 3]);
        assert_eq!(run(1e-30, 1e-30, 1., x), [1.; 3]);
        assert!(run(0.5, 0., -1., x).iter().all(|y| y.is_nan()));
    }

    #[test]
    fn the_default_is_the_identity() {
        let x = tensor(&[2], [-1.5, 3.]);
        let y = forward::<Power>(&LayerParameter::default(), &[&x], &[]);
        assert_eq!(y[0], x);
    }
}
