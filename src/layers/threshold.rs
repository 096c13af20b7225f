//! `Threshold`: 1 where `x > threshold`, else 0, also for NaN
//! (Caffe `threshold_layer.cpp`).

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Threshold {
    pub threshold: f32,
}

impl Layer for Threshold {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let threshold = param
            .threshold_param
            .clone()
            .unwrap_or_default()
            .threshold();
        Ok(Threshold { threshold })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, &x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            *y = if x > self.threshold { 1.0 } else { 0.0 };
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        Some(Pointwise::Less {
            a: Box::new(Pointwise::Const(self.threshold)),
            b: Box::new(Pointwise::Bottom(0)),
            x: Box::new(Pointwise::Const(1.0)),
            y: Box::new(Pointwise::Const(0.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, tensor};
    use super::*;
    use crate::frontend::proto::ThresholdParameter;

    #[test]
    fn strictly_above() {
        for (threshold, want) in [(None, [0., 1., 0., 1.]), (Some(0.5), [0., 0., 0., 1.])] {
            let param = LayerParameter {
                threshold_param: Some(ThresholdParameter { threshold }.into()),
                ..LayerParameter::default()
            };
            let x = tensor(&[4], [0., 0.5, f32::NAN, 0.75]);
            assert_eq!(forward::<Threshold>(&param, &[x], &[])[0].data, want);
        }
    }
}
