//! `CompactProbabilisticAverageProb` (HD-CNN
//! `compact_probabilistic_average_prob_layer.cpp`): probabilities of classes by several
//! classifiers, weighted and added up.
//!
//! * bottoms: of classifier i the probabilities of the classes that
//!   `compact_classify_layer_param[i]` names, for each item; last the weights of the
//!   classifiers.
//! * top `[N, num_class, 1, 1]`.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct CompactProbabilisticAverageProb {
    classes: usize,
    /// Of each classifier.
    named: Vec<Vec<usize>>,
}

impl Layer for CompactProbabilisticAverageProb {
    fn claims() -> &'static [&'static str] {
        &["compact_probabilistic_average_prob_layer_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2.., 1..=1)?;
        cx.not_in_place()?;
        let p = &param.compact_probabilistic_average_prob_layer_param;
        let p = p.clone().unwrap_or_default();
        let field = "compact_probabilistic_average_prob_layer_param";
        let classes = cx.positive(&format!("{field}.num_class"), p.num_class())?;
        let classifiers = &p.compact_classify_layer_param;
        if classifiers.len() + 1 != cx.bottoms {
            let message = format!("{} for {} bottoms", classifiers.len(), cx.bottoms);
            let at = format!("{field}.compact_classify_layer_param");
            return Err(cx.invalid(&at, message).into());
        }
        let mut named = Vec::new();
        for (i, classifier) in classifiers.iter().enumerate() {
            if let Some(class) = classifier
                .class_id
                .iter()
                .find(|&&id| id as usize >= classes)
            {
                let message = format!("there is no class {class} of {classes}");
                let at = format!("{field}.compact_classify_layer_param[{i}].class_id");
                return Err(cx.invalid(&at, message).into());
            }
            named.push(classifier.class_id.iter().map(|&id| id as usize).collect());
        }
        Ok(CompactProbabilisticAverageProb { classes, named })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [items, ..] = legacy(&bottoms[0], "bottom[0]", cx)?;
        let values = self.named.iter().map(Vec::len).chain([self.named.len()]);
        for (i, (bottom, values)) in bottoms.iter().zip(values).enumerate() {
            let at = format!("bottom[{i}]");
            let [n, rest @ ..] = legacy(bottom, &at, cx)?;
            if n != items || rest.iter().product::<usize>() != values {
                let message = format!("{bottom} instead of {values} values for {items} items");
                return Err(cx.invalid(&at, message).into());
            }
        }
        Ok(vec![cx.locate(
            "bottom",
            Shape::new([items, self.classes, 1, 1]),
        )?])
    }

    /// One call an item.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = self.named.concat();
        let routine = routine!("compact_probabilistic_average_prob");
        Some(Call::new(routine, sizes, Vec::new()).cut(bottoms[0].nchw()?[0].max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    // One item. `sizes`: the classes of all classifiers, one after the other.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let Some((weights, classifiers)) = bottoms.split_last() else {
            return;
        };
        let mut sums = vec![0.0; tops[0].len()];
        let mut classes = sizes.iter();
        for (classifier, &weight) in classifiers.iter().zip(*weights) {
            for (&probability, &class) in classifier.iter().zip(&mut classes) {
                sums[class] += f64::from(weight) * f64::from(probability);
            }
        }
        for (y, sum) in tops[0].iter_mut().zip(sums) {
            *y = sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{
        CompactClassifyLayerParameter, CompactProbabilisticAverageProbLayerParameter,
    };

    fn param(classes: &[&[u32]]) -> LayerParameter {
        let of = |classes: &&[u32]| CompactClassifyLayerParameter {
            class_id: classes.to_vec(),
        };
        let p = CompactProbabilisticAverageProbLayerParameter {
            num_class: Some(3),
            compact_classify_layer_param: classes.iter().map(of).collect(),
        };
        LayerParameter {
            compact_probabilistic_average_prob_layer_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn weighted_sums() {
        let bottoms = [
            tensor(&[2, 2], [0.5, 0.25, 1., 0.]),
            tensor(&[2, 1], [1., 2.]),
            tensor(&[2, 2, 1, 1], [0.5, 0.5, 1., 0.25]),
        ];
        let p = param(&[&[2, 0], &[2]]);
        let y = forward::<CompactProbabilisticAverageProb>(&p, &bottoms, &[]);
        assert_eq!(y[0], tensor(&[2, 3, 1, 1], [0.125, 0., 0.75, 0., 0., 1.5]));
    }

    #[test]
    fn refusals() {
        let field = "compact_probabilistic_average_prob_layer_param.compact_classify_layer_param";
        for (classes, at) in [
            (&[&[2, 0][..], &[3]][..], format!("{field}[1].class_id")),
            (&[&[2]], field.into()),
            (&[&[2], &[1]], "bottom[0]".into()),
        ] {
            let bottoms: [&[usize]; 3] = [&[2, 2], &[2, 1], &[2, 2]];
            let got = refusal::<CompactProbabilisticAverageProb>(&param(classes), &bottoms);
            assert!(got.starts_with(&format!("{at}: ")), "{got}");
        }
    }
}
