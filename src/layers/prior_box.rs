//! `PriorBox`: boxes of several sizes and ratios round the centre of every cell of a map
//! (SSD `prior_box_layer.cpp`).
//!
//! * bottoms: the map and the picture, of which only height and width count.
//! * top `1 × 2 × (H·W·boxes·4)`: corners as shares of the picture; then variances.
//!
//! Boxes of a cell, for each `min_size` s: the square of s; with `max_size` m that of
//! √(s·m); for each ratio r but 1, s·√r by s/√r. SSD cuts both sizes to whole pixels.
//! TextBoxes does not, and repeats every box half a cell lower; so does OpenCV's form, at
//! each of `offset_h`. FaceBoxes, where it is the dialect or Synopsys' field says so, sets the
//! squares of 32 and 64 pixels close, 16 and 4 of them. Of Synopsys' orders, `tf` has the
//! square of √(s·m) last, and takes a twentieth of the picture from all sides of the square
//! of 60 pixels; `keras` has it first.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::{LayerParameter, PriorBoxParameter};
use crate::ir::Shape;
use crate::leaf::routine::Call;

fn textboxes(p: &PriorBoxParameter, cx: &Cx) -> bool {
    cx.dialect == Some(Dialect::TextBoxes) || !p.offset_h.is_empty()
}

/// One box of a cell. Corners lie half of `width` and `height` off its centre.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Anchor {
    width: f32,
    height: f32,
    /// Of the centre, in pixels.
    shift: [f32; 2],
    /// Of the centre, in cells.
    down: f32,
    /// Its sides lie a twentieth of the picture further in.
    smaller: bool,
}

#[derive(Clone, Debug)]
pub struct PriorBox {
    anchors: Vec<Anchor>,
    variance: [f32; 4],
    clip: bool,
    y_first: bool,
    offset: f32,
    /// Width and height of the picture, where they are not those of the bottom.
    image: Option<[usize; 2]>,
    /// Pixels between cells, where that is not picture by map.
    step: Option<[f32; 2]>,
}

impl Anchor {
    fn new(width: f32, height: f32) -> Anchor {
        Anchor {
            width,
            height,
            shift: [0.0; 2],
            down: 0.0,
            smaller: false,
        }
    }
}

/// The ratios, 1 first: each new one, followed by its inverse if `flip` says so.
fn ratios(p: &PriorBoxParameter) -> Vec<f32> {
    let mut ratios = vec![1.0f32];
    for &ratio in &p.aspect_ratio {
        let known = |&other: &f32| f64::from((ratio - other).abs()) < 1e-6;
        if !ratios.iter().any(known) {
            ratios.push(ratio);
            if p.flip() {
                ratios.push((1.0 / f64::from(ratio)) as f32);
            }
        }
    }
    ratios
}

/// The squares that FaceBoxes sets close: 16 of 32 pixels, 4 of 64, one of other sizes.
fn dense(size: f32) -> Vec<Anchor> {
    let (steps, stride) = match size {
        32.0 => (-2..2, 8.0),
        64.0 => (-1..1, 16.0),
        _ => (0..1, 0.0),
    };
    let row = |i: i32| {
        steps.clone().map(move |j| Anchor {
            shift: [j as f32 * stride, i as f32 * stride],
            ..Anchor::new(size - 1.0, size - 1.0)
        })
    };
    steps.clone().flat_map(row).collect()
}

