//! `Maximum` (caffe_rtpose `maximum_layer.cpp`): the largest value of each map and its place.
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, C, 1, 3]`: x, y and value, of equals the first.
//!   A value counts above the smallest positive normal number, which stands, at place 0, 0,
//!   where none does. (The GPU code starts from −1e10 and takes another one of equals.)

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Maximum;

impl Layer for Maximum {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        Ok(Maximum)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, _, _] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        Ok(vec![cx.locate("top", Shape::new([n, c, 1, 3]))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![bottoms[0].count_of(2..4), bottoms[0][3]];
        let maps = bottoms[0].count_of(0..2).max(1);
        Some(Call::new(routine!("maximum"), sizes, Vec::new()).cut(maps))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (mut largest, mut at) = (f32::MIN_POSITIVE, 0);
        for (i, &x) in bottoms[0].iter().enumerate().take(sizes[0]) {
            if x > largest {
                (largest, at) = (x, i);
            }
        }
        let width = sizes[1].max(1);
        if let [x, y, value] = &mut tops[0][..] {
            (*x, *y, *value) = ((at % width) as f32, (at / width) as f32, largest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn the_first_of_equals_or_nothing() {
        let maps = tensor(
            &[1, 2, 2, 3],
            [0., 1., 2., 2., f32::NAN, 2., -1., 0., -2., 0., 0., 0.],
        );
        let y = forward::<Maximum>(&LayerParameter::default(), &[maps], &[]);
        assert_eq!(
            y[0],
            tensor(&[1, 2, 1, 3], [2., 0., 2., 0., 0., f32::MIN_POSITIVE])
        );
    }

    #[test]
    fn refusals() {
        let got = refusal::<Maximum>(&LayerParameter::default(), &[&[1, 2, 3]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
