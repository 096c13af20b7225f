//! `Input`: blobs that the caller provides (Caffe `input_layer.cpp`).

use super::{Cx, Feed, Layer};
use crate::diag::Result;
use crate::frontend::proto::{BlobShape, LayerParameter};
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Input {
    pub shapes: Vec<Option<Shape>>,
}

impl Layer for Input {
    /// Errors: `Invalid` unless there is no shape, one for all tops or one for each.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..)?;
        let shapes = param.input_param.as_ref().map_or(&[][..], |p| &p.shape);
        if shapes.is_empty() {
            return Ok(Input {
                shapes: vec![None; cx.tops],
            });
        }
        let shapes = per_top(shapes, "input_param.shape", cx)?;
        let shapes: Result<Vec<_>> = shapes.iter().map(|s| shape(s, cx).map(Some)).collect();
        Ok(Input { shapes: shapes? })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(feeds(&self.shapes))
    }
}

fn shape(shape: &BlobShape, cx: &Cx) -> Result<Shape> {
    cx.locate("input_param.shape", Shape::from_i64(&shape.dim))
}

/// `values` for each top, where one value stands for all tops.
/// Errors: `Invalid` for any other number than 1 or that of the tops.
pub(super) fn per_top<T: Clone>(values: &[T], field: &str, cx: &Cx) -> Result<Vec<T>> {
    match values {
        [one] => Ok(vec![one.clone(); cx.tops]),
        _ if values.len() == cx.tops => Ok(values.to_vec()),
        _ => {
            let message = format!(
                "`{field}` must be given once or once for each of the {} tops, not {} times",
                cx.tops,
                values.len()
            );
            Err(cx.invalid(field, message).into())
        }
    }
}

/// Tops without a value of their own.
pub(super) fn feeds(shapes: &[Option<Shape>]) -> Vec<Feed> {
    let feed = |shape: &Option<Shape>| Feed {
        shape: shape.clone(),
        default: None,
    };
    shapes.iter().map(feed).collect()
}

/// The shapes of an input layer's tops.
/// Errors: `Invalid` where neither parameters nor options tell one.
pub(super) fn fed(shapes: &[Option<Shape>], cx: &Cx) -> Result<Vec<Shape>> {
    let known: Option<Vec<Shape>> = shapes.iter().cloned().collect();
    let message = "the file does not tell the shape of this input";
    Ok(known.ok_or_else(|| cx.invalid("top", message))?)
}
