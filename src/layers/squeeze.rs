//! `Squeeze` of Synopsys' fork: the blob without axes of extent 1.
//!
//! Those named by `axis` (negative ones count from the end), or all of them.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Squeeze {
    axes: Vec<i32>,
}

impl Layer for Squeeze {
    fn claims() -> &'static [&'static str] {
        &["squeeze_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let axes = param.squeeze_param.clone().unwrap_or_default().axis;
        Ok(Squeeze { axes })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let mut dropped: Vec<bool> = bottom
            .iter()
            .map(|&extent| self.axes.is_empty() && extent == 1)
            .collect();
        for (i, &axis) in self.axes.iter().enumerate() {
            let field = format!("squeeze_param.axis[{i}]");
            let axis = cx.locate(&field, bottom.axis(axis))?;
            if bottom[axis] != 1 {
                let message = format!("axis {axis} of {bottom} is not of extent 1");
                return Err(cx.invalid(&field, message).into());
            }
            dropped[axis] = true;
        }
        let kept = bottom
            .iter()
            .zip(&dropped)
            .filter(|(_, dropped)| !**dropped);
        let dims: Vec<usize> = kept.map(|(&extent, _)| extent).collect();
        Ok(vec![cx.locate("bottom", Shape::new(dims))?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        Some(Moves::identity(&bottoms[0]))
    }

    fn shares_storage(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::SqueezeParameter;

    fn squeeze(axis: &[i32]) -> LayerParameter {
        LayerParameter {
            squeeze_param: Some(Box::new(SqueezeParameter {
                axis: axis.to_vec(),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn named_axes_or_all() {
        assert_eq!(tops::<Squeeze>(&squeeze(&[]), &[&[1, 3, 1, 2]]), [[3, 2]]);
        let some = tops::<Squeeze>(&squeeze(&[0, -2]), &[&[1, 3, 1, 1]]);
        assert_eq!(some, [[3, 1]]);
        let y = forward::<Squeeze>(&squeeze(&[]), &[tensor(&[1, 2], [5., 6.])], &[]);
        assert_eq!(y[0].data, [5., 6.]);
    }

    #[test]
    fn only_axes_of_extent_1() {
        let message = refusal::<Squeeze>(&squeeze(&[1]), &[&[1, 3]]);
        assert_eq!(
            message,
            "squeeze_param.axis[0]: axis 1 of 1×3 is not of extent 1"
        );
        assert!(
            refusal::<Squeeze>(&squeeze(&[2]), &[&[1, 3]]).starts_with("squeeze_param.axis[0]")
        );
    }
}
