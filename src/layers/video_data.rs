//! `VideoData`: frames of videos, here an input of the net; two layers of that name.
//!
//! * Clips (C3D, video-caffe `video_data_layer.cpp`), where the parameters tell a
//!   `new_length`: top 0 `[batch_size, 3 or 1, new_length, height, width]`, the size that
//!   `crop_size` gives, else `new_height` and `new_width`. They stand in
//!   `video_data_param`, in the first C3D in `image_data_param`.
//! * Frames of a file or camera (SSD): top 0 `[batch_size, 3, height, width]`, as for
//!   `AnnotatedData`.
//!
//! Top 1: labels, `[batch_size]`, in C3D with four axes of size 1 more.

use super::annotated_data::size;
use super::{Cx, Feed, Layer, data, input};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

#[derive(Clone, Debug)]
pub struct VideoData {
    shapes: Vec<Option<Shape>>,
}

/// What the two messages tell of clips.
struct Clips {
    field: &'static str,
    batch: u32,
    length: u32,
    crop: u32,
    size: [u32; 2],
    colour: bool,
}

impl Layer for VideoData {
    /// `image_data_param`'s last two tell how the frames are picked.
    fn claims() -> &'static [&'static str] {
        &[
            "video_data_param",
            "transform_param.resize_param",
            "image_data_param.new_length",
            "image_data_param.use_image",
            "image_data_param.use_temporal_jitter",
        ]
    }

    /// Errors: `Invalid` for a batch of 0; `Unsupported` for several labels a clip.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(0..=0, 1..=2)?;
        let transform = data::transform(param, cx)?;
        let video = param.video_data_param.clone().unwrap_or_default();
        if video.use_multiple_label() {
            let message = "several labels for each clip";
            let field = "video_data_param.use_multiple_label";
            return Err(cx.unsupported(field, message).into());
        }
        let clips = match (&param.image_data_param, video.new_length) {
            (Some(p), None) if p.new_length() > 0 => Clips {
                field: "image_data_param.batch_size",
                batch: p.batch_size(),
                length: p.new_length(),
                crop: transform.crop_size.unwrap_or(p.crop_size()),
                size: [p.new_height(), p.new_width()],
                colour: p.is_color(),
            },
            (_, Some(length)) => Clips {
                field: "video_data_param.batch_size",
                batch: video.batch_size(),
                length,
                crop: transform.crop_size.unwrap_or(video.crop_size()),
                size: [video.new_height(), video.new_width()],
                colour: video.is_color(),
            },
            _ => {
                let batch = param.data_param.as_ref().map_or(1, |p| p.batch_size());
                let batch = data::positive(batch, "data_param.batch_size", cx)?;
                let shapes = data::picture_and_label(batch, data::COLOUR, size(&transform), cx)?;
                return Ok(VideoData { shapes });
            }
        };
        clips.shapes(cx).map(|shapes| VideoData { shapes })
    }

    fn infer(&self, _bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        input::fed(&self.shapes, cx)
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn inputs(&self) -> Option<Vec<Feed>> {
        Some(input::feeds(&self.shapes))
    }
}

impl Clips {
    fn shapes(&self, cx: &Cx) -> Result<Vec<Option<Shape>>> {
        let batch = data::positive(self.batch, self.field, cx)? as usize;
        let size = match self.crop {
            0 => self.size,
            crop => [crop; 2],
        };
        let channels = if self.colour { data::COLOUR } else { 1 } as usize;
        let [length, h, w] = [self.length, size[0], size[1]].map(|n| n as usize);
        let clip = match size.contains(&0) {
            true => None,
            false => Some(cx.locate("top", Shape::new([batch, channels, length, h, w]))?),
        };
        let label = match cx.dialect {
            Some(Dialect::C3d) => Shape::new([batch, 1, 1, 1, 1]),
            _ => Shape::new([batch]),
        };
        let mut shapes = vec![clip, Some(cx.locate("top", label)?)];
        shapes.truncate(cx.tops);
        Ok(shapes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{refusal, tops};
    use super::*;
    use crate::frontend::proto::{
        ImageDataParameter, ResizeParameter, TransformationParameter, VideoDataParameter,
    };

    fn layer(change: impl FnOnce(&mut LayerParameter)) -> LayerParameter {
        let mut param = LayerParameter {
            top: vec!["data".into(), "label".into()],
            ..LayerParameter::default()
        };
        change(&mut param);
        param
    }

    #[test]
    fn clips_of_either_message() {
        let video = VideoDataParameter {
            batch_size: Some(2),
            new_length: Some(16),
            new_height: Some(128),
            new_width: Some(171),
            is_color: Some(false),
            ..VideoDataParameter::default()
        };
        let param = layer(|p| p.video_data_param = Some(video.clone().into()));
        let want = [vec![2, 1, 16, 128, 171], vec![2]];
        assert_eq!(tops::<VideoData>(&param, &[]), want);
        let image = ImageDataParameter {
            batch_size: Some(5),
            new_length: Some(8),
            crop_size: Some(112),
            ..ImageDataParameter::default()
        };
        let param = layer(|p| p.image_data_param = Some(image.into()));
        let want = [vec![5, 3, 8, 112, 112], vec![5]];
        assert_eq!(tops::<VideoData>(&param, &[]), want);
        let several = VideoDataParameter {
            use_multiple_label: Some(true),
            ..video
        };
        let param = layer(|p| p.video_data_param = Some(several.into()));
        let got = refusal::<VideoData>(&param, &[]);
        assert!(
            got.starts_with("video_data_param.use_multiple_label: "),
            "{got}"
        );
    }

    #[test]
    fn frames_are_pictures() {
        let transform = TransformationParameter {
            resize_param: vec![ResizeParameter {
                height: Some(300),
                width: Some(200),
                ..ResizeParameter::default()
            }],
            ..TransformationParameter::default()
        };
        let param = layer(|p| {
            p.top.pop();
            p.transform_param = Some(transform.into());
        });
        assert_eq!(tops::<VideoData>(&param, &[]), [[1, 3, 300, 200]]);
    }
}
