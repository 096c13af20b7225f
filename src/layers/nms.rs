//! `Nms` (caffe_rtpose `nms_layer.cu`; the CPU code beside it writes another layout): the
//! peaks of maps, in row-major order.
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, num_parts, max_peaks + 1, 3]`: the first row of each
//!   map has the number of its peaks, of which at most `max_peaks` follow with x, y and
//!   value; the rest is 0.
//! * A peak is above `threshold` and above its eight neighbours; what lies on the edge is
//!   none. Its place is the mean of the 7 × 7 places around it, weighted by their values
//!   where these are positive. Row 0 and column 0 are left out of it, columns beyond the
//!   right edge, and, since the original compares rows with the width, rows from number W
//!   on: of a wide map, what lies below is the map that follows.
//! * Maps count from the blob's start, `num_parts` an item, whatever C is.
//!
//! The form before that has one map an item and `num_peak` instead of `max_peaks` and
//! `num_parts`: four neighbours, 0 beyond the edge; a peak anywhere but in the last element;
//! its place is its own. Where no field tells the forms apart, C = 1 is this one.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Nms {
    threshold: f32,
    form: Option<Form>,
}

#[derive(Clone, Copy, Debug)]
struct Form {
    /// One map an item.
    single: bool,
    /// Maps an item and peaks a map.
    parts: usize,
    peaks: usize,
}

impl Nms {
    fn form(&self, channels: usize) -> Form {
        let single = channels == 1;
        let [parts, peaks] = if single { [1, 100] } else { [15, 20] };
        self.form.unwrap_or(Form {
            single,
            parts,
            peaks,
        })
    }
}

impl Layer for Nms {
    fn claims() -> &'static [&'static str] {
        &[
            "nms_param.threshold",
            "nms_param.num_peak",
            "nms_param.max_peaks",
            "nms_param.num_parts",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.nms_param.clone().unwrap_or_default();
        let several = p.max_peaks.is_some() || p.num_parts.is_some();
        if several && p.num_peak.is_some() {
            let message = "excludes `max_peaks` and `num_parts`, which have replaced it";
            return Err(cx.unsupported("nms_param.num_peak", message).into());
        }
        let peaks = cx.size("nms_param.max_peaks", p.max_peaks())?;
        let single = cx.size("nms_param.num_peak", p.num_peak())?;
        let form = Form {
            single: !several,
            parts: if several {
                cx.positive("nms_param.num_parts", p.num_parts())?
            } else {
                1
            },
            peaks: if several { peaks } else { single },
        };
        Ok(Nms {
            threshold: p.threshold(),
            form: (several || p.num_peak.is_some()).then_some(form),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, ..] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        let form = self.form(c);
        if bottoms[0].len() != 4 || c < form.parts || form.single && c != 1 {
            let message = format!("{} maps an item are not in {}", form.parts, bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let top = Shape::new([n, form.parts, form.peaks + 1, 3]);
        Ok(vec![cx.locate("nms_param", top)?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [_, c, h, w] = bottoms[0].nchw()?;
        let form = self.form(c);
        let sizes = vec![h, w, form.peaks, usize::from(form.single)];
        Some(Call::new(routine!("nms"), sizes, vec![self.threshold]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let [height, width, peaks] = [sizes[0], sizes[1], sizes[2]];
        let is_peak = if sizes[3] == 1 {
            above_four
        } else {
            above_eight
        };
        for (n, top) in tops[0].chunks_exact_mut(3 * (peaks + 1)).enumerate() {
            let map = &bottoms[0][n * height * width..];
            let mut found = 0;
            top.fill(0.0);
            for i in 0..height * width {
                let at = [i % width, i / width];
                if !(map[i] > values[0] && is_peak(map, at, [width, height])) {
                    continue;
                }
                found += 1;
                if found <= peaks {
                    let [x, y] = match sizes[3] {
                        1 => at.map(|at| at as f32),
                        _ => center(map, at, width),
                    };
                    top[3 * found..3 * found + 3].copy_from_slice(&[x, y, map[i]]);
                }
            }
            top[0] = found as f32;
        }
    }

    fn above_eight(map: &[f32], [x, y]: [usize; 2], [width, height]: [usize; 2]) -> bool {
        let edge = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
        let value = map[y * width + x];
        let beside = |row: usize| {
            let others = (x - 1..x + 2).filter(|&column| (column, row) != (x, y));
            others
                .map(|column| map[row * width + column])
                .all(|other| value > other)
        };
        !edge && (y - 1..y + 2).all(beside)
    }

    fn above_four(map: &[f32], [x, y]: [usize; 2], [width, height]: [usize; 2]) -> bool {
        let at = y * width + x;
        let other = |edge: bool, at: usize| if edge { 0.0 } else { map[at] };
        let others = [
            other(y == 0, at.wrapping_sub(width)),
            other(y + 1 == height, at + width),
            other(x == 0, at.wrapping_sub(1)),
            other(x + 1 == width, at + 1),
        ];
        at + 1 < width * height && others.iter().all(|&other| map[at] > other)
    }

    // `map` goes on to the end of the blob.
    fn center(map: &[f32], [x, y]: [usize; 2], width: usize) -> [f32; 2] {
        let around = |at: usize| at.saturating_sub(3).max(1)..(at + 4).min(width);
        let mut sums = [0.0; 3];
        for row in around(y) {
            for column in around(x) {
                let value = map
                    .get(row * width + column)
                    .map_or(0.0, |&value| f64::from(value));
                if value > 0.0 {
                    sums[0] += column as f64 * value;
                    sums[1] += row as f64 * value;
                    sums[2] += value;
                }
            }
        }
        [(sums[0] / sums[2]) as f32, (sums[1] / sums[2]) as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::NmsParameter;

    fn param(p: NmsParameter) -> LayerParameter {
        LayerParameter {
            nms_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn parts(parts: u32, peaks: u32) -> NmsParameter {
        NmsParameter {
            num_parts: Some(parts),
            max_peaks: Some(peaks),
            ..NmsParameter::default()
        }
    }

    #[test]
    fn the_center_of_a_peak() {
        #[rustfmt::skip]
        let map = [
            0., 0., 0., 9.,
            0., 2., 1., 0.,
            0., 1., 0., 0.,
            9., 0., -7., 9.,
        ];
        let y = forward::<Nms>(&param(parts(1, 2)), &[tensor(&[1, 1, 4, 4], map)], &[]);
        // Row 0 and column 0 do not count, the last corner does: 2 + 1 + 1 + 9 = 13.
        let at = (2. + 2. + 1. + 27.) / 13.;
        assert_eq!(
            y[0],
            tensor(&[1, 1, 3, 3], [1., 0., 0., at, at, 2., 0., 0., 0.])
        );
    }

    #[test]
    fn rows_below_a_wide_map_are_those_of_the_next() {
        let mut maps = [0.; 2 * 3 * 5];
        maps[5 + 2] = 1.;
        maps[15 + 2] = 3.;
        let y = forward::<Nms>(&param(parts(1, 1)), &[tensor(&[1, 2, 3, 5], maps)], &[]);
        // Rows 1 and 3 of column 2.
        assert_eq!(y[0].data[3..], [2., (1. + 9.) / 4., 1.]);
    }

    #[test]
    fn more_peaks_than_there_is_room_for() {
        let p = NmsParameter {
            threshold: Some(1.),
            ..parts(2, 1)
        };
        let map = [
            0., 0., 0., 0., 0., 0., 0., 2., 0., 3., 0., 0., 0., 0., 0., 0., 0., 0.,
        ];
        let below = [
            0., 0., 0., 0., 0., 0., 0., 1., 0., 1., 0., 0., 0., 0., 0., 0., 0., 0.,
        ];
        let maps = tensor(&[1, 2, 3, 6], [map, below].concat());
        let y = forward::<Nms>(&param(p), &[maps], &[]);
        assert_eq!(y[0].data[..3], [2., 0., 0.]);
        assert_eq!(y[0].data[5], 2., "the first");
        assert_eq!(y[0].data[6..], [0.; 6], "not above the threshold");
    }

    #[test]
    fn one_map() {
        let p = NmsParameter {
            num_peak: Some(3),
            ..NmsParameter::default()
        };
        let map = tensor(&[1, 1, 2, 3], [2., 1., 3., 1., 2., 9.]);
        let y = forward::<Nms>(&param(p), &[map], &[]);
        // The last element is none, and lets 3 be none.
        assert_eq!(y[0].data[..3], [1., 0., 0.]);
        assert_eq!(y[0].data[3..6], [0., 0., 2.]);
    }

    #[test]
    fn shapes() {
        let p = param(NmsParameter::default());
        assert_eq!(tops::<Nms>(&p, &[&[2, 1, 4, 4]]), [[2, 1, 101, 3]]);
        assert_eq!(tops::<Nms>(&p, &[&[1, 16, 4, 4]]), [[1, 15, 21, 3]]);
        let both = NmsParameter {
            num_peak: Some(1),
            ..parts(1, 1)
        };
        for (p, dims, field) in [
            (both, &[1, 1, 4, 4][..], "nms_param.num_peak"),
            (parts(0, 1), &[1, 1, 4, 4], "nms_param.num_parts"),
            (parts(3, 1), &[1, 2, 4, 4], "bottom"),
            (parts(1, 1), &[1, 2, 4], "bottom"),
        ] {
            let got = refusal::<Nms>(&param(p), &[dims]);
            assert!(got.starts_with(&format!("{field}: ")), "{got}");
        }
    }
}
