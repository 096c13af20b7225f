//! `DummyData`: blobs made by fillers (Caffe `dummy_data_layer.cpp`).
//!
//! Inputs of the net like those of other data layers; what constant fillers would make
//! is their default.

use super::{Cx, Feed, Layer, input};
use crate::diag::Result;
use crate::frontend::proto::{DummyDataParameter, LayerParameter};
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct DummyData {
    shapes: Vec<Shape>,
    /// For each top its value, where the filler is a constant.
    values: Vec<Option<f32>>,
}

impl Layer for DummyData {
    /// Errors: `Invalid` for numbers of fillers and shapes other than one or one per
    /// top (fillers may also be missing), and for `shape` beside the old fields.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..)?;
        let dummy = param.dummy_data_param.clone().unwrap_or_default();
        let values = match &dummy.data_filler[..] {
            [] => vec![Some(0.0); cx.tops],
            fillers => input::per_top(fillers, "dummy_data_param.data_filler", cx)?
                .iter()
                .map(|f| (f.r#type() == "constant").then(|| f.value()))
                .collect(),
        };
        let shapes: Result<Vec<Shape>> = dims(&dummy, cx)?
            .iter()
            .map(|dims| cx.locate("dummy_data_param", Shape::from_i64(dims)))
            .collect();
        Ok(DummyData {
            shapes: shapes?,
            values,
        })
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        let feed = |(shape, &default): (&Shape, &Option<f32>)| Feed {
            shape: Some(shape.clone()),
            default,
        };
        Some(self.shapes.iter().zip(&self.values).map(feed).collect())
    }
}

/// Dimensions for each top, from `shape` or the four old fields.
fn dims(dummy: &DummyDataParameter, cx: &Cx) -> Result<Vec<Vec<i64>>> {
    let old = [
        ("dummy_data_param.num", &dummy.num),
        ("dummy_data_param.channels", &dummy.channels),
        ("dummy_data_param.height", &dummy.height),
        ("dummy_data_param.width", &dummy.width),
    ];
    if old.iter().all(|(_, values)| values.is_empty()) {
        let shapes = input::per_top(&dummy.shape, "dummy_data_param.shape", cx)?;
        return Ok(shapes.into_iter().map(|s| s.dim).collect());
    }
    if !dummy.shape.is_empty() {
        let message = "`shape` and the old num, channels, height, width exclude each other";
        return Err(cx.invalid("dummy_data_param.shape", message).into());
    }
    let mut dims = vec![Vec::new(); cx.tops];
    for (field, values) in old {
        for (dims, value) in dims.iter_mut().zip(input::per_top(values, field, cx)?) {
            dims.push(i64::from(value));
        }
    }
    Ok(dims)
}
