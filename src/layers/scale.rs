//! `Scale`: `x · scale (+ bias)`, the operands broadcast over some axes
//! (Caffe `scale_layer.cpp`).
//!
//! * bottom 0 and top: any shape.
//! * scale: bottom 1 or, without it, a blob. It covers neighbouring axes of bottom 0
//!   from `axis` on and has their shape; a blob covers `num_axes` axes (−1: all that
//!   follow). One without axes is a scalar and covers any bottom.
//! * bias, if `bias_term`: a blob of the scale's shape.
//!
//! So the blobs are scale and bias, either, or none. A scale blob is filled with 1, a
//! bias with 0, unless the file says otherwise.

use super::{Cx, Layer, constant_filler};
use crate::diag::{Errors, Result};
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{Broadcast, ParamSpec, Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Scale {
    pub cover: Cover,
    /// Whether bottom 1 is the scale.
    pub two_bottoms: bool,
    pub bias: bool,
    pub filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

/// Which axes of bottom 0 a second operand covers, as the file gives it.
#[derive(Clone, Copy, Debug)]
pub struct Cover {
    /// May be negative.
    pub axis: i32,
    /// Axes of a blob; −1: all from `axis` on. Bottoms bring their own number.
    pub num_axes: i32,
}

/// A refusal before its place in the file is known: field without the message's name,
/// errors.
type Refusal = (&'static str, Errors);

impl Cover {
    /// The shape of a blob that covers these axes.
    pub(super) fn blob(&self, bottom: &Shape) -> Result<Shape, Refusal> {
        let axis = bottom.axis(self.axis).map_err(|e| ("axis", e))?;
        let invalid =
            |message: String| ("num_axes", crate::diag::Diagnostic::invalid(message).into());
        let end = match self.num_axes {
            -1 => bottom.len(),
            n => usize::try_from(n)
                .map(|n| axis.saturating_add(n))
                .map_err(|_| invalid(format!("must be −1 or more, not {n}")))?,
        };
        let dims = bottom.get(axis..end).ok_or_else(|| {
            let (n, axes) = (self.num_axes, bottom.len());
            invalid(format!(
                "{n} axes from axis {axis} on, but the bottom has {axes} ({bottom})"
            ))
        })?;
        Shape::new(dims).map_err(|e| ("num_axes", e))
    }

    /// The first axis of `bottom` that `operand` covers.
    fn start(&self, bottom: &Shape, operand: &Shape) -> Result<usize, Refusal> {
        if operand.is_empty() {
            return Ok(0);
        }
        let axis = bottom.axis(self.axis).map_err(|e| ("axis", e))?;
        if bottom[axis..].starts_with(operand) {
            return Ok(axis);
        }
        let message = format!(
            "a second operand of shape {operand} does not fit {bottom} from axis {axis} on"
        );
        Err(("axis", crate::diag::Diagnostic::invalid(message).into()))
    }

    /// Checks both operands' shapes; `param` is the name of the parameter message.
    pub(super) fn check(&self, bottoms: &[Shape], blob: bool, param: &str, cx: &Cx) -> Result<()> {
        let start = bottoms
            .get(1)
            .map(|operand| self.start(&bottoms[0], operand).map(|_| ()));
        let blob = blob.then(|| self.blob(&bottoms[0]).map(|_| ()));
        for checked in [start, blob].into_iter().flatten() {
            if let Err((field, errors)) = checked {
                return cx.locate(&format!("{param}.{field}"), Err(errors));
            }
        }
        Ok(())
    }

    /// For each element of `bottom`, the place in `operand` of what belongs to it.
    pub(super) fn index(&self, bottom: &Shape, operand: &Shape) -> impl Fn(usize) -> usize {
        let start = self.start(bottom, operand).expect("inferred before");
        let inner = bottom.count_of(start + operand.len()..bottom.len());
        let count = operand.count();
        move |i| i / inner % count
    }

    /// A blob as a constant of the element-wise expression.
    pub(super) fn constant(&self, bottom: &Shape, blob: &Tensor) -> Pointwise {
        let axis = self.start(bottom, &blob.shape).expect("inferred before");
        if blob.shape.is_empty() {
            return Pointwise::Const(blob.data[0]);
        }
        Pointwise::Broadcast(Broadcast {
            values: blob.data.as_slice().into(),
            axis,
            axes: blob.shape.len(),
        })
    }

    /// Bottom 1 as an operand of the element-wise expression.
    pub(super) fn second(&self, bottoms: &[Shape]) -> Pointwise {
        if bottoms[0] == bottoms[1] {
            return Pointwise::Bottom(1);
        }
        let axis = self
            .start(&bottoms[0], &bottoms[1])
            .expect("inferred before");
        Pointwise::BottomAt { bottom: 1, axis }
    }
}

impl Layer for Scale {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=2, 1..=1)?;
        let p = param.scale_param.clone().unwrap_or_default();
        Ok(Scale {
            cover: Cover {
                axis: p.axis(),
                num_axes: p.num_axes(),
            },
            two_bottoms: cx.bottoms == 2,
            bias: p.bias_term(),
            filler: p.filler.unwrap_or_else(|| constant_filler(1.0)),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let own = self.own_cover(bottoms);
        own.check(bottoms, !self.two_bottoms || self.bias, "scale_param", cx)?;
        Ok(vec![bottoms[0].clone()])
    }

    /// Item by item.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0 && !self.two_bottoms).then_some(0)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let blob = |filler: &FillerParameter| {
            let shape = self.own_cover(bottoms).blob(&bottoms[0]);
            shape.map_err(|(_, errors)| errors).map(|shape| ParamSpec {
                shape,
                filler: filler.clone(),
            })
        };
        let scale = (!self.two_bottoms).then(|| blob(&self.filler));
        let bias = self.bias.then(|| blob(&self.bias_filler));
        [scale, bias].into_iter().flatten().collect()
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let x = bottoms[0];
        let scale = bottoms.get(1).unwrap_or_else(|| &params[0]);
        let bias = self.bias.then(|| params[params.len() - 1]);
        let place = self.cover.index(&x.shape, &scale.shape);
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            let scaled = f64::from(x.data[i]) * f64::from(scale.data[place(i)]);
            *y = (scaled + bias.map_or(0.0, |b| f64::from(b.data[place(i)]))) as f32;
        }
    }

    fn pointwise(&self, bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        let blobs = usize::from(!self.two_bottoms) + usize::from(self.bias);
        if params.len() != blobs {
            return None;
        }
        let x = Pointwise::Bottom(0);
        let scale = if self.two_bottoms {
            self.cover.second(bottoms)
        } else {
            self.cover.constant(&bottoms[0], params[0])
        };
        if !self.bias {
            return Some(Pointwise::binary(BinaryOp::Mul, x, scale));
        }
        let bias = self.cover.constant(&bottoms[0], params[blobs - 1]);
        Some(Pointwise::Fma(Box::new(x), Box::new(scale), Box::new(bias)))
    }
}

