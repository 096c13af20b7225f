//! `MIL` (visual-concepts `mil_layer.cpp`): each map as one value, for all of an image's
//! regions.
//!
//! * bottom: at most 4 axes. Top: `[N, C, 1, 1]`.
//! * MAX: the largest value, at least −FLT_MAX. NOR: `max(1 − Π(1 − x), max x)`; values are
//!   probabilities.

use super::boxes::routine as boxes;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::mil_parameter::MilType;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Mil {
    nor: bool,
}

impl Layer for Mil {
    fn claims() -> &'static [&'static str] {
        &["mil_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.mil_param.clone().unwrap_or_default();
        Ok(Mil {
            nor: p.r#type() == MilType::Nor,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, ..] = legacy(&bottoms[0], "bottom", cx)?;
        Ok(vec![cx.locate("bottom", Shape::new([n, c, 1, 1]))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [n, c, ..] = bottoms[0].nchw()?;
        let sizes = vec![usize::from(self.nor)];
        Some(Call::new(routine!("mil", "boxes"), sizes, Vec::new()).cut((n * c).max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::max;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let largest = bottoms[0]
            .iter()
            .fold(f32::MIN, |largest, &x| max(largest, x));
        let none = bottoms[0]
            .iter()
            .fold(1.0, |none, &x| none * (1.0 - f64::from(x)));
        for y in tops[0].iter_mut() {
            *y = match sizes[0] {
                1 => max((1.0 - none) as f32, largest),
                _ => largest,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::MilParameter;

    fn pool(kind: MilType, map: &[f32]) -> Vec<f32> {
        let p = MilParameter {
            r#type: Some(kind.into()),
        };
        let param = LayerParameter {
            mil_param: Some(p.into()),
            ..LayerParameter::default()
        };
        let maps = tensor(&[1, 2, 1, map.len() / 2], map);
        let y = forward::<Mil>(&param, &[maps], &[]).remove(0);
        assert_eq!(y.shape.dims(), [1, 2, 1, 1]);
        y.data
    }

    #[test]
    fn the_largest_or_any() {
        assert_eq!(pool(MilType::Max, &[0.5, 0.25, -1., -2.]), [0.5, -1.]);
        // 1 − 0.5 · 0.75; 1 − 1.5 · 1 is below the largest.
        assert_eq!(pool(MilType::Nor, &[0.5, 0.25, -0.5, 0.]), [0.625, 0.]);
        let axes: &[usize] = &[1, 1, 1, 1, 1];
        assert!(refusal::<Mil>(&LayerParameter::default(), &[axes]).starts_with("bottom: "));
    }
}
