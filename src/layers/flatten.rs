//! `Flatten`: the axes from `axis` to `end_axis` as one (Caffe `flatten_layer.cpp`).

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Flatten {
    pub axis: i32,
    pub end_axis: i32,
}

impl Layer for Flatten {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let flatten = param.flatten_param.clone().unwrap_or_default();
        Ok(Flatten {
            axis: flatten.axis(),
            end_axis: flatten.end_axis(),
        })
    }

    /// An end just before the start makes a new axis of 1, as in Caffe.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let start = cx.locate("flatten_param", bottom.axis(self.axis))?;
        let end = cx.locate("flatten_param", bottom.axis(self.end_axis))? + 1;
        if start > end {
            let message = format!("end_axis {} lies before axis {}", self.end_axis, self.axis);
            return Err(cx.invalid("flatten_param.end_axis", message).into());
        }
        let mut dims = bottom[..start].to_vec();
        dims.push(bottom.count_of(start..end));
        dims.extend_from_slice(&bottom[end..]);
        Ok(vec![cx.locate("flatten_param", Shape::new(dims))?])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        tops[0].data.copy_from_slice(&bottoms[0].data);
    }

    fn shares_storage(&self) -> bool {
        true
    }
}
