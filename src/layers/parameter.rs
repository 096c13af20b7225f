//! `Parameter`: a parameter blob as a top (Caffe `parameter_layer.hpp`).
//!
//! * blob and top: `shape`; without one, a scalar. Weights give it, else it is 0.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Parameter {
    pub shape: Shape,
}

impl Layer for Parameter {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..=1)?;
        let shape = param
            .parameter_param
            .as_ref()
            .and_then(|p| p.shape.as_ref());
        let dims = shape.map_or(&[][..], |shape| &shape.dim);
        Ok(Parameter {
            shape: cx.locate("parameter_param.shape", Shape::from_i64(dims))?,
        })
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![self.shape.clone()])
    }

    fn params(&self, _bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        Ok(vec![ParamSpec {
            shape: self.shape.clone(),
            filler: FillerParameter::default(),
        }])
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        Some(Call::new(routine!("parameter"), vec![], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], _sizes: &[usize], _values: &[f32]) {
        tops[0].copy_from_slice(bottoms[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::{BlobShape, ParameterParameter};
    use crate::ir::Tensor;

    fn param(dim: &[i64]) -> LayerParameter {
        LayerParameter {
            parameter_param: Some(
                ParameterParameter {
                    shape: Some(BlobShape { dim: dim.to_vec() }),
                    ..ParameterParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_blob_is_the_top() {
        let blob = tensor(&[1, 2], [3., 4.]);
        let y = forward::<Parameter>(
            &param(&[1, 2]),
            &[] as &[Tensor],
            std::slice::from_ref(&blob),
        );
        assert_eq!(y, [blob]);
        assert_eq!(
            tops::<Parameter>(&LayerParameter::default(), &[]),
            [[0usize; 0]]
        );
        let got = refusal::<Parameter>(&param(&[-1]), &[]);
        assert!(got.starts_with("parameter_param.shape: "), "{got}");
    }
}
