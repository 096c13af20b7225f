//! `DetectionCcpdOutput` (yuqj1991/caffe_train `detection_ccpd_output_layer.cpp`): the
//! characters of a licence plate.
//!
//! * bottoms: scores of the first character, a Chinese one, of the second, an English one, and
//!   of five letters or digits, `num_chinese`, `num_english` and `num_letter` an image.
//! * top `1 × 1 × N × 7`: the number of each character's best score above 0, of equals the
//!   first; 0 if none is.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct DetectionCcpdOutput {
    /// Scores of each character.
    scores: [usize; 7],
}

impl Layer for DetectionCcpdOutput {
    fn claims() -> &'static [&'static str] {
        &["lp_det_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(7..=7, 1..=1)?;
        cx.not_in_place()?;
        let p = param.lp_det_param.clone().unwrap_or_default();
        let number = |field: &str, number: Option<i32>| {
            let number = u32::try_from(number.unwrap_or(0)).unwrap_or(0);
            cx.positive(&format!("lp_det_param.{field}"), number)
        };
        let letters = number("num_letter", p.num_letter)?;
        let mut scores = [letters; 7];
        scores[0] = number("num_chinese", p.num_chinese)?;
        scores[1] = number("num_english", p.num_english)?;
        Ok(DetectionCcpdOutput { scores })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [images, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        for (i, (bottom, &scores)) in bottoms.iter().zip(&self.scores).enumerate() {
            let at = format!("bottom[{i}]");
            let [n, rest @ ..] = legacy(bottom, &at, cx)?;
            if n != images || rest.iter().product::<usize>() != scores {
                let message = format!("{bottom} instead of {scores} scores for {images} images");
                return Err(cx.invalid(&at, message).into());
            }
        }
        Ok(vec![cx.locate("bottom", Shape::new([1, 1, images, 7]))?])
    }

    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = routine!("detection_ccpd_output");
        Some(Call::new(routine, self.scores.to_vec(), Vec::new()))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        for (image, row) in tops[0].chunks_exact_mut(7).enumerate() {
            for (y, (scores, &len)) in row.iter_mut().zip(bottoms.iter().zip(sizes)) {
                let mut best = (0, 0.0);
                for (i, &score) in scores[image * len..][..len].iter().enumerate() {
                    if score > best.1 {
                        best = (i, score);
                    }
                }
                *y = best.0 as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LpDetParameter;

    fn param(chinese: i32) -> LayerParameter {
        let p = LpDetParameter {
            num_chinese: Some(chinese),
            num_english: Some(1),
            num_letter: Some(3),
        };
        LayerParameter {
            lp_det_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn the_first_best_above_0() {
        let letters = [0., 0.5, 0.5, -1., -2., 0.];
        let mut bottoms = vec![
            tensor(&[2, 2], [0.2, 0.3, 0.3, 0.2]),
            tensor(&[2, 1], [1., 1.]),
        ];
        bottoms.extend((0..5).map(|_| tensor(&[2, 3], letters)));
        let y = forward::<DetectionCcpdOutput>(&param(2), &bottoms, &[]);
        let want = [1., 0., 1., 1., 1., 1., 1., 0., 0., 0., 0., 0., 0., 0.];
        assert_eq!(y[0], tensor(&[1, 1, 2, 7], want));
    }

    #[test]
    fn refusals() {
        let letters: &[usize] = &[2, 3];
        let mut bottoms = [letters; 7];
        bottoms[1] = &[2, 1];
        let got = refusal::<DetectionCcpdOutput>(&param(2), &bottoms);
        assert!(got.starts_with("bottom[0]: "), "{got}");
        let got = refusal::<DetectionCcpdOutput>(&param(-1), &bottoms);
        assert!(got.starts_with("lp_det_param.num_chinese: "), "{got}");
    }
}
