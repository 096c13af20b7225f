//! `AbsVal`: `|x|` (Caffe `absval_layer.cpp`). Not in place.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::UnaryOp;

#[derive(Clone, Debug)]
pub struct AbsVal;

impl Layer for AbsVal {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        Ok(AbsVal)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            *y = x.abs();
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        Some(Pointwise::unary(UnaryOp::Abs, Pointwise::Bottom(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[3], [-1.5, 2., f32::NEG_INFINITY]);
        let y = forward::<AbsVal>(&LayerParameter::default(), &[x], &[]);
        assert_eq!(y[0].data, [1.5, 2., f32::INFINITY]);
    }

    #[test]
    fn not_in_place() {
        let param = LayerParameter {
            bottom: vec!["x".into()],
            top: vec!["x".into()],
            ..LayerParameter::default()
        };
        assert!(refusal::<AbsVal>(&param, &[&[1]]).starts_with("top: "));
    }
}
