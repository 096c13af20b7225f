//! `Upsample` and `UpsampleDarknet`: larger maps.
//!
//! * One bottom `[N, C, H, W]` (MobileNet-YOLO's `scale`, 1 unless given; Synopsys'
//!   `UpsampleDarknet` with `stride`): every element `scale` times along each axis.
//! * Two bottoms of one shape, values and the mask of a MAX pooling (SegNet): zeros, and
//!   each value where its mask says, counted within the top's map. Of values with one place
//!   the last wins. The top's size is `upsample_h`, `upsample_w`, or `scale` (2 unless
//!   given) times the bottom's, or `scale_h` and `scale_w`; `pad_out_h` and `pad_out_w` take
//!   one row or column off. A mask outside of the map is an error, found when the net runs.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, UpsampleParameter};
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub enum Upsample {
    Nearest {
        scale: usize,
    },
    /// Height and width.
    Unpool {
        size: Size,
    },
}

#[derive(Clone, Debug)]
pub enum Size {
    Given([usize; 2]),
    Scaled { scale: [usize; 2], less: [bool; 2] },
}

/// `scale` as a positive integer.
fn whole(cx: &Cx, field: &str, value: f32) -> Result<usize> {
    if value < 1.0 || value.fract() != 0.0 || value > 65536.0 {
        let message = format!("{value}: only whole numbers from 1 to 65536");
        return Err(cx.unsupported(field, message).into());
    }
    Ok(value as usize)
}

/// A size or scale of SegNet's, which must be above 1.
fn above_one(cx: &Cx, field: &str, value: usize) -> Result<usize> {
    match value {
        0 | 1 => Err(cx
            .invalid(field, format!("must be above 1, not {value}"))
            .into()),
        _ => Ok(value),
    }
}

fn unpool(p: &UpsampleParameter, cx: &Cx) -> Result<Size> {
    let above = |field: &str, value: u32| {
        let field = format!("upsample_param.{field}");
        above_one(cx, &field, cx.size(&field, value)?)
    };
    if let (Some(h), Some(w)) = (p.upsample_h, p.upsample_w) {
        return Ok(Size::Given([
            above("upsample_h", h)?,
            above("upsample_w", w)?,
        ]));
    }
    let scale = match (p.scale, p.scale_h, p.scale_w) {
        (scale, None, None) => {
            let field = "upsample_param.scale";
            [above_one(cx, field, whole(cx, field, scale.unwrap_or(2.0))?)?; 2]
        }
        (None, Some(h), Some(w)) => [above("scale_h", h)?, above("scale_w", w)?],
        _ => {
            let message = "needs scale, or scale_h and scale_w, or upsample_h and upsample_w";
            return Err(cx.invalid("upsample_param", message).into());
        }
    };
    let less = [p.pad_out_h(), p.pad_out_w()];
    for (axis, field) in ["pad_out_h", "pad_out_w"].into_iter().enumerate() {
        if less[axis] && scale[axis] != 2 {
            let field = format!("upsample_param.{field}");
            let message = format!("needs a scale of 2, not {}", scale[axis]);
            return Err(cx.invalid(&field, message).into());
        }
    }
    Ok(Size::Scaled { scale, less })
}

/// The scale of an `Upsample` with one bottom.
fn nearest(p: &UpsampleParameter, cx: &Cx) -> Result<usize> {
    let scale = UpsampleParameter {
        scale: p.scale,
        ..UpsampleParameter::default()
    };
    if *p != scale {
        let message = "with one bottom only `scale` has a meaning";
        return Err(cx.unsupported("upsample_param", message).into());
    }
    whole(cx, "upsample_param.scale", p.scale.unwrap_or(1.0))
}

