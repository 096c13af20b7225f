//! `Interp` (DeepLab, PSPNet): bilinear interpolation between corners that stay where they
//! are.
//!
//! * bottom: `[N, C, H, W]`, less `−pad_beg` rows and columns before and `−pad_end` after.
//!   Top: `[N, C, OH, OW]` by the first of these that fits:
//!   `shrink_factor` alone: `(H − 1)/shrink + 1`, rounded down;
//!   `zoom_factor` alone: `(H − 1)·zoom + 1`; `height` and `width`; both factors, shrinking
//!   first; `full_zoom_factor` (Synopsys): `H · factor`.
//! * Row i of the top lies at `i · (H − 1)/(OH − 1)`, of which ratio and product are f32 in
//!   every Caffe; the ratio is 0 for a top of one row. Columns likewise.
//! * `mode: NEAREST` (jolibrain) takes the neighbour with the larger weight, the later one
//!   of equal ones. The original fills the first map only, so more are refused.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::interp_parameter::Mode;
use crate::frontend::proto::{InterpParameter, LayerParameter};
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Interp {
    pub rule: Rule,
    /// Rows and columns that are cut, before and after.
    pub cut: [usize; 2],
    pub nearest: bool,
}

/// How the top's size is found.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Shrinks, then zooms.
    Factors {
        shrink: usize,
        zoom: usize,
    },
    Size([usize; 2]),
    FullZoom(usize),
}

fn rule(p: &InterpParameter, cx: &Cx) -> Result<Rule> {
    let positive = |field: &str, value: Option<i32>| -> Result<usize> {
        let size = usize::try_from(value.unwrap_or(1)).ok();
        let field = format!("interp_param.{field}");
        let bad = || cx.invalid(&field, "must be positive").into();
        size.filter(|&size| size > 0).ok_or_else(bad)
    };
    let factors = || {
        Ok(Rule::Factors {
            shrink: positive("shrink_factor", p.shrink_factor)?,
            zoom: positive("zoom_factor", p.zoom_factor)?,
        })
    };
    match (p.shrink_factor, p.zoom_factor, p.height, p.width) {
        (Some(_), None, ..) | (None, Some(_), ..) => factors(),
        (_, _, height @ Some(_), width @ Some(_)) => Ok(Rule::Size([
            positive("height", height)?,
            positive("width", width)?,
        ])),
        (Some(_), Some(_), ..) => factors(),
        _ if p.full_zoom_factor.is_some() => {
            let factor = positive("full_zoom_factor", p.full_zoom_factor)?;
            Ok(Rule::FullZoom(factor))
        }
        _ => {
            let message = "needs height and width, or a factor";
            Err(cx.invalid("interp_param", message).into())
        }
    }
}

impl Interp {
    fn size(&self, axis: usize, input: usize) -> usize {
        match self.rule {
            Rule::Factors { shrink, zoom } => ((input - 1) / shrink).saturating_mul(zoom) + 1,
            Rule::Size(size) => size[axis],
            Rule::FullZoom(factor) => input.saturating_mul(factor),
        }
    }
}

