//! `CTCGreedyDecoder`: the best label of each step, repeats merged, blanks dropped
//! (caffe_train `ctc_decoder_layer.cpp`).
//!
//! * bottom: scores `T × N × C`.
//! * top `N × T × 1 × 1`: labels, filled up with −1.
//!
//! Of equal scores the first label counts. NaN is no score.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct CtcGreedyDecoder {
    /// Below 0: the last class.
    blank: i32,
    merge: bool,
}

impl Layer for CtcGreedyDecoder {
    fn claims() -> &'static [&'static str] {
        &["ctc_decoder_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        if cx.bottoms > 1 || cx.tops > 1 {
            let message = "CTCGreedyDecoder with sequence indicators, scores or an accuracy";
            return Err(cx.unsupported("type", message).into());
        }
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.ctc_decoder_param.clone().unwrap_or_default();
        Ok(CtcGreedyDecoder {
            blank: p.blank_index(),
            merge: p.ctc_merge_repeated(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [steps, streams, classes, ref rest @ ..] = bottoms[0][..] else {
            let message = format!("{} instead of T × N × C", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        if rest.iter().any(|&dim| dim != 1) || classes == 0 {
            let message = format!("{} instead of T × N × C", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        }
        if usize::try_from(self.blank).is_ok_and(|blank| blank >= classes) {
            let message = format!("{} of {classes} classes", self.blank);
            return Err(cx.invalid("ctc_decoder_param.blank_index", message).into());
        }
        Ok(vec![Shape::new([streams, steps, 1, 1])?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [steps, streams, classes, ..] = bottoms[0][..] else {
            return None;
        };
        let blank = usize::try_from(self.blank).unwrap_or(classes - 1);
        let sizes = vec![steps, streams, classes, blank, usize::from(self.merge)];
        Some(Call::new(routine!("ctc_greedy_decoder"), sizes, vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [steps, streams, classes] = [sizes[0], sizes[1], sizes[2]];
        let [blank, merge] = [sizes[3], sizes[4]];
        tops[0].fill(-1.0);
        for (stream, labels) in tops[0].chunks_exact_mut(steps).enumerate() {
            let mut labels = labels.iter_mut();
            let mut before = None;
            for step in 0..steps {
                let scores = &bottoms[0][(step * streams + stream) * classes..][..classes];
                let mut best = 0;
                for (class, &score) in scores.iter().enumerate() {
                    if score > scores[best] || scores[best].is_nan() {
                        best = class;
                    }
                }
                let repeated = merge == 1 && before == Some(best);
                let kept = best != blank && !repeated;
                if let Some(label) = kept.then(|| labels.next()).flatten() {
                    *label = best as f32;
                }
                before = Some(best);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::CtcDecoderParameter;

    fn param(blank: i32, merge: bool) -> LayerParameter {
        let p = CtcDecoderParameter {
            blank_index: Some(blank),
            ctc_merge_repeated: Some(merge),
        };
        LayerParameter {
            ctc_decoder_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Six steps of one stream: classes 1, 1, 0, 1, 2 and, of equals, 0.
    fn decode(param: &LayerParameter) -> Vec<f32> {
        let one_hot = [
            [0., 1., 0.],
            [0., 1., 0.],
            [1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.],
            [1.; 3],
        ];
        let bottom = tensor(&[6, 1, 3], one_hot.concat());
        forward::<CtcGreedyDecoder>(param, &[bottom], &[])
            .remove(0)
            .data
    }

    #[test]
    fn repeats_are_merged_and_blanks_dropped() {
        assert_eq!(
            decode(&LayerParameter::default()),
            [1., 1., 2., -1., -1., -1.]
        );
        assert_eq!(decode(&param(0, false)), [1., 1., 1., 2., -1., -1.]);
        assert_eq!(decode(&param(-1, true)), [1., 0., 1., 0., -1., -1.]);
    }

    #[test]
    fn streams_and_nan() {
        let scores = [[0., 9.], [9., 0.], [f32::NAN, 0.], [0., f32::NAN]];
        let bottom = tensor(&[2, 2, 2], scores.concat());
        let y = forward::<CtcGreedyDecoder>(&param(0, false), &[bottom], &[]);
        assert_eq!(y[0].shape.dims(), [2, 2, 1, 1]);
        assert_eq!(y[0].data, [1., 1., -1., -1.]);
    }

    #[test]
    fn refusals() {
        let refused =
            |blank, dims: &[usize]| refusal::<CtcGreedyDecoder>(&param(blank, true), &[dims]);
        assert!(refused(3, &[2, 1, 3]).starts_with("ctc_decoder_param.blank_index: "));
        assert!(refused(0, &[2, 3]).starts_with("bottom[0]: "));
        assert!(refused(0, &[2, 3, 4, 5]).starts_with("bottom[0]: "));
    }
}
