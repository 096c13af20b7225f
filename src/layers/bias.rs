//! `Bias`: `x + bias`, the bias broadcast over some axes (Caffe `bias_layer.cpp`).
//!
//! Shapes as for `Scale`: the bias is bottom 1 or, without it, a blob, filled with 0
//! unless the file says otherwise.

use super::scale::Cover;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Bias {
    pub cover: Cover,
    /// Whether bottom 1 is the bias.
    pub two_bottoms: bool,
    pub filler: FillerParameter,
}

impl Layer for Bias {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=2, 1..=1)?;
        let p = param.bias_param.clone().unwrap_or_default();
        Ok(Bias {
            cover: Cover {
                axis: p.axis(),
                num_axes: p.num_axes(),
            },
            two_bottoms: cx.bottoms == 2,
            filler: p.filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        self.cover
            .check(bottoms, !self.two_bottoms, "bias_param", cx)?;
        Ok(vec![bottoms[0].clone()])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        if self.two_bottoms {
            return Ok(Vec::new());
        }
        let shape = self.cover.blob(&bottoms[0]);
        Ok(vec![ParamSpec {
            shape: shape.map_err(|(_, errors)| errors)?,
            filler: self.filler.clone(),
        }])
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let (x, bias) = (bottoms[0], bottoms.get(1).unwrap_or_else(|| &params[0]));
        let place = self.cover.index(&x.shape, &bias.shape);
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            *y = x.data[i] + bias.data[place(i)];
        }
    }

    fn pointwise(&self, bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        let bias = if self.two_bottoms {
            self.cover.second(bottoms)
        } else {
            self.cover.constant(&bottoms[0], params.first()?)
        };
        Some(Pointwise::binary(BinaryOp::Add, Pointwise::Bottom(0), bias))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::BiasParameter;

    fn param(axis: i32, num_axes: i32) -> LayerParameter {
        LayerParameter {
            bias_param: Some(Box::new(BiasParameter {
                axis: Some(axis),
                num_axes: Some(num_axes),
                filler: None,
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn blob_or_second_bottom() {
        let x = tensor(&[1, 2, 2], [1., 2., 3., 4.]);
        let bias = tensor(&[2], [10., 20.]);
        let want = [11., 12., 23., 24.];
        let y = forward::<Bias>(&param(1, 1), &[&x], std::slice::from_ref(&bias));
        assert_eq!(y[0].data, want);
        let y = forward::<Bias>(&param(1, 9), &[x.clone(), bias], &[]);
        assert_eq!(y[0].data, want);
        let y = forward::<Bias>(&param(0, 0), &[x], &[tensor(&[], [1.])]);
        assert_eq!(y[0].data, [2., 3., 4., 5.]);
    }

    #[test]
    fn bad_parameters() {
        let got = refusal::<Bias>(&param(1, 3), &[&[1, 2, 2]]);
        assert!(got.starts_with("bias_param.num_axes: 3 axes"), "{got}");
        let got = refusal::<Bias>(&param(1, 1), &[&[1, 2, 2], &[3]]);
        assert!(
            got.starts_with("bias_param.axis: a second operand"),
            "{got}"
        );
    }
}
