//! `ReLU`: `max(x, 0) + negative_slope·min(x, 0)` (Caffe `relu_layer.cpp`).
//!
//! −∞ gives NaN where the slope is 0, as in Caffe; NaN stays NaN.
//!
//! Synopsys' fields bound the result: `relu6` by 6 from above, `maximum` if it is above 0,
//! `minimum` if it is not 0. With one of them, or the dialect, NaN becomes 0 as in that fork.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Relu {
    pub slope: f32,
    /// In the dialect of Synopsys.
    pub bounds: Option<Bounds>,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub lower: f32,
    pub upper: f32,
}

impl Layer for Relu {
    fn claims() -> &'static [&'static str] {
        &[
            "relu_param.relu6",
            "relu_param.maximum",
            "relu_param.minimum",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.relu_param.clone().unwrap_or_default();
        let six = if p.relu6() { 6.0 } else { f32::INFINITY };
        let bounds = Bounds {
            lower: p.minimum.filter(|&v| v != 0.0).unwrap_or(f32::NEG_INFINITY),
            upper: p.maximum.filter(|&v| v > 0.0).unwrap_or(six).min(six),
        };
        let synopsys = cx.dialect == Some(Dialect::Synopsys);
        let given = synopsys || p.relu6.is_some() || p.maximum.is_some() || p.minimum.is_some();
        Ok(Relu {
            slope: p.negative_slope(),
            bounds: given.then_some(bounds),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, &x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            let positive = if x < 0.0 { 0.0 } else { x };
            let negative = if 0.0 < x { 0.0 } else { x };
            let value = positive + self.slope * negative;
            *y = match self.bounds {
                Some(_) if value.is_nan() => 0.0,
                Some(b) if b.upper < value => b.upper,
                Some(b) if value < b.lower => b.lower,
                _ => value,
            };
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let (constant, binary) = (Pointwise::Const, Pointwise::binary);
        let slope = constant(self.slope);
        let x = || Pointwise::Bottom(0);
        let Some(bounds) = self.bounds else {
            return Some(Pointwise::relu(x(), slope));
        };
        // With x on the right, NaN gives 0.
        let positive = binary(BinaryOp::Max, constant(0.0), x());
        let negative = binary(BinaryOp::Min, constant(0.0), x());
        let value = match self.slope {
            // Not 0 · −∞.
            0.0 => positive,
            _ => Pointwise::Fma(Box::new(slope), Box::new(negative), Box::new(positive)),
        };
        let below = binary(BinaryOp::Min, value, constant(bounds.upper));
        Some(binary(BinaryOp::Max, below, constant(bounds.lower)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, tensor};
    use super::*;
    use crate::frontend::proto::ReLuParameter;

    #[test]
    fn minus_infinity_gives_nan_as_in_caffe() {
        let x = Tensor::new(
            Shape::new([4]).unwrap(),
            vec![-2.0, 3.0, f32::NAN, f32::NEG_INFINITY],
        );
        let run = |slope| {
            let mut top = [Tensor::zeros(x.shape.clone())];
            let bounds = None;
            Relu { slope, bounds }.reference(&[&x], &[], &mut top);
            let [top] = top;
            top.data
        };
        let y = run(0.0);
        assert_eq!(&y[..2], [0.0, 3.0]);
        assert!(y[2].is_nan() && y[3].is_nan());
        assert_eq!(run(0.5)[0], -1.0);
        assert_eq!(run(0.5)[3], f32::NEG_INFINITY);
    }

    #[test]
    fn bounds_of_synopsys() {
        let run = |p: ReLuParameter| {
            let param = LayerParameter {
                relu_param: Some(p.into()),
                ..LayerParameter::default()
            };
            let x = tensor(&[5], [-8., 1., 9., f32::NAN, f32::NEG_INFINITY]);
            forward::<Relu>(&param, &[x], &[]).remove(0).data
        };
        let six = ReLuParameter {
            relu6: Some(true),
            ..ReLuParameter::default()
        };
        assert_eq!(run(six), [0., 1., 6., 0., 0.]);
        let both = ReLuParameter {
            negative_slope: Some(0.5),
            maximum: Some(2.),
            minimum: Some(-1.),
            ..ReLuParameter::default()
        };
        assert_eq!(run(both), [-1., 1., 2., 0., -1.]);
    }
}