impl Layer for Upsample {
    fn claims() -> &'static [&'static str] {
        &["upsample_param", "upsample_darknet_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.not_in_place()?;
        if param.r#type() == "UpsampleDarknet" {
            cx.counts(1..=1, 1..=1)?;
            let stride = param
                .upsample_darknet_param
                .clone()
                .unwrap_or_default()
                .stride();
            let field = "upsample_darknet_param.stride";
            let scale = whole(cx, field, stride as f32)?;
            return Ok(Upsample::Nearest { scale });
        }
        cx.counts(1..=2, 1..=1)?;
        let p = param.upsample_param.clone().unwrap_or_default();
        Ok(match cx.bottoms {
            1 => Upsample::Nearest {
                scale: nearest(&p, cx)?,
            },
            _ => Upsample::Unpool {
                size: unpool(&p, cx)?,
            },
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        if let Some(mask) = bottoms.get(1).filter(|&mask| *mask != bottoms[0]) {
            let message = format!("values {} and mask {mask} must have one shape", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let scaled = |[y, x]: [usize; 2]| [h.saturating_mul(y), w.saturating_mul(x)];
        let size = match self {
            Upsample::Nearest { scale } => scaled([*scale; 2]),
            Upsample::Unpool { size } => match *size {
                Size::Given(size) => size,
                Size::Scaled { scale, less } => {
                    let [h, w] = scaled(scale);
                    let off = less.map(usize::from);
                    [h.saturating_sub(off[0]), w.saturating_sub(off[1])]
                }
            },
        };
        let top = Shape::new([n, c, size[0], size[1]]);
        Ok(vec![cx.locate("upsample_param", top)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let bottom = &bottoms[0];
        let call = |sizes: [usize; 3]| Call::new(routine!("upsample"), sizes.into(), Vec::new());
        Some(match self {
            Upsample::Nearest { scale } => {
                let maps = bottom.count_of(0..2).max(1);
                call([0, bottom[3], *scale]).cut(maps)
            }
            Upsample::Unpool { .. } => {
                let sizes = [1, bottom.count_of(2..4), tops[0].count_of(2..4)];
                call(sizes).faults(&["the mask names a place outside of the top's map"])
            }
        })
    }
}

/// Pasted into emitted source.
mod routine {
    /// `sizes`: 0, the bottom's width and the scale, for one map; with a mask 1 and elements
    /// of a map of the bottom and of the top.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        if sizes[0] == 0 {
            return nearest(bottoms[0], tops[0], sizes[1], sizes[2]);
        }
        let [top, fault] = tops else {
            return;
        };
        let (input, output) = (sizes[1], sizes[2]);
        fault[0] = 0.0;
        if top.is_empty() {
            return;
        }
        for (map, to) in top.chunks_mut(output).enumerate() {
            let from = map * input..(map + 1) * input;
            if !unpool(&bottoms[0][from.clone()], &bottoms[1][from], to) {
                fault[0] = 1.0;
            }
        }
    }

    fn nearest(from: &[f32], to: &mut [f32], width: usize, scale: usize) {
        if width == 0 {
            return;
        }
        for (row, line) in to.chunks_mut(width * scale).enumerate() {
            let source = &from[row / scale * width..][..width];
            for (pixels, value) in line.chunks_mut(scale).zip(source) {
                pixels.fill(*value);
            }
        }
    }

    /// Whether all places are inside; others are left out.
    fn unpool(values: &[f32], mask: &[f32], to: &mut [f32]) -> bool {
        to.fill(0.0);
        let mut inside = true;
        for (value, &place) in values.iter().zip(mask) {
            // Towards zero, as C does it; NaN is no place.
            match to.get_mut(place as usize).filter(|_| place > -1.0) {
                Some(to) => *to = *value,
                None => inside = false,
            }
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::UpsampleDarknetParameter;

    fn param(p: UpsampleParameter) -> LayerParameter {
        LayerParameter {
            upsample_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn neighbours() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let twice = UpsampleParameter {
            scale: Some(2.0),
            ..UpsampleParameter::default()
        };
        let want = [
            1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.,
        ];
        let y = forward::<Upsample>(&param(twice), &[&x], &[]).remove(0);
        assert_eq!(y, tensor(&[1, 2, 2, 4], want));
        let darknet = LayerParameter {
            r#type: Some("UpsampleDarknet".into()),
            upsample_darknet_param: Some(Box::new(UpsampleDarknetParameter { stride: Some(2) })),
            ..LayerParameter::default()
        };
        assert_eq!(forward::<Upsample>(&darknet, &[&x], &[]), [y]);
        let same = forward::<Upsample>(&LayerParameter::default(), &[&x], &[]);
        assert_eq!(same, [x]);
    }

    #[test]
    fn values_go_where_the_mask_says() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let mask = tensor(&[1, 2, 1, 2], [5., 0., 7., 7.]);
        let y = forward::<Upsample>(&LayerParameter::default(), &[&x, &mask], &[]).remove(0);
        let want = [
            2., 0., 0., 0., 0., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 4.,
        ];
        assert_eq!(y, tensor(&[1, 2, 2, 4], want));
        for (place, fault) in [(7.9, 0.), (8., 1.), (-0.9, 0.), (-1., 1.), (f32::NAN, 1.)] {
            let (mut top, mut found) = ([0.; 8], [9.]);
            let mask = [place, 3.];
            let tops: &mut [&mut [f32]] = &mut [&mut top, &mut found];
            routine::run(&[&[1., 2.], &mask], tops, &[1, 2, 8], &[]);
            assert_eq!((top[3], found[0]), (2., fault), "{place}");
        }
    }

    #[test]
    fn sizes() {
        let size =
            |p| tops::<Upsample>(&param(p), &[&[1, 1, 3, 4], &[1, 1, 3, 4]])[0][2..].to_vec();
        let default = UpsampleParameter::default();
        assert_eq!(size(default), [6, 8]);
        let less = UpsampleParameter {
            pad_out_h: Some(true),
            ..default
        };
        assert_eq!(size(less), [5, 8]);
        let each = UpsampleParameter {
            scale_h: Some(2),
            scale_w: Some(3),
            ..default
        };
        assert_eq!(size(each), [6, 12]);
        let given = UpsampleParameter {
            upsample_h: Some(7),
            upsample_w: Some(9),
            ..default
        };
        assert_eq!(size(given), [7, 9]);
    }

    #[test]
    fn bad_parameters() {
        let two: &[&[usize]] = &[&[1, 1, 3, 4], &[1, 1, 3, 4]];
        let one: &[&[usize]] = &[&[1, 1, 3, 4]];
        type Change = fn(&mut UpsampleParameter);
        let cases: [(&[&[usize]], &str, Change); 6] = [
            (two, ".scale: must be above 1", |p| p.scale = Some(1.0)),
            (two, ".upsample_h: must be above 1", |p| {
                (p.upsample_h, p.upsample_w) = (Some(1), Some(5))
            }),
            (two, ": needs scale", |p| p.scale_h = Some(2)),
            (two, ".pad_out_w: needs a scale of 2", |p| {
                (p.scale, p.pad_out_w) = (Some(3.0), Some(true))
            }),
            (one, ": with one bottom", |p| p.scale_h = Some(2)),
            (one, ".scale: 1.5", |p| p.scale = Some(1.5)),
        ];
        for (bottoms, want, change) in cases {
            let mut p = UpsampleParameter::default();
            change(&mut p);
            let got = refusal::<Upsample>(&param(p), bottoms);
            assert!(got.starts_with(&format!("upsample_param{want}")), "{got}");
        }
        let default = LayerParameter::default();
        let shapes: &[&[usize]] = &[&[1, 1, 3, 4], &[1, 1, 4, 3]];
        assert!(refusal::<Upsample>(&default, shapes).contains("one shape"));
        assert!(refusal::<Upsample>(&default, &[&[1, 3, 4]]).contains("4 axes"));
    }
}
