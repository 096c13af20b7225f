//! Pictures to input blobs, by the rules of Caffe's own loaders.
//!
//! In: the bytes of a PNG or JPEG. Out: a `1 × C × H × W` blob. The order is that of
//! Caffe's `transform_param` and pycaffe's `io.Transformer`, values 0 to 255:
//! resize → crop the centre → channel order → subtract the mean → multiply by the
//! scale → mirror.

use crate::diag::{Diagnostic, Result};
use crate::ir::{Shape, Tensor};
use image::error::{ImageError, LimitError, LimitErrorKind};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;

/// Height and width, in pixels.
pub type Size = (usize, usize);

/// Order of a colour picture's three channels in the blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelOrder {
    /// OpenCV's, which Caffe's nets are trained on.
    #[default]
    Bgr,
    Rgb,
}

/// What is subtracted from a picture.
#[derive(Clone, Debug)]
pub enum Mean {
    /// One value for all channels, or one for each in the blob's channel order.
    Values(Vec<f32>),
    /// `C × H × W`.
    Image(Tensor),
}

/// What happens to a picture before it becomes a blob.
#[derive(Clone, Debug)]
pub struct Transform {
    pub resize: Option<Size>,
    pub crop: Option<Size>,
    pub mean: Option<Mean>,
    /// Factor after the mean is subtracted.
    pub scale: f32,
    /// Left and right change places in the end.
    pub mirror: bool,
    pub order: ChannelOrder,
}

impl Default for Transform {
    fn default() -> Self {
        Transform {
            resize: None,
            crop: None,
            mean: None,
            scale: 1.0,
            mirror: false,
            order: ChannelOrder::default(),
        }
    }
}

/// Most pixels that are decoded or made.
const MAX_PIXELS: u64 = 1 << 27;

/// Decodes a PNG or JPEG, turned upright as its EXIF data says (as OpenCV does).
///
/// Errors: `Invalid`, naming `path`, if it is not a picture or a too large one.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<DynamicImage> {
    decode_upright(bytes).map_err(|e| {
        Diagnostic::invalid(format!("{}: not a usable picture: {e}", path.display())).into()
    })
}

fn decode_upright(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 4);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let error = LimitError::from_kind(LimitErrorKind::DimensionError);
        return Err(ImageError::Limits(error));
    }
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// `channels × height × width` values.
struct Planes {
    channels: usize,
    size: Size,
    data: Vec<f32>,
}

impl Transform {
    /// The blob of a picture for an input of `channels` channels and, if the net's
    /// input is not to follow the picture, of `size`.
    ///
    /// Without `resize` and `crop` the picture is stretched to `size`, as pycaffe's
    /// `Transformer` does; with `resize` alone its centre is cut out, as `Classifier`
    /// does.
    ///
    /// Errors: `Invalid` if channels, crop, mean or the size in the end do not fit.
    pub fn apply(
        &self,
        picture: &DynamicImage,
        channels: usize,
        size: Option<Size>,
    ) -> Result<Tensor> {
        for (height, width) in [self.resize, self.crop, size].into_iter().flatten() {
            let pixels = (height as u64).saturating_mul(width as u64);
            if !(1..=MAX_PIXELS).contains(&pixels) {
                let size = display((height, width));
                return Err(Diagnostic::invalid(format!("a picture of {size} pixels")).into());
            }
        }
        let planes = self.planes(picture, channels)?;
        let stretch = (self.crop.is_none()).then_some(size).flatten();
        let resized = match self.resize.or(stretch) {
            Some(to) => planes.resize(to),
            None => planes,
        };
        let centre = self.crop.or(size).unwrap_or(resized.size);
        let mut blob = resized.crop(centre)?;
        if let Some(wanted) = size.filter(|&wanted| wanted != blob.size) {
            let (got, wanted) = (display(blob.size), display(wanted));
            return Err(Diagnostic::invalid(format!(
                "the picture is {got} after resizing and cropping, the net takes {wanted}"
            ))
            .into());
        }
        if let Some(mean) = &self.mean {
            blob.subtract(mean, resized.size)?;
        }
        blob.data.iter_mut().for_each(|v| *v *= self.scale);
        if self.mirror {
            blob.data
                .chunks_exact_mut(blob.size.1)
                .for_each(<[f32]>::reverse);
        }
        let shape = Shape::new([1, channels, blob.size.0, blob.size.1])?;
        Ok(Tensor::new(shape, blob.data))
    }

