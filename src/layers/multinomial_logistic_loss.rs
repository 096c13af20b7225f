//! `MultinomialLogisticLoss`: mean of −ln of the true class's probability (Caffe
//! `multinomial_logistic_loss_layer.cpp`).
//!
//! * bottoms: probabilities `[N, …]`, and labels, one an item.
//! * top: a scalar.
//!
//! Probabilities count as at least 1e-20. A label outside the classes, which Caffe does
//! not check, gives NaN here.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct MultinomialLogisticLoss;

impl Layer for MultinomialLogisticLoss {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=1)?;
        cx.not_in_place()?;
        Ok(MultinomialLogisticLoss)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        loss::items(bottoms, cx)?;
        loss::one_value_each(&bottoms[1], cx)?;
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = routine!("multinomial_logistic_loss", "loss");
        Some(Call::new(routine, vec![bottoms[0][0]], vec![]))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::loss::class;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let items = sizes[0];
        let classes = bottoms[0].len() / items;
        let mut sum = 0.0;
        for (probabilities, &label) in bottoms[0].chunks(classes).zip(bottoms[1]) {
            let p = class(label, classes).map_or(f32::NAN, |truth| probabilities[truth]);
            let p = if p < 1e-20 { 1e-20 } else { p };
            sum -= f64::from(p).ln();
        }
        for top in tops {
            top[0] = (sum / items as f64) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;

    fn run(labels: [f32; 2]) -> Vec<f32> {
        let probabilities = tensor(&[2, 2, 1, 1], [0.5, 0.25, 0., 1.]);
        let bottoms = [probabilities, tensor(&[2, 1], labels)];
        let param = LayerParameter::default();
        forward::<MultinomialLogisticLoss>(&param, &bottoms, &[])
            .remove(0)
            .data
    }

    #[test]
    fn values() {
        let ln2 = std::f32::consts::LN_2;
        assert_close(&run([1., 1.]), &[ln2], 1e-7);
        assert_close(
            &run([0., 0.]),
            &[(ln2 + 20. * std::f32::consts::LN_10) / 2.],
            1e-6,
        );
        assert!(run([0., 2.])[0].is_nan());
    }

    #[test]
    fn one_label_an_item() {
        let param = LayerParameter::default();
        let got = refusal::<MultinomialLogisticLoss>(&param, &[&[2, 3], &[2, 3]]);
        assert!(got.starts_with("bottom: labels must be one value"), "{got}");
    }
}
