//! `AnnotatedData`: pictures with boxes from a database, here an input of the net (SSD
//! `annotated_data_layer.cpp`).
//!
//! * Top 0: `[batch_size, channels, height, width]`, the size that `crop_size` or
//!   `resize_param` of `transform_param` gives.
//! * Top 1: the boxes `[1, 1, boxes, 8]`: picture, class, instance, the corners, and
//!   whether it is difficult. Only the data tells how many; declared is one.

use super::{Cx, Feed, Layer, data, input};
use crate::diag::Result;
use crate::frontend::proto::resize_parameter::ResizeMode;
use crate::frontend::proto::{LayerParameter, TransformationParameter};
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct AnnotatedData {
    shapes: Vec<Option<Shape>>,
}

impl Layer for AnnotatedData {
    fn claims() -> &'static [&'static str] {
        &["annotated_data_param", "transform_param.resize_param"]
    }

    /// Without `crop_size` and `resize_param` only the database knows the size.
    /// Errors: `Invalid` for a batch of 0 and for contradicting transformations.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..=2)?;
        let transform = data::transform(param, cx)?;
        let batch = param.data_param.as_ref().map_or(0, |p| p.batch_size());
        let batch = data::positive(batch, "data_param.batch_size", cx)?;
        let channels = data::channels(&transform).unwrap_or(data::COLOUR);
        let mut shapes = data::picture_and_label(batch, channels, size(&transform), cx)?;
        if let Some(boxes) = shapes.get_mut(1) {
            *boxes = Some(Shape::new([1, 1, 1, 8])?);
        }
        Ok(AnnotatedData { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }
}

/// Height and width of a picture as SSD's `data_transformer.cpp` makes it, if the
/// parameters tell: FIT_SMALL_SIZE keeps the ratio of the two.
pub(super) fn size(transform: &TransformationParameter) -> Option<[u32; 2]> {
    if transform.crop_size() > 0 {
        return Some([transform.crop_size(); 2]);
    }
    let resize = transform.resize_param.first()?;
    let given = resize.height() > 0 && resize.width() > 0;
    let fixed = given && resize.resize_mode() != ResizeMode::FitSmallSize;
    fixed.then(|| [resize.height(), resize.width()])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{infer, refusal};
    use super::*;
    use crate::frontend::proto::{DataParameter, ResizeParameter};

    fn annotated(batch: u32, resize: ResizeParameter) -> LayerParameter {
        let data = DataParameter {
            batch_size: Some(batch),
            ..DataParameter::default()
        };
        let transform = TransformationParameter {
            resize_param: vec![resize],
            ..TransformationParameter::default()
        };
        LayerParameter {
            top: vec!["data".into(), "label".into()],
            data_param: Some(data.into()),
            transform_param: Some(transform.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn pictures_are_as_large_as_they_are_made() {
        let warp = |mode: ResizeMode| ResizeParameter {
            height: Some(300),
            width: Some(200),
            resize_mode: Some(mode.into()),
            ..ResizeParameter::default()
        };
        let shapes = |mode| {
            let param = annotated(4, warp(mode));
            let (layer, tops) = infer::<AnnotatedData>(&param, &[]).ok()?;
            assert_eq!(layer.inputs()?.len(), 2);
            Some(tops.iter().map(|top| top.to_vec()).collect::<Vec<_>>())
        };
        let want = vec![vec![4, 3, 300, 200], vec![1, 1, 1, 8]];
        assert_eq!(shapes(ResizeMode::Warp), Some(want));
        assert_eq!(shapes(ResizeMode::FitSmallSize), None);
        let mut cropped = annotated(1, warp(ResizeMode::FitSmallSize));
        cropped.transform_param.as_mut().unwrap().crop_size = Some(64);
        let (_, tops) = infer::<AnnotatedData>(&cropped, &[]).unwrap();
        assert_eq!(tops[0].dims(), [1, 3, 64, 64]);
        let got = refusal::<AnnotatedData>(&annotated(0, warp(ResizeMode::Warp)), &[]);
        assert!(got.starts_with("data_param.batch_size: "), "{got}");
    }
}
