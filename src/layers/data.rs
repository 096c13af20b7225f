//! `Data`: batches from a database, here an input of the net (Caffe `data_layer.cpp`).

use super::{Cx, Feed, Layer, input};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, TransformationParameter};
use crate::ir::{Shape, Tensor};

/// Top 0: `[batch_size, channels, crop_size, crop_size]`; top 1: labels, `[batch_size]`.
#[derive(Clone, Debug)]
pub struct Data {
    shapes: Vec<Option<Shape>>,
    assumed: Option<String>,
}

impl Layer for Data {
    /// Without `crop_size` the size of the pictures is known only to the database.
    /// Errors: `Invalid` for a batch of 0 and for contradicting transformations.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..=2)?;
        let transform = transform(param, cx)?;
        let data = param.data_param.clone().unwrap_or_default();
        let batch = positive(data.batch_size(), "data_param.batch_size", cx)?;
        let crop = transform.crop_size();
        let known = match data.force_encoded_color() {
            true => Some(3),
            false => channels(&transform),
        };
        let size = (crop > 0).then_some([crop, crop]);
        let shapes = picture_and_label(batch, known.unwrap_or(COLOUR), size, cx)?;
        let assumed = (known.is_none() && size.is_some()).then(assumption);
        Ok(Data { shapes, assumed })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }

    fn note(&self) -> Option<String> {
        self.assumed.clone()
    }
}

/// Channels of colour pictures.
pub(super) const COLOUR: u32 = 3;

pub(super) fn assumption() -> String {
    "only its data tells the number of channels: taken as 3, as in colour pictures (--shape gives another)".into()
}

/// The layer's `transform_param`, checked (Caffe `data_transformer.cpp`).
pub(super) fn transform(param: &LayerParameter, cx: &Cx) -> Result<TransformationParameter> {
    let transform = param.transform_param.as_deref().cloned();
    let transform = transform.unwrap_or_default();
    if transform.mean_file.is_some() && !transform.mean_value.is_empty() {
        let message = "mean_file and mean_value exclude each other";
        return Err(cx.invalid("transform_param.mean_value", message).into());
    }
    if transform.force_color() && transform.force_gray() {
        let message = "force_color and force_gray exclude each other";
        return Err(cx.invalid("transform_param.force_gray", message).into());
    }
    Ok(transform)
}

/// The number of channels, where the transformation implies one.
pub(super) fn channels(transform: &TransformationParameter) -> Option<u32> {
    match transform {
        t if t.force_color() => Some(3),
        t if t.force_gray() => Some(1),
        t if t.mean_value.len() > 1 => u32::try_from(t.mean_value.len()).ok(),
        _ => None,
    }
}

/// Errors: `Invalid` for 0.
pub(super) fn positive(value: u32, field: &str, cx: &Cx) -> Result<u32> {
    if value > 0 {
        return Ok(value);
    }
    Err(cx
        .invalid(field, format!("`{field}` must be given and above 0"))
        .into())
}

/// Shapes of the usual two tops of a data layer; only the picture needs `size`.
pub(super) fn picture_and_label(
    batch: u32,
    channels: u32,
    size: Option<[u32; 2]>,
    cx: &Cx,
) -> Result<Vec<Option<Shape>>> {
    let dims = |dims: &[u32]| -> Result<Shape> {
        let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
        cx.locate("top", Shape::new(dims))
    };
    let picture = match size {
        Some([h, w]) => Some(dims(&[batch, channels, h, w])?),
        None => None,
    };
    let mut shapes = vec![picture, Some(dims(&[batch])?)];
    shapes.truncate(cx.tops);
    Ok(shapes)
}
