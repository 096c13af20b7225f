//! `Reverse` (`reverse_layer.cpp` of CTPN, jolibrain; several axes in Synopsys' fork) and
//! `Flip` (of happynear): axes back to front.
//!
//! An axis that is named twice is turned back. Flip mirrors along the last axis
//! (`flip_width`, which is the default) or the one before.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Reverse {
    /// Negative ones count from the end.
    axes: Vec<i32>,
}

impl Layer for Reverse {
    fn claims() -> &'static [&'static str] {
        &["reverse_param", "flip_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let axes = match param.r#type() {
            "Flip" => {
                let p = param.flip_param.clone().unwrap_or_default();
                let flipped = [(-1, p.flip_width()), (-2, p.flip_height())];
                let flipped = flipped.into_iter().filter(|&(_, flip)| flip);
                flipped.map(|(axis, _)| axis).collect()
            }
            _ => match param.reverse_param.clone().unwrap_or_default().axis {
                none if none.is_empty() => vec![0],
                axes => axes,
            },
        };
        Ok(Reverse { axes })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        for (i, &axis) in self.axes.iter().enumerate() {
            cx.locate(&format!("reverse_param.axis[{i}]"), bottoms[0].axis(axis))?;
        }
        Ok(vec![bottoms[0].clone()])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let bottom = &bottoms[0];
        let mut moves = Moves::identity(bottom);
        for &axis in &self.axes {
            let (extent, stride) = &mut moves.axes[bottom.axis(axis).ok()?];
            moves.base += (*extent as i64 - 1) * *stride;
            *stride = -*stride;
        }
        Some(moves)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{FlipParameter, ReverseParameter};

    fn reverse(axis: &[i32]) -> LayerParameter {
        LayerParameter {
            reverse_param: Some(Box::new(ReverseParameter {
                axis: axis.to_vec(),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_first_axis_by_default_and_several() {
        let x = tensor(&[2, 3], [1., 2., 3., 4., 5., 6.]);
        let of = |param: &LayerParameter| forward::<Reverse>(param, &[&x], &[])[0].data.clone();
        assert_eq!(of(&reverse(&[])), [4., 5., 6., 1., 2., 3.]);
        assert_eq!(of(&reverse(&[-1])), [3., 2., 1., 6., 5., 4.]);
        assert_eq!(of(&reverse(&[0, 1])), [6., 5., 4., 3., 2., 1.]);
        assert_eq!(of(&reverse(&[1, 1])), x.data);
        let flip = |flip_width, flip_height| LayerParameter {
            r#type: Some("Flip".into()),
            flip_param: Some(Box::new(FlipParameter {
                flip_width,
                flip_height,
            })),
            ..LayerParameter::default()
        };
        assert_eq!(of(&flip(None, None)), [3., 2., 1., 6., 5., 4.]);
        assert_eq!(of(&flip(Some(false), Some(true))), [4., 5., 6., 1., 2., 3.]);
    }

    #[test]
    fn there_must_be_such_an_axis() {
        let message = refusal::<Reverse>(&reverse(&[0, 2]), &[&[2, 3]]);
        assert!(message.starts_with("reverse_param.axis[1]: "), "{message}");
    }
}
