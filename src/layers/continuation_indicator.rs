//! `ContinuationIndicator`: where sequences start (deepdetect
//! `continuation_indicator_layer.cpp`).
//!
//! * bottom: a blob whose `axis` has as many elements as there are streams; with
//!   `batch_size` (warpctc_captcha), which says how many, it may be missing.
//! * top `time_step × streams`: 0 in the first row, else 1.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ContinuationIndicator {
    steps: usize,
    axis: i32,
    /// Streams, where the bottom does not tell.
    batch_size: Option<usize>,
}

impl Layer for ContinuationIndicator {
    fn claims() -> &'static [&'static str] {
        &[
            "continuation_indicator_param",
            "continuation_indicator_param.batch_size",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.not_in_place()?;
        let p = param
            .continuation_indicator_param
            .clone()
            .unwrap_or_default();
        let batch_size = match p.batch_size() {
            0 => None,
            n => Some(cx.size("continuation_indicator_param.batch_size", n)?),
        };
        cx.counts(usize::from(batch_size.is_none())..=1, 1..=1)?;
        Ok(ContinuationIndicator {
            steps: cx.positive("continuation_indicator_param.time_step", p.time_step())?,
            axis: p.axis(),
            batch_size,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let streams = match self.batch_size {
            Some(streams) => streams,
            None => {
                let axis = bottoms[0].axis(self.axis);
                bottoms[0][cx.locate("continuation_indicator_param.axis", axis)?]
            }
        };
        let top = Shape::new([self.steps, streams]);
        Ok(vec![
            cx.locate("continuation_indicator_param.time_step", top)?,
        ])
    }

    fn routine(&self, _bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let routine = routine!("continuation_indicator");
        Some(Call::new(routine, vec![tops[0][1]], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(_bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (first, rest) = tops[0].split_at_mut(sizes[0]);
        first.fill(0.0);
        rest.fill(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, noise, refusal};
    use super::*;
    use crate::frontend::proto::ContinuationIndicatorParameter;

    fn param(time_step: u32, axis: i32) -> LayerParameter {
        let p = ContinuationIndicatorParameter {
            time_step: Some(time_step),
            axis: Some(axis),
            ..ContinuationIndicatorParameter::default()
        };
        LayerParameter {
            continuation_indicator_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_first_row_is_0() {
        let y = forward::<ContinuationIndicator>(&param(3, -1), &[noise(&[4, 2])], &[]);
        assert_eq!(y[0].shape.dims(), [3, 2]);
        assert_eq!(y[0].data, [0., 0., 1., 1., 1., 1.]);
    }

    #[test]
    fn streams_without_a_bottom() {
        let mut param = param(2, 0);
        param
            .continuation_indicator_param
            .as_mut()
            .unwrap()
            .batch_size = Some(3);
        let y = forward::<ContinuationIndicator>(&param, &[] as &[crate::ir::Tensor], &[]);
        assert_eq!(y[0].data, [0., 0., 0., 1., 1., 1.]);
    }

    #[test]
    fn refusals() {
        let refused = |param| refusal::<ContinuationIndicator>(&param, &[&[4, 2]]);
        assert!(refused(param(0, 0)).starts_with("continuation_indicator_param.time_step: "));
        assert!(refused(param(1, 2)).starts_with("continuation_indicator_param.axis: "));
    }
}
