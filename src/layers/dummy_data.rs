//! `DummyData`: blobs made by fillers (Caffe `dummy_data_layer.cpp`).
//!
//! Inputs of the net like those of other data layers; what their fillers make is their
//! default. Random values have Caffe's distributions but are not Caffe's: they are the
//! same in every run and every forward pass, where Caffe draws anew.

use super::{Cx, Feed, Layer, constant_filler, input};
use crate::diag::Result;
use crate::frontend::proto::{DummyDataParameter, FillerParameter, LayerParameter};
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct DummyData {
    shapes: Vec<Shape>,
    /// One for each top.
    fillers: Vec<FillerParameter>,
}

impl Layer for DummyData {
    /// Errors: `Invalid` for numbers of fillers and shapes other than one or one per
    /// top (fillers may also be missing), and for `shape` beside the old fields.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..)?;
        let dummy = param.dummy_data_param.clone().unwrap_or_default();
        let fillers = match &dummy.data_filler[..] {
            [] => vec![constant_filler(0.0); cx.tops],
            fillers => input::per_top(fillers, "dummy_data_param.data_filler", cx)?,
        };
        let shapes: Result<Vec<Shape>> = dims(&dummy, cx)?
            .iter()
            .map(|dims| cx.locate("dummy_data_param", Shape::from_i64(dims)))
            .collect();
        Ok(DummyData {
            shapes: shapes?,
            fillers,
        })
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        let feed = |(shape, filler): (&Shape, &FillerParameter)| Feed {
            shape: Some(shape.clone()),
            default: Some(filler.clone()),
        };
        Some(self.shapes.iter().zip(&self.fillers).map(feed).collect())
    }

    fn note(&self) -> Option<String> {
        let random = |f: &FillerParameter| !["constant", "bilinear"].contains(&f.r#type());
        self.fillers.iter().any(random).then(|| {
            "unless it is fed, random values of our own, the same in every run; Caffe draws anew for each".into()
        })
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

#[cfg(test)]
mod tests {
    use super::super::testing::{infer, refusal, shape};
    use super::*;
    use crate::frontend::proto::BlobShape;

    fn dummy(fillers: &[&str], dims: &[&[i64]], tops: usize) -> LayerParameter {
        let filler = |kind: &&str| FillerParameter {
            r#type: Some(kind.to_string()),
            ..FillerParameter::default()
        };
        let shape = |dim: &&[i64]| BlobShape { dim: dim.to_vec() };
        let dummy = DummyDataParameter {
            data_filler: fillers.iter().map(filler).collect(),
            shape: dims.iter().map(shape).collect(),
            ..DummyDataParameter::default()
        };
        LayerParameter {
            top: (0..tops).map(|t| format!("top{t}")).collect(),
            dummy_data_param: Some(dummy.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn fillers_and_shapes_are_for_all_tops_or_one_for_each() {
        let param = dummy(&["gaussian"], &[&[2, 3], &[4]], 2);
        let (layer, tops) = infer::<DummyData>(&param, &[]).unwrap();
        assert_eq!(tops, [shape(&[2, 3]), shape(&[4])]);
        for feed in layer.inputs().unwrap() {
            assert_eq!(feed.default.unwrap().r#type(), "gaussian");
        }
        assert!(layer.note().is_some());
        let (none, _) = infer::<DummyData>(&dummy(&[], &[&[1]], 2), &[]).unwrap();
        for feed in none.inputs().unwrap() {
            let filler = feed.default.unwrap();
            assert_eq!((filler.r#type(), filler.value()), ("constant", 0.0));
        }
        assert_eq!(none.note(), None);
        let three = refusal::<DummyData>(&dummy(&["uniform"; 3], &[&[1]], 2), &[]);
        assert!(
            three.starts_with("dummy_data_param.data_filler: "),
            "{three}"
        );
    }

    #[test]
    fn the_old_fields_give_four_axes() {
        let mut param = dummy(&[], &[], 1);
        let old = DummyDataParameter {
            num: vec![2],
            channels: vec![3],
            height: vec![4],
            width: vec![5],
            ..DummyDataParameter::default()
        };
        param.dummy_data_param = Some(old.into());
        let (_, tops) = infer::<DummyData>(&param, &[]).unwrap();
        assert_eq!(tops, [shape(&[2, 3, 4, 5])]);
    }
}
