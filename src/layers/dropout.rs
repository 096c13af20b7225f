//! `Dropout`: identity at test time (Caffe `dropout_layer.cpp`); also in phase TRAIN,
//! where Caffe would drop at random.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Dropout {
    /// Only phase TRAIN would use it.
    pub ratio: f32,
    train: bool,
}

impl Layer for Dropout {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let ratio = param.dropout_param.unwrap_or_default().dropout_ratio();
        let train = cx.phase == Phase::Train;
        Ok(Dropout { ratio, train })
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        tops[0].data.copy_from_slice(&bottoms[0].data);
    }

    /// Not `shares_storage`: Caffe copies at test time.
    fn is_view(&self) -> bool {
        true
    }

    fn note(&self) -> Option<String> {
        let ratio = self.ratio;
        let note = || {
            format!("Caffe drops a random share of {ratio} in phase TRAIN; here nothing is dropped")
        };
        self.train.then(note)
    }
}
