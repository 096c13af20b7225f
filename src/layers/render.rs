//! `Render` (caffe_rtpose `render_layer.cpp`): a blob that the program around the net draws
//! on. The layer itself writes nothing, so that it is 0.
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, num_output, H, W]`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Render {
    num_output: usize,
}

impl Layer for Render {
    fn claims() -> &'static [&'static str] {
        &["render_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.render_param.clone().unwrap_or_default();
        Ok(Render {
            num_output: cx.positive("render_param.num_output", p.num_output())?,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let mut dims = bottoms[0].to_vec();
        let Some(channels) = dims.get_mut(1) else {
            let message = format!("the bottom must have at least 2 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        *channels = self.num_output;
        Ok(vec![
            cx.locate("render_param.num_output", Shape::new(dims))?,
        ])
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        Some(Call::new(routine!("render"), Vec::new(), Vec::new()))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(_bottoms: &[&[f32]], tops: &mut [&mut [f32]], _sizes: &[usize], _values: &[f32]) {
        tops[0].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::RenderParameter;

    fn param(num_output: Option<u32>) -> LayerParameter {
        LayerParameter {
            render_param: Some(RenderParameter { num_output }.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn zeros() {
        let y = forward::<Render>(&param(Some(2)), &[tensor(&[1, 1, 2], [7., 7.])], &[]);
        assert_eq!(y[0], tensor(&[1, 2, 2], [0.; 4]));
        let got = refusal::<Render>(&param(None), &[&[1, 1, 2]]);
        assert!(got.starts_with("render_param.num_output: "), "{got}");
    }
}
