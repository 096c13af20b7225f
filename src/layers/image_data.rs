//! `ImageData`: pictures from a list of files, here an input of the net (Caffe
//! `image_data_layer.cpp`).

use super::{Cx, Feed, Layer, data, input};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

/// Top 0: `[batch_size, 3 or 1, height, width]`; top 1: labels, `[batch_size]`.
#[derive(Clone, Debug)]
pub struct ImageData {
    shapes: Vec<Option<Shape>>,
}

impl Layer for ImageData {
    /// Without `crop_size` and `new_height` the size is known only to the files.
    /// Errors: `Invalid` where only one of `new_height` and `new_width` is given, or
    /// the crop is larger than they are.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 2..=2)?;
        let crop = data::transform(param, cx)?.crop_size();
        let image = param.image_data_param.clone().unwrap_or_default();
        let batch = data::positive(image.batch_size(), "image_data_param.batch_size", cx)?;
        let (h, w) = (image.new_height(), image.new_width());
        if (h == 0) != (w == 0) {
            let message = "new_height and new_width must be given together";
            return Err(cx.invalid("image_data_param", message).into());
        }
        if h > 0 && crop > h.min(w) {
            let message = format!("a crop of {crop} does not fit into pictures of {h}×{w}");
            return Err(cx.invalid("transform_param.crop_size", message).into());
        }
        let size = match crop {
            0 => (h > 0).then_some([h, w]),
            _ => Some([crop, crop]),
        };
        let channels = if image.is_color() { data::COLOUR } else { 1 };
        let shapes = data::picture_and_label(batch, channels, size, cx)?;
        Ok(ImageData { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }
}
