//! `ShuffleChannel` of ShuffleNet (`shuffle_channel_layer.cpp`): with g groups of C / g
//! channels, top channel `j·g + i` is bottom channel `i·(C/g) + j`.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct ShuffleChannel {
    group: usize,
}

impl Layer for ShuffleChannel {
    fn claims() -> &'static [&'static str] {
        &["shuffle_channel_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let group = param
            .shuffle_channel_param
            .clone()
            .unwrap_or_default()
            .group();
        let group = cx.positive("shuffle_channel_param.group", group)?;
        Ok(ShuffleChannel { group })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        if bottom.len() < 2 || !bottom[1].is_multiple_of(self.group) {
            let message = format!(
                "{} groups do not divide the channels of {bottom}",
                self.group
            );
            return Err(cx.invalid("shuffle_channel_param.group", message).into());
        }
        Ok(vec![bottom.clone()])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let bottom = &bottoms[0];
        let inner = bottom.count_of(2..bottom.len());
        let each = bottom[1] / self.group;
        let axes = [
            (bottom[0], bottom[1] * inner),
            (each, inner),
            (self.group, each * inner),
            (inner, 1),
        ];
        Some(Moves {
            base: 0,
            axes: axes
                .map(|(extent, stride)| (extent, stride as i64))
                .to_vec(),
        })
    }

    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis != 1).then_some(axis)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ShuffleChannelParameter;

    fn group(group: u32) -> LayerParameter {
        LayerParameter {
            shuffle_channel_param: Some(Box::new(ShuffleChannelParameter { group: Some(group) })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn groups_take_turns() {
        let x = tensor(&[1, 6, 1, 1], [0., 1., 2., 3., 4., 5.]);
        let y = forward::<ShuffleChannel>(&group(2), &[&x], &[]);
        assert_eq!(y[0].data, [0., 3., 1., 4., 2., 5.]);
        let y = forward::<ShuffleChannel>(&group(3), &[x], &[]);
        assert_eq!(y[0].data, [0., 2., 4., 1., 3., 5.]);
    }

    #[test]
    fn groups_must_divide() {
        let message = refusal::<ShuffleChannel>(&group(4), &[&[1, 6, 2, 2]]);
        assert!(
            message.starts_with("shuffle_channel_param.group: 4 groups"),
            "{message}"
        );
        assert!(refusal::<ShuffleChannel>(&group(0), &[&[1, 6]]).contains("must not be 0"));
    }
}
