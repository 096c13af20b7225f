//! `Split`: several names for one blob (Caffe `split_layer.cpp`).

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Split;

impl Layer for Split {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..)?;
        cx.not_in_place()?;
        Ok(Split)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone(); cx.tops])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        for top in tops {
            top.data.copy_from_slice(&bottoms[0].data);
        }
    }

    fn shares_storage(&self) -> bool {
        true
    }
}
