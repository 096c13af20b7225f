//! `Dropout`: identity at test time (Caffe `dropout_layer.cpp`); also in phase TRAIN,
//! where Caffe would drop at random.
//!
//! In the Fast R-CNN family `scale_train: false` means that values are not scaled up in
//! training, but in phase TEST multiplied by `1 − dropout_ratio`.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;

#[derive(Clone, Debug)]
pub struct Dropout {
    pub ratio: f32,
    /// What values are multiplied by.
    pub factor: f32,
    /// Caffe would drop at random.
    random: bool,
}

impl Layer for Dropout {
    fn claims() -> &'static [&'static str] {
        &[
            "dropout_param.scale_train",
            "dropout_param.sample_weights_test",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.dropout_param.clone().unwrap_or_default();
        let (ratio, train) = (p.dropout_ratio(), cx.phase == Phase::Train);
        Ok(Dropout {
            ratio,
            factor: if p.scale_train() || train {
                1.0
            } else {
                1.0 - ratio
            },
            random: train || p.sample_weights_test(),
        })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for (y, &x) in tops[0].data.iter_mut().zip(&bottoms[0].data) {
            *y = self.factor * x;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let factor = Pointwise::Const(self.factor);
        let scaled = || Pointwise::binary(BinaryOp::Mul, Pointwise::Bottom(0), factor);
        (!self.is_view()).then(scaled)
    }

    /// Not `shares_storage`: Caffe copies at test time.
    fn is_view(&self) -> bool {
        self.factor == 1.0
    }

    fn note(&self) -> Option<String> {
        let ratio = self.ratio;
        let note =
            || format!("Caffe drops a random share of {ratio} here; a compiled net drops nothing");
        self.random.then(note)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, infer, tensor};
    use super::*;
    use crate::frontend::proto::DropoutParameter;

    #[test]
    fn phase_test_may_scale() {
        let param = |scale_train, sample_weights_test| LayerParameter {
            dropout_param: Some(
                DropoutParameter {
                    dropout_ratio: Some(0.25),
                    scale_train: Some(scale_train),
                    sample_weights_test: Some(sample_weights_test),
                    ..DropoutParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        for (scale_train, want) in [(true, [4., -8.]), (false, [3., -6.])] {
            let x = tensor(&[2], [4., -8.]);
            let y = forward::<Dropout>(&param(scale_train, false), &[x], &[]);
            assert_eq!(y[0].data, want);
        }
        for random in [false, true] {
            let (layer, _) = infer::<Dropout>(&param(true, random), &[&[2]]).unwrap();
            assert_eq!(layer.note().is_some(), random);
        }
    }
}
