//! `SPP`: poolings of finer and finer grids over the whole map, flattened and joined
//! (Caffe `spp_layer.cpp`).
//!
//! * bottom: `[N, C, H, W]`.
//! * Level l has 2^l × 2^l windows of size and stride `ceil(H / 2^l)`, and as much padding
//!   as brings them around the map; see [`Pooling`] for what a window gives. Windows that
//!   lie outside of the padded map are dropped, as there.
//! * top: `[N, Σ C·OH·OW]`, level by level; with one level, its `[N, C, 1, 1]`.

use super::pooling::{Method, Pad, Pooling, Round, stochastic};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::spp_parameter::PoolMethod;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Spp {
    pub pyramid_height: usize,
    pub method: Method,
}

impl Layer for Spp {
    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.spp_param.clone().unwrap_or_default();
        let method = match p.pool() {
            PoolMethod::Max => Method::Max,
            PoolMethod::Ave => Method::Ave,
            PoolMethod::Stochastic => return Err(stochastic("spp_param.pool", cx)),
        };
        Ok(Spp {
            pyramid_height: cx.positive("spp_param.pyramid_height", p.pyramid_height())?,
            method,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        let mut places = 0usize;
        for level in 0..self.pyramid_height {
            let Some(pooling) = self.level(level, [h, w]) else {
                let message = format!("level {level} has more windows than a map of {h}×{w}");
                return Err(cx.invalid("spp_param.pyramid_height", message).into());
            };
            let top = &pooling.infer(bottoms, cx)?[0];
            places += top[2] * top[3];
        }
        let top = match self.pyramid_height {
            1 => Shape::new([n, c, 1, 1]),
            _ => Shape::new([n, c.saturating_mul(places)]),
        };
        Ok(vec![cx.locate("spp_param.pyramid_height", top)?])
    }

    /// One call an item.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let map = [bottoms[0][2], bottoms[0][3]];
        let mut sizes = vec![usize::from(self.method == Method::Ave), map[0], map[1]];
        for level in 0..self.pyramid_height {
            let axes = self.level(level, map)?.geometry(&bottoms[0]).axes;
            sizes.extend(axes.iter().map(|axis| axis.output));
            sizes.extend(axes.iter().map(|axis| axis.kernel));
            sizes.extend(axes.iter().map(|axis| axis.pad[0]));
        }
        let call = Call::new(routine!("spp"), sizes, vec![]);
        Some(call.cut(bottoms[0][0]))
    }
}

impl Spp {
    /// The pooling of a level; none where its padding would be no less than a window,
    /// which Caffe refuses.
    fn level(&self, level: usize, map: [usize; 2]) -> Option<Pooling> {
        let bins = 1usize.checked_shl(level.try_into().ok()?)?;
        let kernel = map.map(|size| size.div_ceil(bins));
        let mut pad = [0; 2];
        for axis in 0..2 {
            pad[axis] = (kernel[axis].checked_mul(bins)? - map[axis]).div_ceil(2);
        }
        let fits = pad == [0; 2] || pad[0] < kernel[0] && pad[1] < kernel[1];
        fits.then_some(Pooling {
            method: self.method,
            exclude_pad: false,
            kernel: Some(kernel.into()),
            stride: kernel.into(),
            pad: Pad::even(pad),
            round: Round::Ceil,
            axes: 2,
        })
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let (average, map) = (sizes[0] == 1, [sizes[1], sizes[2]]);
        let mut top = tops[0].iter_mut();
        for level in sizes[3..].chunks(6) {
            let (output, kernel, pad) = (&level[..2], &level[2..4], &level[4..]);
            // First and end inside the map, and the length with padding.
            let window = |axis: usize, at: usize| {
                let start = at * kernel[axis];
                let end = (start + kernel[axis]).min(map[axis] + 2 * pad[axis]);
                let inside = |i: usize| i.saturating_sub(pad[axis]).min(map[axis]);
                (inside(start), inside(end), end - start)
            };
            for plane in bottoms[0].chunks(map[0] * map[1]) {
                for at in 0..output[0] * output[1] {
                    let (y0, y1, height) = window(0, at / output[1]);
                    let (x0, x1, width) = window(1, at % output[1]);
                    let (mut max, mut sum) = (f32::MIN, 0.0);
                    for y in y0..y1 {
                        for &v in &plane[y * map[1] + x0..y * map[1] + x1] {
                            max = if max < v { v } else { max };
                            sum += f64::from(v);
                        }
                    }
                    let average_of = |sum: f64| (sum / (height * width) as f64) as f32;
                    if let Some(y) = top.next() {
                        *y = if average { average_of(sum) } else { max };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::SppParameter;

    fn param(pyramid_height: u32, pool: PoolMethod) -> LayerParameter {
        LayerParameter {
            spp_param: Some(
                SppParameter {
                    pyramid_height: Some(pyramid_height),
                    pool: Some(pool.into()),
                    ..SppParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn levels_follow_each_other() {
        let x = tensor(
            &[1, 2, 2, 3],
            [1., 2., 3., 4., 5., 6., 0., 0., 9., 0., 0., 0.],
        );
        let run = |pool| {
            let y = forward::<Spp>(&param(2, pool), &[&x], &[]);
            y[0].data.clone()
        };
        // Level 1: rows of 1, columns of 2 after one of padding.
        let max = [6., 9., 1., 3., 4., 6., 0., 9., 0., 0.];
        assert_eq!(run(PoolMethod::Max), max);
        let average = [3.5, 1.5, 0.5, 2.5, 2., 5.5, 0., 4.5, 0., 0.];
        assert_eq!(run(PoolMethod::Ave), average);
    }

    #[test]
    fn shapes() {
        let max = |height| param(height, PoolMethod::Max);
        assert_eq!(tops::<Spp>(&max(1), &[&[2, 3, 5, 7]]), [[2, 3, 1, 1]]);
        assert_eq!(tops::<Spp>(&max(3), &[&[2, 3, 8, 8]]), [[2, 63]]);
        let dims: &[&[usize]] = &[&[1, 1, 2, 2]];
        for height in [3, u32::MAX >> 1] {
            let got = refusal::<Spp>(&max(height), dims);
            assert!(
                got.starts_with("spp_param.pyramid_height: level 2"),
                "{got}"
            );
        }
        let got = refusal::<Spp>(&param(1, PoolMethod::Stochastic), dims);
        assert!(got.starts_with("spp_param.pool: STOCHASTIC"), "{got}");
        assert!(refusal::<Spp>(&max(0), dims).ends_with("must not be 0"));
        assert!(refusal::<Spp>(&max(1), &[&[1, 1, 2]]).starts_with("bottom: "));
    }
}