fn anchors(p: &PriorBoxParameter, cx: &Cx) -> Result<Vec<Anchor>> {
    let textboxes = textboxes(p, cx);
    if !p.box_width.is_empty() || !p.box_height.is_empty() {
        if p.box_width.len() != p.box_height.len() {
            let message = "as many box_height as box_width";
            return Err(cx.invalid("prior_box_param.box_height", message).into());
        }
        let sizes = p.box_width.iter().zip(&p.box_height);
        return Ok(sizes.map(|(&w, &h)| Anchor::new(w, h)).collect());
    }
    if p.min_size.is_empty() {
        return Err(cx.invalid("prior_box_param", "min_size is missing").into());
    }
    if textboxes && (p.min_size.len() > 1 || p.max_size.len() > 1) {
        let message = "TextBoxes has one min_size and one max_size";
        return Err(cx.invalid("prior_box_param.min_size", message).into());
    }
    if !p.max_size.is_empty() && p.max_size.len() != p.min_size.len() {
        let message = format!(
            "{} max_size for {} min_size",
            p.max_size.len(),
            p.min_size.len()
        );
        return Err(cx.invalid("prior_box_param.max_size", message).into());
    }
    let faceboxes = p.faceboxes() || cx.dialect == Some(Dialect::FaceBoxes);
    let whole = |size: f32| if textboxes { size } else { size as i32 as f32 };
    let mut anchors = Vec::new();
    for (i, &size) in p.min_size.iter().enumerate() {
        cx.above("prior_box_param.min_size", size, 0.0)?;
        let min = whole(size);
        let mut group = if faceboxes {
            dense(min)
        } else {
            vec![Anchor::new(min, min)]
        };
        let squares = group.len();
        group[0].smaller = p.tf() && !faceboxes && min == 60.0;
        for ratio in ratios(p) {
            if (f64::from(ratio) - 1.0).abs() >= 1e-6 {
                let root = ratio.sqrt();
                group.push(Anchor::new(min * root, min / root));
            }
        }
        if let Some(&max) = p.max_size.get(i) {
            cx.above("prior_box_param.max_size", max, size)?;
            let side = if textboxes {
                (min * max).sqrt()
            } else {
                f64::from((min as i32).wrapping_mul(max as i32)).sqrt() as f32
            };
            let at = match (p.keras(), p.tf()) {
                (true, _) => 0,
                (_, true) => group.len(),
                _ => squares,
            };
            group.insert(at, Anchor::new(side, side));
        }
        anchors.append(&mut group);
    }
    if textboxes {
        let down: Vec<f32> = match p.offset_h[..] {
            [] => vec![0.0, 0.5],
            _ => p
                .offset_h
                .iter()
                .map(|offset| offset - p.offset())
                .collect(),
        };
        let lower = |a: Anchor| down.iter().map(move |&down| Anchor { down, ..a });
        anchors = anchors.into_iter().flat_map(lower).collect();
    }
    Ok(anchors)
}

fn variance(p: &PriorBoxParameter, cx: &Cx) -> Result<[f32; 4]> {
    let variance = match p.variance[..] {
        [] => [0.1; 4],
        [v] => [v; 4],
        [a, b, c, d] => [a, b, c, d],
        _ => {
            let message = format!("{} values instead of 1 or 4", p.variance.len());
            return Err(cx.invalid("prior_box_param.variance", message).into());
        }
    };
    for v in variance {
        cx.above("prior_box_param.variance", v, 0.0)?;
    }
    Ok(variance)
}

/// Refuses what other programs have added and no fork that was measured has.
fn refuse_unknown(p: &PriorBoxParameter, cx: &Cx) -> Result<()> {
    for (given, field) in [
        (p.keras() && p.tf(), "tf"),
        (p.keras() && p.faceboxes(), "faceboxes"),
        (
            p.offset_w.iter().any(|&offset| offset != p.offset()),
            "offset_w",
        ),
        (!p.width.is_empty(), "width"),
        (!p.height.is_empty(), "height"),
    ] {
        if given {
            let message = format!("prior_box_param.{field}");
            return Err(cx.unsupported(&message, message.clone()).into());
        }
    }
    Ok(())
}

