//! `Unstack` of Synopsys' fork: one bottom cut into tops along `axis`, which vanishes.
//!
//! Top i is what lies at i; what has no top is left out.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Unstack {
    /// May be negative.
    axis: i32,
}

impl Layer for Unstack {
    fn claims() -> &'static [&'static str] {
        &["unstack_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..)?;
        cx.not_in_place()?;
        let axis = param.unstack_param.clone().unwrap_or_default().axis();
        Ok(Unstack { axis })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let axis = cx.locate("unstack_param.axis", bottom.axis(self.axis))?;
        if cx.tops > bottom[axis] {
            let message = format!("{} tops of axis {axis} of {bottom}", cx.tops);
            return Err(cx.invalid("top", message).into());
        }
        let dims = [&bottom[..axis], &bottom[axis + 1..]].concat();
        let top = cx.locate("bottom", Shape::new(dims))?;
        Ok(vec![top; cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let bottom = &bottoms[0];
        let axis = bottom.axis(self.axis).ok()?;
        let sizes = vec![bottom[axis], bottom.count_of(axis + 1..bottom.len())];
        Some(Call::new(routine!("unstack"), sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    /// `sizes`: the axis and what lies behind it.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [extent, inner] = [sizes[0], sizes[1]];
        for (i, top) in tops.iter_mut().enumerate() {
            let rows = bottoms[0].chunks_exact(inner).skip(i).step_by(extent);
            for (to, from) in top.chunks_exact_mut(inner).zip(rows) {
                to.copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::UnstackParameter;

    fn unstack(axis: i32, tops: usize) -> LayerParameter {
        LayerParameter {
            top: (0..tops).map(|i| format!("y{i}")).collect(),
            unstack_param: Some(Box::new(UnstackParameter {
                axis: Some(axis),
                num: None,
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn each_place_of_the_axis() {
        let x = tensor(&[2, 3, 2], (0..12).map(|i| i as f32).collect::<Vec<_>>());
        let y = forward::<Unstack>(&unstack(1, 3), &[&x], &[]);
        assert_eq!(y[0], tensor(&[2, 2], [0., 1., 6., 7.]));
        assert_eq!(y[2], tensor(&[2, 2], [4., 5., 10., 11.]));
        let y = forward::<Unstack>(&unstack(-1, 1), &[&x], &[]);
        assert_eq!(y[0], tensor(&[2, 3], [0., 2., 4., 6., 8., 10.]));
    }

    #[test]
    fn refusals() {
        let got = refusal::<Unstack>(&unstack(1, 4), &[&[2, 3]]);
        assert_eq!(got, "top: 4 tops of axis 1 of 2×3");
        assert!(refusal::<Unstack>(&unstack(2, 1), &[&[2, 3]]).starts_with("unstack_param.axis: "));
    }
}
