//! `PReLU`: `max(x, 0) + slope[c]·min(x, 0)` with learned slopes (Caffe `prelu_layer.cpp`).
//!
//! * bottom and top: `[N, C, …]`, 2 to 4 axes (Caffe asks for the channel by its old
//!   four-axis accessor), or more in the dialects for volumes, 3D-Caffe's and Intel's.
//! * blob: slopes `[C]`, or a scalar if `channel_shared`; 0.25 unless filled otherwise.

use super::{Cx, Layer, constant_filler};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{Broadcast, ParamSpec, Pointwise, Shape, Tensor};

#[derive(Clone, Debug)]
pub struct PRelu {
    pub channel_shared: bool,
    pub filler: FillerParameter,
    most_axes: usize,
}

impl Layer for PRelu {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.prelu_param.clone().unwrap_or_default();
        let volumes = matches!(cx.dialect, Some(Dialect::Caffe3d | Dialect::Intel));
        Ok(PRelu {
            most_axes: if volumes { usize::MAX } else { 4 },
            channel_shared: p.channel_shared(),
            filler: p.filler.unwrap_or_else(|| constant_filler(0.25)),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if !(2..=self.most_axes).contains(&bottoms[0].len()) {
            let message = format!("the bottom must have 2 to 4 axes, it is {}", bottoms[0]);
            let d = cx.invalid("bottom", message);
            return Err(d
                .help("forks for volumes take more: --dialect 3d-caffe")
                .into());
        }
        Ok(vec![bottoms[0].clone()])
    }

    /// Item by item.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0).then_some(0)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let dims = if self.channel_shared {
            vec![]
        } else {
            vec![bottoms[0][1]]
        };
        Ok(vec![ParamSpec {
            shape: Shape::new(dims)?,
            filler: self.filler.clone(),
        }])
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let shape = &bottoms[0].shape;
        let (slopes, inner) = (&params[0].data, shape.count_of(2..shape.len()));
        for (i, (y, &x)) in tops[0].data.iter_mut().zip(&bottoms[0].data).enumerate() {
            let slope = if self.channel_shared {
                slopes[0]
            } else {
                slopes[i / inner % shape[1]]
            };
            let positive = if x < 0.0 { 0.0 } else { x };
            let negative = if 0.0 < x { 0.0 } else { x };
            *y = positive + slope * negative;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        let slopes = &params.first()?.data;
        let slope = if self.channel_shared {
            Pointwise::Const(slopes[0])
        } else {
            Pointwise::Broadcast(Broadcast::channels(slopes.clone()))
        };
        Some(Pointwise::relu(Pointwise::Bottom(0), slope))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, forward_as, infer, refusal, shape, tensor};
    use super::*;
    use crate::frontend::proto::PReLuParameter;

    #[test]
    fn one_slope_for_each_channel() {
        let x = tensor(&[2, 2, 1], [-1., -2., -3., 4.]);
        let slopes = tensor(&[2], [0.5, -1.]);
        let y = forward::<PRelu>(&LayerParameter::default(), &[x], &[slopes]);
        assert_eq!(y[0].data, [-0.5, 2., -1.5, 4.]);
    }

    #[test]
    fn one_slope_for_all_channels() {
        let p = LayerParameter {
            prelu_param: Some(Box::new(PReLuParameter {
                channel_shared: Some(true),
                filler: None,
            })),
            ..LayerParameter::default()
        };
        let x = tensor(&[1, 2], [-1., f32::NEG_INFINITY]);
        let y = forward::<PRelu>(&p, &[x], &[tensor(&[], [0.5])]);
        assert_eq!(y[0].data, [-0.5, f32::NEG_INFINITY]);
    }

    #[test]
    fn slopes_start_at_a_quarter() {
        let dims = &[1, 3, 2, 2];
        let (layer, _) = infer::<PRelu>(&LayerParameter::default(), &[dims]).unwrap();
        let specs = layer.params(&[shape(dims)]).unwrap();
        assert_eq!(
            (specs[0].filler.r#type(), specs[0].filler.value()),
            ("constant", 0.25)
        );
    }

    #[test]
    fn two_to_four_axes() {
        for dims in [&[3][..], &[1, 2, 3, 4, 5]] {
            let got = refusal::<PRelu>(&LayerParameter::default(), &[dims]);
            assert!(got.starts_with("bottom: "), "{got}");
        }
        let x = tensor(&[1, 2, 1, 1, 2], [-1., -2., -3., 4.]);
        let slopes = tensor(&[2], [0.5, -1.]);
        for dialect in [Dialect::Caffe3d, Dialect::Intel] {
            let p = LayerParameter::default();
            let y = forward_as::<PRelu>(Some(dialect), &p, &[&x], std::slice::from_ref(&slopes));
            assert_eq!(y[0].data, [-0.5, -1., 3., 4.]);
        }
    }
}