    /// The picture's channels as planes; transparency is ignored, a colour picture for
    /// a net of one channel becomes OpenCV's grey.
    fn planes(&self, picture: &DynamicImage, channels: usize) -> Result<Planes> {
        let rgb = picture.to_rgb8();
        if rgb.is_empty() {
            return Err(Diagnostic::invalid("the picture has no pixels").into());
        }
        let size = (rgb.height() as usize, rgb.width() as usize);
        let channel = |n: usize| rgb.pixels().map(move |p| f32::from(p.0[n]));
        let data = match (channels, self.order) {
            (1, _) => rgb.pixels().map(|p| grey(p.0)).collect(),
            (3, ChannelOrder::Bgr) => channel(2).chain(channel(1)).chain(channel(0)).collect(),
            (3, ChannelOrder::Rgb) => channel(0).chain(channel(1)).chain(channel(2)).collect(),
            (other, _) => {
                return Err(Diagnostic::invalid(format!(
                    "a picture cannot feed a blob of {other} channels (only 1 or 3)"
                ))
                .into());
            }
        };
        Ok(Planes {
            channels,
            size,
            data,
        })
    }
}

fn grey([r, g, b]: [u8; 3]) -> f32 {
    (0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)).round() as f32
}

fn display((height, width): Size) -> String {
    format!("{height}×{width}")
}

/// For each place of an axis resized from `from` to `to` elements: two neighbours
/// and the weight of the second. Pixel centres lie at halves; borders are repeated.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let ratio = from as f64 / to as f64;
    let tap = |i| {
        let at = ((i as f64 + 0.5) * ratio - 0.5).clamp(0.0, (from - 1) as f64);
        let low = at as usize;
        (low, (low + 1).min(from - 1), (at - low as f64) as f32)
    };
    (0..to).map(tap).collect()
}

impl Planes {
    /// Bilinear, without smoothing (OpenCV's `INTER_LINEAR`, pycaffe's `resize_image`).
    fn resize(self, to: Size) -> Planes {
        if to == self.size {
            return self;
        }
        let (rows, columns) = (taps(self.size.0, to.0), taps(self.size.1, to.1));
        let width = self.size.1;
        let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
        let mut data = Vec::with_capacity(self.channels * to.0 * to.1);
        for plane in self.data.chunks_exact(self.size.0 * width) {
            for &(y0, y1, ty) in &rows {
                let (upper, lower) = (&plane[y0 * width..], &plane[y1 * width..]);
                data.extend(columns.iter().map(|&(x0, x1, tx)| {
                    mix(
                        mix(upper[x0], upper[x1], tx),
                        mix(lower[x0], lower[x1], tx),
                        ty,
                    )
                }));
            }
        }
        Planes {
            size: to,
            data,
            ..self
        }
    }

    /// The centre, rounded towards the upper left (Caffe `data_transformer.cpp`).
    fn crop(&self, to: Size) -> Result<Planes> {
        let (height, width) = self.size;
        if to.0 > height || to.1 > width {
            let (to, from) = (display(to), display(self.size));
            return Err(Diagnostic::invalid(format!(
                "cannot cut {to} pixels out of a picture of {from}"
            ))
            .help("resize it first: --resize HEIGHTxWIDTH")
            .into());
        }
        let (top, left) = ((height - to.0) / 2, (width - to.1) / 2);
        let mut data = Vec::with_capacity(self.channels * to.0 * to.1);
        for plane in self.data.chunks_exact(height * width) {
            for row in plane.chunks_exact(width).skip(top).take(to.0) {
                data.extend_from_slice(&row[left..left + to.1]);
            }
        }
        Ok(Planes {
            channels: self.channels,
            size: to,
            data,
        })
    }

    /// Subtracts the mean. A mean image of the size before cropping is cropped alike
    /// (Caffe `data_transformer.cpp`); one of another size is resized (pycaffe
    /// `set_mean`).
    fn subtract(&mut self, mean: &Mean, before_crop: Size) -> Result<()> {
        let plane = self.size.0 * self.size.1;
        match mean {
            Mean::Values(values) if values.len() == 1 || values.len() == self.channels => {
                let planes = self.data.chunks_exact_mut(plane);
                for (plane, value) in planes.zip(values.iter().cycle()) {
                    plane.iter_mut().for_each(|v| *v -= value);
                }
            }
            Mean::Values(values) => {
                let expected = match self.channels {
                    1 => "1 mean value".to_string(),
                    channels => format!("1 or {channels} mean values"),
                };
                let message = format!("expected {expected}, found {}", values.len());
                return Err(Diagnostic::invalid(message).into());
            }
            Mean::Image(image) => {
                let mean = mean_planes(image, self.channels)?;
                let mean = if mean.size == before_crop {
                    mean.crop(self.size)?
                } else {
                    mean.resize(self.size)
                };
                let values = self.data.iter_mut().zip(&mean.data);
                values.for_each(|(v, m)| *v -= m);
            }
        }
        Ok(())
    }
}

