//! `Unpooling` (mariolew/caffe-unpooling `unpooling_layer.cpp`): each value at the place where
//! a pooling found it, zeros elsewhere.
//!
//! * bottoms: `[N, C, H, W]`; places of that shape, the second top of a Pooling. Top:
//!   `[N, C, OH, OW]`, `OH = (H − 1) · stride + kernel − 2 · pad`.
//! * Of several values at one place the last stays. A place that the map does not have is
//!   an error, found when the net runs.

use super::pooling::{Method, Pad, Pooling};
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Unpooling {
    /// `None`: the whole bottom.
    kernel: Option<[usize; 2]>,
    stride: [usize; 2],
    pad: [usize; 2],
}

impl Layer for Unpooling {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 1..=1)?;
        cx.not_in_place()?;
        let p = param.pooling_param.clone().unwrap_or_default();
        let pooling = Pooling::read(&p, cx)?;
        let (Method::Max, Pad::Sides { before, .. }) = (pooling.method, &pooling.pad) else {
            let message = "only MAX has places to go back to";
            return Err(cx.unsupported("pooling_param.pool", message).into());
        };
        let two = |sizes: &[usize]| [sizes[0], sizes[1]];
        Ok(Unpooling {
            kernel: pooling.kernel.as_deref().map(two),
            stride: two(&pooling.stride),
            pad: two(before),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        if bottoms[1] != bottoms[0] {
            let message = format!("places of {} for values of {}", bottoms[1], bottoms[0]);
            return Err(cx.invalid("bottom[1]", message).into());
        }
        let kernel = self.kernel.unwrap_or([h, w]);
        let mut dims = [n, c, h, w];
        for axis in 0..2 {
            let steps = dims[axis + 2]
                .saturating_sub(1)
                .saturating_mul(self.stride[axis]);
            let padded = steps.saturating_add(kernel[axis]);
            dims[axis + 2] = padded.saturating_sub(2 * self.pad[axis]);
        }
        if dims.contains(&0) {
            let message = format!("nothing comes of {}", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        }
        Ok(vec![cx.locate("pooling_param", Shape::new(dims))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let call = Call::new(
            routine!("unpooling"),
            vec![bottoms[0].count_of(0..2)],
            Vec::new(),
        );
        Some(call.faults(&["bottom 1 has a place that the top does not have"]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [top, fault] = tops else { return };
        top.fill(0.0);
        fault[0] = 0.0;
        let (from, to) = (bottoms[0].len() / sizes[0], top.len() / sizes[0]);
        let maps = bottoms[0]
            .chunks_exact(from)
            .zip(bottoms[1].chunks_exact(from));
        for ((values, places), map) in maps.zip(top.chunks_exact_mut(to)) {
            for (&value, &place) in values.iter().zip(places) {
                match map.get_mut(place as usize) {
                    Some(y) if place > -1.0 => *y = value,
                    _ => fault[0] = 1.0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{infer, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::PoolingParameter;
    use crate::frontend::proto::pooling_parameter::PoolMethod;

    fn param(p: PoolingParameter) -> LayerParameter {
        LayerParameter {
            pooling_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn window(kernel: u32, stride: u32, pad: u32) -> PoolingParameter {
        PoolingParameter {
            kernel_size: Some(kernel),
            stride: Some(stride),
            pad: Some(pad),
            ..PoolingParameter::default()
        }
    }

    #[test]
    fn back_to_their_places() {
        let dims: &[usize] = &[1, 2, 1, 2];
        let (layer, shapes) = infer::<Unpooling>(&param(window(2, 1, 0)), &[dims, dims]).unwrap();
        assert_eq!(shapes[0].dims(), [1, 2, 2, 3]);
        let values = tensor(dims, [5., 6., 7., 8.]);
        let run = |places: [f32; 4]| {
            let mut top = [tensor(&[1, 2, 2, 3], [9.; 12])];
            let done = layer.checked_reference(&[&values, &tensor(dims, places)], &[], &mut top);
            done.map(|()| top[0].data.clone())
        };
        let want = [0., 6., 0., 0., 0., 0., 0., 0., 8., 0., 0., 7.];
        assert_eq!(run([1., 1., 5., 2.]).unwrap(), want);
        for place in [-1., 6., f32::NAN, f32::INFINITY] {
            assert!(run([1., 1., place, 2.]).is_err(), "{place}");
        }
    }

    #[test]
    fn sizes() {
        let size = |p, dims: &[usize]| tops::<Unpooling>(&param(p), &[dims, dims])[0][2..].to_vec();
        assert_eq!(size(window(3, 2, 0), &[1, 1, 6, 13]), [13, 27]);
        assert_eq!(size(window(3, 2, 1), &[1, 1, 6, 13]), [11, 25]);
        let global = PoolingParameter {
            global_pooling: Some(true),
            ..PoolingParameter::default()
        };
        assert_eq!(size(global, &[1, 1, 2, 3]), [3, 5]);
    }

    #[test]
    fn refusals() {
        let dims: &[usize] = &[1, 1, 2, 2];
        let ave = PoolingParameter {
            pool: Some(PoolMethod::Ave.into()),
            ..window(2, 1, 0)
        };
        for (p, bottoms, field) in [
            (ave, [dims, dims], "pooling_param.pool"),
            (window(2, 1, 0), [dims, &[1, 1, 2, 1]], "bottom[1]"),
            (window(2, 1, 0), [&[1, 1, 2], &[1, 1, 2]], "bottom[0]"),
            (window(2, 1, 1), [&[1, 1, 1, 1], &[1, 1, 1, 1]], "bottom[0]"),
        ] {
            let got = refusal::<Unpooling>(&param(p), &bottoms);
            assert!(got.starts_with(&format!("{field}: ")), "{got}");
        }
    }
}
