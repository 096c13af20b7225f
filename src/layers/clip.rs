//! `Clip`: `max(min, min(x, max))` (Caffe `clip_layer.cpp`).
//!
//! Nothing is checked: NaN becomes `min`, and so does everything if `min > max`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Clip {
    pub min: f32,
    pub max: f32,
}

impl Layer for Clip {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        // Both fields are required, but the message is not: then Caffe clips to 0.
        let p = param.clip_param.clone().unwrap_or_default();
        Ok(Clip {
            min: p.min,
            max: p.max,
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, &x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            let x = if self.max < x { self.max } else { x };
            *y = if self.min < x { x } else { self.min };
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let [min, max] = [self.min, self.max].map(Pointwise::Const);
        let below = Pointwise::binary(BinaryOp::Min, Pointwise::Bottom(0), max);
        Some(Pointwise::binary(BinaryOp::Max, min, below))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, tensor};
    use super::*;
    use crate::frontend::proto::ClipParameter;

    #[test]
    fn values() {
        for (min, max, want) in [(-1., 2., [-1., 0.5, 2., -1.]), (3., 2., [3.; 4])] {
            let param = LayerParameter {
                clip_param: Some(ClipParameter { min, max }.into()),
                ..LayerParameter::default()
            };
            let x = tensor(&[4], [-7., 0.5, f32::INFINITY, f32::NAN]);
            assert_eq!(forward::<Clip>(&param, &[x], &[])[0].data, want);
        }
    }
}