impl Layer for PriorBox {
    fn claims() -> &'static [&'static str] {
        &[
            "prior_box_param",
            "prior_box_param.faceboxes",
            "prior_box_param.box_width",
            "prior_box_param.box_height",
            "prior_box_param.tf",
            "prior_box_param.yx_order",
            "prior_box_param.keras",
            "prior_box_param.offset_h",
            "prior_box_param.offset_w",
            "prior_box_param.width",
            "prior_box_param.height",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.prior_box_param.clone().unwrap_or_default();
        refuse_unknown(&p, cx)?;
        let image = if p.img_h.is_some() || p.img_w.is_some() {
            if p.img_size.is_some() {
                let message = "img_size or img_h and img_w, not both";
                return Err(cx.invalid("prior_box_param.img_size", message).into());
            }
            let size = |value: Option<u32>, field| cx.positive(field, value.unwrap_or(0));
            let w = size(p.img_w, "prior_box_param.img_w")?;
            Some([w, size(p.img_h, "prior_box_param.img_h")?])
        } else {
            let size = p
                .img_size
                .map(|s| cx.positive("prior_box_param.img_size", s));
            size.transpose()?.map(|s| [s; 2])
        };
        let step = if p.step_h.is_some() || p.step_w.is_some() {
            if p.step.is_some() {
                let message = "step or step_h and step_w, not both";
                return Err(cx.invalid("prior_box_param.step", message).into());
            }
            let w = cx.above("prior_box_param.step_w", p.step_w(), 0.0)?;
            Some([w, cx.above("prior_box_param.step_h", p.step_h(), 0.0)?])
        } else {
            let step = p.step.map(|s| cx.above("prior_box_param.step", s, 0.0));
            step.transpose()?.map(|s| [s; 2])
        };
        Ok(PriorBox {
            anchors: anchors(&p, cx)?,
            variance: variance(&p, cx)?,
            clip: p.clip.unwrap_or(textboxes(&p, cx)),
            y_first: p.yx_order(),
            offset: p.offset(),
            image,
            step,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [_, _, height, width] = legacy(&bottoms[0], "bottom[0]", cx)?;
        legacy(&bottoms[1], "bottom[1]", cx)?;
        let boxes = Shape::new([height, width, self.anchors.len(), 4]);
        let boxes = cx.locate("bottom[0]", boxes)?.count();
        Ok(vec![cx.locate("bottom[0]", Shape::new([1, 2, boxes]))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [_, _, height, width] = bottoms[0].nchw()?;
        let [_, _, h, w] = bottoms[1].nchw()?;
        let [image_w, image_h] = self.image.unwrap_or([w, h]);
        let automatic = [
            image_w as f32 / width as f32,
            image_h as f32 / height as f32,
        ];
        let [clip, y_first] = [self.clip, self.y_first].map(usize::from);
        let mut values = self.step.unwrap_or(automatic).to_vec();
        values.push(self.offset);
        values.extend(self.variance);
        for a in &self.anchors {
            let smaller = f32::from(a.smaller);
            values.extend([a.width, a.height, a.shift[0], a.shift[1], a.down, smaller]);
        }
        let sizes = vec![width, height, image_w, image_h, clip, y_first];
        Some(Call::new(routine!("prior_box"), sizes, values))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(_bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [width, height, image_w, image_h] = [sizes[0], sizes[1], sizes[2], sizes[3]];
        let [clip, y_first] = [sizes[4] == 1, sizes[5] == 1];
        let [step_w, step_h, offset] = [values[0], values[1], values[2]];
        let (variance, anchors) = values[3..].split_at(4);
        let (boxes, variances) = tops[0].split_at_mut(4 * width * height * (anchors.len() / 6));
        // The centre and the size are floats, the rest is in double.
        let corner = |center: f32, half: f64, image: usize, inset: f64| {
            let share = ((f64::from(center) + half) / image as f64 + inset) as f32;
            if clip { share.clamp(0.0, 1.0) } else { share }
        };
        let mut rows = boxes.chunks_exact_mut(4);
        for h in 0..height {
            for w in 0..width {
                for anchor in anchors.chunks_exact(6) {
                    let x = (w as f32 + offset) * step_w + anchor[2];
                    let y = (h as f32 + (offset + anchor[4])) * step_h + anchor[3];
                    let [half_w, half_h] = [anchor[0], anchor[1]].map(|size| f64::from(size) / 2.0);
                    let inset = if anchor[5] == 1.0 { 0.05 } else { 0.0 };
                    let mut corners = [
                        corner(x, -half_w, image_w, inset),
                        corner(y, -half_h, image_h, inset),
                        corner(x, half_w, image_w, -inset),
                        corner(y, half_h, image_h, -inset),
                    ];
                    if y_first {
                        corners.swap(0, 1);
                        corners.swap(2, 3);
                    }
                    if let Some(row) = rows.next() {
                        row.copy_from_slice(&corners);
                    }
                }
            }
        }
        for row in variances.chunks_exact_mut(4) {
            row.copy_from_slice(variance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, forward_as, noise, refusal, tops};
    use super::*;

    fn param(p: PriorBoxParameter) -> LayerParameter {
        LayerParameter {
            prior_box_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn min(size: f32) -> PriorBoxParameter {
        PriorBoxParameter {
            min_size: vec![size],
            ..PriorBoxParameter::default()
        }
    }

    /// Boxes of a map of two cells in a picture of 40 by 20 pixels.
    fn boxes(p: PriorBoxParameter) -> Vec<f32> {
        let bottoms = [noise(&[1, 1, 1, 2]), noise(&[1, 3, 20, 40])];
        forward::<PriorBox>(&param(p), &bottoms, &[]).remove(0).data
    }

    #[test]
    fn a_square_in_each_cell() {
        // Centres at 10 and 30, 10; sizes of whole pixels.
        let [l, r] = [[5. / 40., 15. / 40.], [25. / 40., 35. / 40.]];
        let mut want = vec![l[0], 0.25, l[1], 0.75, r[0], 0.25, r[1], 0.75];
        want.extend([0.1; 8]);
        assert_eq!(boxes(min(10.9)), want);
        assert_eq!(
            boxes(PriorBoxParameter {
                img_h: Some(20),
                img_w: Some(40),
                ..min(10.)
            }),
            want
        );
    }

    #[test]
    fn sizes_and_ratios_in_their_order() {
        let got = boxes(PriorBoxParameter {
            max_size: vec![20.9],
            aspect_ratio: vec![1.0000001, 4.0, 4.0],
            variance: vec![1.0, 2.0, 3.0, 4.0],
            step: Some(40.0),
            offset: Some(0.0),
            ..min(5.0)
        });
        let widths: Vec<f32> = got[..32].chunks(4).map(|b| 40. * (b[2] - b[0])).collect();
        let heights: Vec<f32> = got[..32].chunks(4).map(|b| 20. * (b[3] - b[1])).collect();
        assert_close(&widths, &[5., 10., 10., 2.5, 5., 10., 10., 2.5], 1e-6);
        assert_close(&heights, &[5., 10., 2.5, 10., 5., 10., 2.5, 10.], 1e-6);
        assert_eq!(got[0], -2.5 / 40.);
        assert_eq!(got[16], 37.5 / 40.);
        assert_eq!(got[32..36], [1., 2., 3., 4.]);
    }

    #[test]
    fn orders_of_tensorflow_and_keras() {
        let of = |tf, keras| {
            let p = PriorBoxParameter {
                max_size: vec![20.],
                aspect_ratio: vec![4.],
                tf: Some(tf),
                keras: Some(keras),
                ..min(5.)
            };
            let got = boxes(p)[..16].to_vec();
            got.chunks(4)
                .map(|b| 40. * (b[2] - b[0]))
                .collect::<Vec<_>>()
        };
        assert_close(&of(false, false), &[5., 10., 10., 2.5], 1e-6);
        assert_close(&of(true, false), &[5., 10., 2.5, 10.], 1e-6);
        assert_close(&of(false, true), &[10., 5., 10., 2.5], 1e-6);
        let sixty = PriorBoxParameter {
            tf: Some(true),
            aspect_ratio: vec![4.],
            flip: Some(false),
            ..min(60.)
        };
        let want = [-0.45, -0.95, 0.95, 1.95, -1.25, -0.25, 1.75, 1.25];
        assert_close(&boxes(sixty)[..8], &want, 1e-6);
    }

    #[test]
    fn clipped_and_y_first() {
        let p = PriorBoxParameter {
            clip: Some(true),
            yx_order: Some(true),
            ..min(30.)
        };
        assert_eq!(
            boxes(p)[..8],
            [0., 0., 1., 25. / 40., 0., 15. / 40., 1., 1.]
        );
        let p = PriorBoxParameter {
            box_width: vec![8.],
            box_height: vec![2.],
            ..PriorBoxParameter::default()
        };
        assert_eq!(boxes(p)[..4], [6. / 40., 9. / 20., 14. / 40., 11. / 20.]);
    }

    #[test]
    fn squares_of_faceboxes_lie_close() {
        let sizes = PriorBoxParameter {
            min_size: vec![32., 64., 128.],
            ..PriorBoxParameter::default()
        };
        let got = boxes(PriorBoxParameter {
            faceboxes: Some(true),
            ..sizes.clone()
        });
        let bottoms = [noise(&[1, 1, 1, 2]), noise(&[1, 3, 20, 40])];
        let dialect = Some(Dialect::FaceBoxes);
        assert_eq!(
            forward_as::<PriorBox>(dialect, &param(sizes), &bottoms, &[])[0].data,
            got
        );
        assert_eq!(got.len(), 2 * 2 * 21 * 4);
        assert_eq!(
            got[..2],
            [(10. - 16. - 15.5) / 40., (10. - 16. - 15.5) / 20.]
        );
        assert_eq!(got[4], (10. - 8. - 15.5) / 40.);
        assert_eq!(
            got[64..66],
            [(10. - 16. - 31.5) / 40., (10. - 16. - 31.5) / 20.]
        );
        assert_eq!(got[80], (10. - 63.5) / 40.);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 2] = [&[1, 8, 3, 4], &[1, 3, 30, 40]];
        let refused = |p| refusal::<PriorBox>(&param(p), &shapes);
        let got = refused(PriorBoxParameter::default());
        assert!(got.starts_with("prior_box_param: min_size"), "{got}");
        for (p, field) in [
            (min(0.), "min_size"),
            (
                PriorBoxParameter {
                    max_size: vec![10.],
                    ..min(10.)
                },
                "max_size",
            ),
            (
                PriorBoxParameter {
                    max_size: vec![11., 12.],
                    ..min(10.)
                },
                "max_size",
            ),
            (
                PriorBoxParameter {
                    variance: vec![0.1; 2],
                    ..min(10.)
                },
                "variance",
            ),
            (
                PriorBoxParameter {
                    variance: vec![0.],
                    ..min(10.)
                },
                "variance",
            ),
            (
                PriorBoxParameter {
                    img_h: Some(5),
                    ..min(10.)
                },
                "img_w",
            ),
            (
                PriorBoxParameter {
                    img_size: Some(0),
                    ..min(10.)
                },
                "img_size",
            ),
            (
                PriorBoxParameter {
                    step: Some(0.),
                    ..min(10.)
                },
                "step",
            ),
            (
                PriorBoxParameter {
                    step_w: Some(2.),
                    ..min(10.)
                },
                "step_h",
            ),
            (
                PriorBoxParameter {
                    tf: Some(true),
                    keras: Some(true),
                    ..min(10.)
                },
                "tf",
            ),
        ] {
            let got = refused(p);
            assert!(
                got.starts_with(&format!("prior_box_param.{field}: ")),
                "{got}"
            );
        }
        let many = PriorBoxParameter {
            min_size: vec![1.; 1000],
            ..min(1.)
        };
        let got = refusal::<PriorBox>(&param(many), &[&[1, 1, 1024, 1024], &[1, 1, 1, 1]]);
        assert!(got.starts_with("bottom[0]: "), "{got}");
        assert_eq!(tops::<PriorBox>(&param(min(10.)), &shapes), [[1, 2, 48]]);
    }
}
