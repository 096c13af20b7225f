//! `ReLU`: `max(x, 0) + negative_slope·min(x, 0)` (Caffe `relu_layer.cpp`).
//!
//! −∞ gives NaN where the slope is 0, as in Caffe; NaN stays NaN.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Relu {
    pub slope: f32,
}

impl Layer for Relu {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let slope = param
            .relu_param
            .as_ref()
            .map_or(0.0, |p| p.negative_slope());
        Ok(Relu { slope })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, &x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            let positive = if x < 0.0 { 0.0 } else { x };
            let negative = if 0.0 < x { 0.0 } else { x };
            *y = positive + self.slope * negative;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let slope = Pointwise::Const(self.slope);
        Some(Pointwise::relu(Pointwise::Bottom(0), slope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_infinity_gives_nan_as_in_caffe() {
        let x = Tensor::new(
            Shape::new([4]).unwrap(),
            vec![-2.0, 3.0, f32::NAN, f32::NEG_INFINITY],
        );
        let run = |slope| {
            let mut top = [Tensor::zeros(x.shape.clone())];
            Relu { slope }.reference(&[&x], &[], &mut top);
            let [top] = top;
            top.data
        };
        let y = run(0.0);
        assert_eq!(&y[..2], [0.0, 3.0]);
        assert!(y[2].is_nan() && y[3].is_nan());
        assert_eq!(run(0.5)[0], -1.0);
        assert_eq!(run(0.5)[3], f32::NEG_INFINITY);
    }
}
