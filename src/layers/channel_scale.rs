//! `ChannelScale` of forks: each position of bottom 0, in all channels, times its factor
//! in bottom 1. MNC calls it `MaskPooling`.
//!
//! * bottoms: `[N, C, …]` and `[N, 1, …]`. Top: as bottom 0.

use super::{Cx, Layer, broadcast};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ChannelScale;

impl Layer for ChannelScale {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        Ok(ChannelScale)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let (x, factors) = (&bottoms[0], &bottoms[1]);
        let mut wanted = x.to_vec();
        if let Some(channels) = wanted.get_mut(1) {
            *channels = 1;
        }
        if x.len() < 2 || factors.dims() != wanted {
            let message = format!("{factors} is not a factor for each position of {x}");
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![x.clone()])
    }

    /// Along the axes that both bottoms have.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis != 1).then_some(axis)
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let routine = routine!("channel_scale", "broadcast");
        Some(broadcast::call(routine, bottoms, &tops[0]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::broadcast::combine;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        combine(bottoms, tops[0], sizes, |x, factor| x * factor);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn values() {
        let x = tensor(&[1, 2, 2], [1., 2., 3., 4.]);
        let factors = tensor(&[1, 1, 2], [10., -1.]);
        let y = forward::<ChannelScale>(&LayerParameter::default(), &[x, factors], &[]);
        assert_eq!(y[0].data, [10., -2., 30., -4.]);
    }

    #[test]
    fn shapes() {
        let got = refusal::<ChannelScale>(&LayerParameter::default(), &[&[2, 3, 4], &[2, 3, 4]]);
        assert!(got.starts_with("bottom: 2×3×4 is not"), "{got}");
    }
}
