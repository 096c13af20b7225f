//! `ExpandDimsND` of Synopsys' fork: the blob with more axes of extent 1.
//!
//! Each of `axis` counts the bottom's axes before the new one; they are put in one after
//! the other, each a place further on for those before it. A negative one counts from the
//! end, −1 behind the last axis.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct ExpandDimsNd {
    axes: Vec<i32>,
}

impl Layer for ExpandDimsNd {
    fn claims() -> &'static [&'static str] {
        &["expand_dims_nd_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let axes = param.expand_dims_nd_param.clone().unwrap_or_default().axis;
        Ok(ExpandDimsNd { axes })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let mut dims = bottom.to_vec();
        for (i, &axis) in self.axes.iter().enumerate() {
            let field = format!("expand_dims_nd_param.axis[{i}]");
            let before = match usize::try_from(axis) {
                Ok(before) => before,
                Err(_) => cx.locate(&field, bottom.axis(axis))? + 1,
            };
            // What the fork refuses, and where it would write behind the end.
            if before > bottom.len() || before + i > dims.len() {
                let message = format!("no place for axis {axis} in {bottom}");
                return Err(cx.invalid(&field, message).into());
            }
            dims.insert(before + i, 1);
        }
        Ok(vec![cx.locate("expand_dims_nd_param", Shape::new(dims))?])
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
    use crate::frontend::proto::ExpandDimsNdParameter;

    fn expand(axis: &[i32]) -> LayerParameter {
        LayerParameter {
            expand_dims_nd_param: Some(Box::new(ExpandDimsNdParameter {
                axis: axis.to_vec(),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn axes_of_the_bottom_before_the_new_ones() {
        let of = |axes: &[i32]| tops::<ExpandDimsNd>(&expand(axes), &[&[2, 3]]).remove(0);
        assert_eq!(of(&[1]), [2, 1, 3]);
        assert_eq!(of(&[2]), [2, 3, 1]);
        assert_eq!(of(&[-1]), [2, 3, 1]);
        assert_eq!(of(&[0, 1]), [1, 2, 1, 3]);
        assert_eq!(of(&[]), [2, 3]);
        let y = forward::<ExpandDimsNd>(&expand(&[0]), &[tensor(&[2], [5., 6.])], &[]);
        assert_eq!(y[0], tensor(&[1, 2], [5., 6.]));
    }

    #[test]
    fn refusals() {
        let of = |axes: &[i32]| refusal::<ExpandDimsNd>(&expand(axes), &[&[2, 3]]);
        assert_eq!(
            of(&[3]),
            "expand_dims_nd_param.axis[0]: no place for axis 3 in 2×3"
        );
        assert!(of(&[0, -3]).starts_with("expand_dims_nd_param.axis[1]: "));
        assert!(of(&[0; 40]).starts_with("expand_dims_nd_param: "));
    }
}
