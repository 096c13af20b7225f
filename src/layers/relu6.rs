//! `ReLU6` of forks: `min(max(x, 0) + negative_slope · min(x, 0), 6)`.

use super::{Cx, Layer, map};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Relu6 {
    pub slope: f32,
}

impl Layer for Relu6 {
    fn claims() -> &'static [&'static str] {
        &["relu6_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.relu6_param.clone().unwrap_or_default();
        Ok(Relu6 {
            slope: p.negative_slope(),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let slope = f64::from(self.slope);
        map(bottoms[0], &mut tops[0], |x| {
            let positive = if x < 0.0 { 0.0 } else { x };
            let negative = if x > 0.0 { 0.0 } else { x };
            let y = positive + slope * negative;
            if y > 6.0 { 6.0 } else { y }
        });
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let relu = Pointwise::relu(Pointwise::Bottom(0), Pointwise::Const(self.slope));
        Some(Pointwise::binary(
            BinaryOp::Min,
            relu,
            Pointwise::Const(6.0),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, tensor};
    use super::*;
    use crate::frontend::proto::ReLu6Parameter;

    #[test]
    fn values() {
        for slope in [0.0, 0.5] {
            let param = LayerParameter {
                relu6_param: Some(Box::new(ReLu6Parameter {
                    negative_slope: Some(slope),
                })),
                ..LayerParameter::default()
            };
            let x = tensor(&[5], [-2., 3., 7., f32::INFINITY, f32::NAN]);
            let y = forward::<Relu6>(&param, &[x], &[]);
            assert_close(&y[0].data, &[-2. * slope, 3., 6., 6., f32::NAN], 0.);
        }
    }
}