impl Scale {
    /// What the blobs cover: a bias has the shape of the bottom that it goes with.
    fn own_cover(&self, bottoms: &[Shape]) -> Cover {
        let num_axes = bottoms
            .get(1)
            .map_or(self.cover.num_axes, |scale| scale.len() as i32);
        Cover {
            num_axes,
            ..self.cover
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, infer, noise, refusal, shape, tensor};
    use super::*;
    use crate::frontend::proto::ScaleParameter;

    fn param(axis: i32, num_axes: i32, bias: bool) -> LayerParameter {
        LayerParameter {
            scale_param: Some(Box::new(ScaleParameter {
                axis: Some(axis),
                num_axes: Some(num_axes),
                bias_term: Some(bias),
                ..ScaleParameter::default()
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn one_scale_and_bias_for_each_channel() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let blobs = [tensor(&[2], [10., -1.]), tensor(&[2], [0.5, 1.])];
        let y = forward::<Scale>(&param(1, 1, true), &[x], &blobs);
        assert_eq!(y[0].data, [10.5, 20.5, -2., -3.]);
    }

    #[test]
    fn blobs_and_bottoms_over_any_axes() {
        let x = noise(&[2, 3, 4, 5]);
        /// Place in the operand for a place in the bottom.
        type PlaceOf = fn(usize) -> usize;
        let cases: [(i32, i32, &[usize], PlaceOf); 6] = [
            (0, -1, &[2, 3, 4, 5], |i| i),
            (0, 2, &[2, 3], |i| i / 20),
            (1, 2, &[3, 4], |i| i / 5 % 12),
            (-2, 2, &[4, 5], |i| i % 20),
            (1, 0, &[], |_| 0),
            (1, -1, &[3, 4, 5], |i| i % 60),
        ];
        for (axis, num_axes, dims, place) in cases {
            let scale = noise(dims);
            let want = (0..120)
                .map(|i| x.data[i] * scale.data[place(i)])
                .collect::<Vec<f32>>();
            let p = param(axis, num_axes, false);
            let blob = forward::<Scale>(&p, &[&x], std::slice::from_ref(&scale));
            assert_eq!(blob[0].data, want);
            let p = param(axis, 1, false);
            let bottom = forward::<Scale>(&p, &[x.clone(), scale], &[]);
            assert_eq!(bottom[0].data, want);
        }
    }

    #[test]
    fn a_second_bottom_leaves_only_the_bias() {
        let bottoms = [tensor(&[1, 2], [1., 2.]), tensor(&[2], [3., 4.])];
        let y = forward::<Scale>(&param(1, -1, true), &bottoms, &[tensor(&[2], [0.5, 1.5])]);
        assert_eq!(y[0].data, [3.5, 9.5]);
    }

    #[test]
    fn fillers() {
        let bottom = [shape(&[1, 2])];
        let (layer, _) = infer::<Scale>(&param(1, 1, true), &[&[1, 2]]).unwrap();
        let values: Vec<f32> = layer
            .params(&bottom)
            .unwrap()
            .iter()
            .map(|s| s.filler.value())
            .collect();
        assert_eq!(values, [1., 0.]);
    }

    #[test]
    fn bad_parameters() {
        let refused = |p, bottoms: &[&[usize]]| refusal::<Scale>(&p, bottoms);
        assert!(
            refused(param(3, 2, false), &[&[1, 2, 3, 4]])
                .starts_with("scale_param.num_axes: 2 axes")
        );
        assert!(
            refused(param(4, 0, false), &[&[1, 2, 3, 4]]).starts_with("scale_param.axis: axis 4")
        );
        assert!(
            refused(param(0, -2, false), &[&[1, 2]]).starts_with("scale_param.num_axes: must be")
        );
        assert!(
            refused(param(0, i32::MAX, false), &[&[1, 2]]).starts_with("scale_param.num_axes: ")
        );
        for dims in [&[2, 4][..], &[3, 3], &[3, 4, 5]] {
            let got = refused(param(1, 1, false), &[&[2, 3, 4], dims]);
            assert!(
                got.starts_with("scale_param.axis: a second operand"),
                "{got}"
            );
        }
        // A scalar scale fits any axis; the bias that goes with it does not.
        assert!(infer::<Scale>(&param(9, 1, false), &[&[2], &[]]).is_ok());
        assert!(refused(param(9, 1, true), &[&[2], &[]]).starts_with("scale_param.axis: axis 9"));
    }
}
