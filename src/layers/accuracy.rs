//! `Accuracy`: the share of items whose true class is among the best `top_k` (Caffe
//! `accuracy_layer.cpp`).
//!
//! * bottoms: scores, and labels, one for each place of the other axes.
//! * tops: a scalar, and the accuracy of each class (0 for classes without items).
//!
//! Other classes with the score of the true one count as better. A label outside the
//! classes, which Caffe does not check, is never right here.

use super::concat::axis_of;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct Accuracy {
    pub top_k: u32,
    pub axis: i32,
    pub ignore_label: Option<i32>,
}

impl Layer for Accuracy {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=2)?;
        cx.not_in_place()?;
        let accuracy = param.accuracy_param.clone().unwrap_or_default();
        Ok(Accuracy {
            top_k: accuracy.top_k(),
            axis: accuracy.axis(),
            ignore_label: accuracy.ignore_label,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let classes = labelled(bottoms, self.axis, "accuracy_param", cx)?;
        if self.top_k as usize > classes {
            let message = format!("top_k {} exceeds the {classes} classes", self.top_k);
            return Err(cx.invalid("accuracy_param.top_k", message).into());
        }
        let tops = [Shape::default(), Shape::new([classes])?];
        Ok(tops[..cx.tops].to_vec())
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let classes = bottoms[0].shape[axis_of(self.axis, &bottoms[0].shape)];
        let (mut items, mut right) = (vec![0u32; classes], vec![0u32; classes]);
        let (mut all, mut all_right) = (0u32, 0u32);
        for (label, scores) in items_of(bottoms, self.axis) {
            if self.ignore_label == Some(label) {
                continue;
            }
            all += 1;
            let Some(truth) = usize::try_from(label).ok().filter(|&l| l < classes) else {
                continue;
            };
            // The true class counts itself, unless its score is NaN.
            let no_worse = scores.iter().filter(|&&s| s >= scores[truth]).count();
            let hit = no_worse <= self.top_k as usize;
            items[truth] += 1;
            right[truth] += u32::from(hit);
            all_right += u32::from(hit);
        }
        let share = |right: u32, all: u32| right as f32 / all.max(1) as f32;
        tops[0].data[0] = share(all_right, all);
        if let Some(top) = tops.get_mut(1) {
            for (class, y) in top.data.iter_mut().enumerate() {
                *y = share(right[class], items[class]);
            }
        }
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let axis = axis_of(self.axis, b.graph.shape(node.bottoms[0]));
        lower::accuracy(b, node, self, axis)
    }
}

/// The number of classes along `axis` of bottom 0.
/// Errors: `Invalid` unless bottom 1 has one label for each place of the other axes.
pub(super) fn labelled(bottoms: &[Shape], axis: i32, field: &str, cx: &Cx) -> Result<usize> {
    let (scores, labels) = (&bottoms[0], &bottoms[1]);
    let axis = cx.locate(field, scores.axis(axis))?;
    let places = scores.count_of(0..axis) * scores.count_of(axis + 1..scores.len());
    if places != labels.count() {
        let message = format!(
            "scores of {scores} with classes on axis {axis} need {places} labels, not {} ({labels})",
            labels.count()
        );
        return Err(cx.invalid("bottom", message).into());
    }
    Ok(scores[axis])
}

/// For each labelled place: its label, and the scores of all classes.
pub(super) fn items_of<'a>(
    bottoms: &'a [&'a Tensor],
    axis: i32,
) -> impl Iterator<Item = (i32, Vec<f32>)> + 'a {
    let shape = &bottoms[0].shape;
    let axis = axis_of(axis, shape);
    let (classes, inner) = (shape[axis], shape.count_of(axis + 1..shape.len()));
    bottoms[1].data.iter().enumerate().map(move |(i, &label)| {
        let (o, p) = (i / inner.max(1), i % inner.max(1));
        let score = |c| bottoms[0].data[(o * classes + c) * inner + p];
        (label as i32, (0..classes).map(score).collect())
    })
}