/// Checks a mean image's shape.
fn mean_planes(image: &Tensor, channels: usize) -> Result<Planes> {
    match image.shape.dims() {
        &[c, h, w] if c == channels && h * w > 0 => Ok(Planes {
            channels,
            size: (h, w),
            data: image.data.clone(),
        }),
        _ => {
            let shape = &image.shape;
            Err(Diagnostic::invalid(format!(
                "a mean of shape {shape}, expected {channels}×height×width"
            ))
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    /// Red is the column, green the row, blue 7.
    fn ramp(height: u32, width: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7])).into()
    }

    fn apply(t: &Transform, size: Option<Size>) -> Vec<f32> {
        t.apply(&ramp(4, 4), 3, size).unwrap().data
    }

    #[test]
    fn channels_are_bgr_unless_told() {
        let t = Transform::default();
        assert_eq!(apply(&t, None)[16..22], [0., 0., 0., 0., 1., 1.]);
        assert_eq!(apply(&t, None)[0], 7.0);
        let rgb = Transform {
            order: ChannelOrder::Rgb,
            ..t
        };
        assert_eq!(apply(&rgb, None)[..4], [0., 1., 2., 3.]);
        assert!(t_grey().iter().all(|&v| v <= 5.0));
    }

    fn t_grey() -> Vec<f32> {
        let grey = Transform::default().apply(&ramp(4, 4), 1, None).unwrap();
        assert_eq!(grey.shape.dims(), [1, 1, 4, 4]);
        grey.data
    }

    #[test]
    fn the_mean_is_taken_before_the_scale() {
        let t = Transform {
            mean: Some(Mean::Values(vec![5.0, 1.0, 2.0])),
            scale: 0.5,
            ..Transform::default()
        };
        let got = apply(&t, None);
        assert_eq!([got[0], got[16], got[32]], [1.0, -0.5, -1.0]);
    }

    #[test]
    fn mirrored_in_the_end() {
        let mean = Mean::Image(Tensor::new(
            Shape::new([3, 1, 2]).unwrap(),
            vec![0.0, 0.0, 0.0, 0.0, 0.0, 10.0],
        ));
        let t = Transform {
            mean: Some(mean),
            mirror: true,
            ..Transform::default()
        };
        let got = t.apply(&ramp(1, 2), 3, None).unwrap().data;
        // Red 0 and 1, minus 0 and 10, then turned round.
        assert_eq!(got[4..], [-9.0, 0.0]);
    }

    #[test]
    fn a_mean_image_is_indexed_before_the_crop() {
        let image: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let t = Transform {
            crop: Some((1, 1)),
            mean: Some(Mean::Image(Tensor::new(
                Shape::new([3, 4, 4]).unwrap(),
                image,
            ))),
            ..Transform::default()
        };
        // (4 − 1) / 2 = 1: the pixel of row 1 and column 1, the mean's element 5.
        assert_eq!(apply(&t, None), [7.0 - 5.0, 1.0 - 21.0, 1.0 - 37.0]);
    }

    #[test]
    fn resizing_keeps_ramps() {
        assert_eq!(
            apply(&Transform::default(), Some((2, 2)))[8..],
            [0.5, 2.5, 0.5, 2.5]
        );
        let up = Planes {
            channels: 1,
            size: (1, 2),
            data: vec![0.0, 4.0],
        };
        assert_eq!(up.resize((1, 4)).data, [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn resize_then_the_centre() {
        let t = Transform {
            resize: Some((4, 4)),
            ..Transform::default()
        };
        assert_eq!(apply(&t, Some((2, 2)))[8..], [1.0, 2.0, 1.0, 2.0]);
        let small = Transform {
            resize: Some((1, 1)),
            ..Transform::default()
        };
        let e = small.apply(&ramp(4, 4), 3, Some((2, 2))).unwrap_err();
        assert_eq!(
            e.to_string(),
            "cannot cut 2×2 pixels out of a picture of 1×1"
        );
    }
}