impl Layer for Interp {
    fn claims() -> &'static [&'static str] {
        &[
            "interp_param",
            "interp_param.full_zoom_factor",
            "interp_param.mode",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.interp_param.clone().unwrap_or_default();
        let cut = |field: &str, value: i32| -> Result<usize> {
            let field = format!("interp_param.{field}");
            let message = "must not be positive: it only cuts";
            let bad = |_| cx.invalid(&field, message).into();
            usize::try_from(-i64::from(value)).map_err(bad)
        };
        Ok(Interp {
            rule: rule(&p, cx)?,
            cut: [cut("pad_beg", p.pad_beg())?, cut("pad_end", p.pad_end())?],
            nearest: p.mode() == Mode::Nearest,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        if self.nearest && c != 1 {
            let message = format!("NEAREST with {c} channels (only one)");
            return Err(cx.unsupported("interp_param.mode", message).into());
        }
        let mut size = [h, w];
        for (axis, size) in size.iter_mut().enumerate() {
            let left = size.saturating_sub(self.cut[0] + self.cut[1]);
            if left == 0 {
                let message = format!("nothing is left of {h}×{w}");
                return Err(cx.invalid("interp_param.pad_beg", message).into());
            }
            *size = self.size(axis, left);
        }
        let top = Shape::new([n, c, size[0], size[1]]);
        Ok(vec![cx.locate("interp_param", top)?])
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let mut sizes = bottoms[0][2..].to_vec();
        sizes.extend(&tops[0][2..]);
        sizes.extend([self.cut[0], self.cut[1], usize::from(self.nearest)]);
        let maps = bottoms[0].count_of(0..2).max(1);
        Some(Call::new(routine!("interp"), sizes, Vec::new()).cut(maps))
    }
}

/// Pasted into emitted source.
mod routine {
    /// One map. `sizes`: height and width of the bottom, of the top; what is cut before and
    /// after; 1 for the nearest neighbour.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let &[height, width, rows, columns, before, after, nearest] = sizes else {
            return;
        };
        if tops[0].is_empty() {
            return;
        }
        let inside = |size: usize| size - before - after;
        for (row, line) in tops[0].chunks_mut(columns).enumerate() {
            let y = between(row, inside(height), rows, nearest == 1);
            for (column, to) in line.iter_mut().enumerate() {
                let x = between(column, inside(width), columns, nearest == 1);
                let mut sum = 0.0;
                for (y, by) in [(y.at, 1.0 - y.share), (y.next, y.share)] {
                    let row = (before + y) * width + before;
                    let of = |x: usize| f64::from(bottoms[0][row + x]);
                    sum += f64::from(by)
                        * (f64::from(1.0 - x.share) * of(x.at) + f64::from(x.share) * of(x.next));
                }
                *to = sum as f32;
            }
        }
    }

    /// A place between two elements, and how much of the later one counts.
    struct Between {
        at: usize,
        next: usize,
        share: f32,
    }

    fn between(i: usize, input: usize, output: usize, nearest: bool) -> Between {
        let ratio = match output {
            0 | 1 => 0.0,
            _ => (input - 1) as f32 / (output - 1) as f32,
        };
        let place = ratio * i as f32;
        let at = (place as usize).min(input - 1);
        let next = (at + 1).min(input - 1);
        let share = place - at as f32;
        if !nearest {
            return Between { at, next, share };
        }
        let at = if share < 0.5 { at } else { next };
        Between {
            at,
            next: at,
            share: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;

    fn param(p: InterpParameter) -> LayerParameter {
        LayerParameter {
            interp_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn size(height: i32, width: i32) -> InterpParameter {
        InterpParameter {
            height: Some(height),
            width: Some(width),
            ..InterpParameter::default()
        }
    }

    #[test]
    fn corners_stay() {
        let x = tensor(&[1, 1, 2, 3], [0., 2., 4., 10., 12., 14.]);
        let run = |p| forward::<Interp>(&param(p), &[&x], &[]).remove(0).data;
        let want = [
            [0., 1., 2., 3., 4.],
            [5., 6., 7., 8., 9.],
            [10., 11., 12., 13., 14.],
        ];
        assert_eq!(run(size(3, 5)), want.concat());
        assert_eq!(run(size(2, 2)), [0., 4., 10., 14.]);
        assert_eq!(run(size(1, 1)), [0.]);
        let cut = InterpParameter {
            pad_beg: Some(-1),
            ..size(1, 3)
        };
        assert_eq!(run(cut), [12., 13., 14.]);
        let one = tensor(&[1, 2, 1, 1], [7., 8.]);
        let y = forward::<Interp>(&param(size(1, 2)), &[one], &[]);
        assert_eq!(y[0].data, [7., 7., 8., 8.]);
    }

    #[test]
    fn the_nearer_neighbour() {
        let x = tensor(&[1, 1, 1, 2], [3., 5.]);
        let nearest = |width| InterpParameter {
            mode: Some(Mode::Nearest.into()),
            ..size(1, width)
        };
        let run = |width| {
            forward::<Interp>(&param(nearest(width)), &[&x], &[])
                .remove(0)
                .data
        };
        assert_eq!(run(3), [3., 5., 5.]);
        assert_eq!(run(4), [3., 3., 5., 5.]);
        let got = refusal::<Interp>(&param(nearest(3)), &[&[1, 2, 1, 2]]);
        assert!(got.starts_with("interp_param.mode: NEAREST"), "{got}");
    }

    #[test]
    fn sizes_by_the_first_rule_that_fits() {
        let of = |p: InterpParameter| tops::<Interp>(&param(p), &[&[1, 1, 7, 9]])[0][2..].to_vec();
        let with = |shrink, zoom, full| InterpParameter {
            shrink_factor: shrink,
            zoom_factor: zoom,
            full_zoom_factor: full,
            ..InterpParameter::default()
        };
        assert_eq!(of(with(Some(2), None, None)), [4, 5]);
        assert_eq!(of(with(None, Some(3), None)), [19, 25]);
        assert_eq!(of(with(Some(2), Some(3), None)), [10, 13]);
        assert_eq!(of(with(None, None, Some(2))), [14, 18]);
        let zoom_wins = InterpParameter {
            zoom_factor: Some(1),
            ..size(3, 3)
        };
        assert_eq!(of(zoom_wins), [7, 9]);
        let size_wins = InterpParameter {
            shrink_factor: Some(2),
            zoom_factor: Some(2),
            ..size(3, 2)
        };
        assert_eq!(of(size_wins), [3, 2]);
    }

    #[test]
    fn bad_parameters() {
        let shape: &[&[usize]] = &[&[1, 1, 4, 4]];
        type Change = fn(&mut InterpParameter);
        let cases: [(&str, Change); 6] = [
            (": needs height and width", |p| p.width = None),
            (".height: must be positive", |p| p.height = Some(0)),
            (".zoom_factor: must be positive", |p| {
                p.zoom_factor = Some(-2)
            }),
            (".pad_beg: must not be positive", |p| p.pad_beg = Some(1)),
            (".pad_beg: nothing is left", |p| p.pad_end = Some(i32::MIN)),
            (": a blob of", |p| p.height = Some(i32::MAX)),
        ];
        for (want, change) in cases {
            let mut p = size(2, 2);
            change(&mut p);
            let got = refusal::<Interp>(&param(p), shape);
            assert!(got.starts_with(&format!("interp_param{want}")), "{got}");
        }
        assert!(refusal::<Interp>(&param(size(2, 2)), &[&[1, 4, 4]]).starts_with("bottom: "));
    }
}
