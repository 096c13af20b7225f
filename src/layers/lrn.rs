//! `LRN`: local response normalisation (Caffe `lrn_layer.cpp`).
//!
//! Bottom and top: `[N, C, H, W]`. With s = `local_size`, which is odd:
//!
//! * ACROSS_CHANNELS: `x · (k + alpha/s · Σ x²)^−beta`, the sum over the s channels
//!   around each, as far as they exist.
//! * WITHIN_CHANNEL: `x · (1 + alpha · average of x²)^−beta`, the average over the s × s
//!   window around each, by the rule of average pooling with padding `(s − 1)/2`. `k`
//!   has no influence.
//!
//! Across channels in place, Caffe overwrites x before it is multiplied in:
//! `(k + …)^(−2·beta)` comes out.

use super::{Cx, Layer, Taps};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::lrn_parameter::NormRegion;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Lrn {
    /// Odd, at most `i32::MAX`; may exceed the number of channels or the picture.
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
    pub region: Region,
    pub in_place: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    AcrossChannels,
    WithinChannel,
}

impl Lrn {
    /// The part of the window around `at` that lies in `0..len`.
    fn around(&self, at: usize, len: usize) -> Range<usize> {
        let reach = (self.size - 1) / 2;
        at.saturating_sub(reach)..(at + reach + 1).min(len)
    }

    /// What average pooling counts of that window. Nothing is left out: padding is
    /// counted, and with stride 1 no window reaches beyond it.
    fn area(&self) -> f64 {
        self.size as f64 * self.size as f64
    }

    /// The base of the power, for the value at `[n, c, h, w]`.
    fn base(&self, x: &Tensor, [n, c, h, w]: [usize; 4]) -> f64 {
        let [_, channels, height, width] = x.shape[..] else {
            unreachable!("inferred before")
        };
        let square = |c: usize, h: usize, w: usize| {
            let x = f64::from(x.data[((n * channels + c) * height + h) * width + w]);
            x * x
        };
        let [alpha, k] = [self.alpha, self.k].map(f64::from);
        match self.region {
            Region::AcrossChannels => {
                let sum: f64 = self.around(c, channels).map(|c| square(c, h, w)).sum();
                k + alpha / self.size as f64 * sum
            }
            Region::WithinChannel => {
                let row = |h| self.around(w, width).map(move |w| (h, w));
                let points = self.around(h, height).flat_map(row);
                let sum: f64 = points.map(|(h, w)| square(c, h, w)).sum();
                1.0 + alpha * sum / self.area()
            }
        }
    }
}

impl Layer for Lrn {
    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.lrn_param.clone().unwrap_or_default();
        let size = cx.size("lrn_param.local_size", p.local_size())?;
        if size.is_multiple_of(2) {
            let message = format!("must be odd, not {size}");
            return Err(cx.invalid("lrn_param.local_size", message).into());
        }
        Ok(Lrn {
            size,
            alpha: p.alpha(),
            beta: p.beta(),
            k: p.k(),
            region: match p.norm_region() {
                NormRegion::AcrossChannels => Region::AcrossChannels,
                NormRegion::WithinChannel => Region::WithinChannel,
            },
            in_place: cx.in_place,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if bottoms[0].len() != 4 {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![bottoms[0].clone()])
    }

    /// Item by item.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0).then_some(0)
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let x = bottoms[0];
        let [_, channels, height, width] = x.shape[..] else {
            unreachable!("inferred before")
        };
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            let (row, w) = (i / width, i % width);
            let (plane, h) = (row / height, row % height);
            let base = self.base(x, [plane / channels, plane % channels, h, w]);
            let power = base.powf(-f64::from(self.beta));
            let overwritten = self.in_place && self.region == Region::AcrossChannels;
            let factor = if overwritten {
                power
            } else {
                f64::from(x.data[i])
            };
            *y = (factor * power) as f32;
        }
    }

    fn taps(&self, _bottoms: &[Shape]) -> Option<[Taps; 2]> {
        let taps = Taps {
            kernel: self.size,
            stride: 1,
            pad: self.size / 2,
            dilation: 1,
            transposed: false,
        };
        (self.region == Region::WithinChannel).then_some([taps; 2])
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        match self.region {
            Region::AcrossChannels => lower::lrn_across(b, node, self),
            Region::WithinChannel => lower::lrn_within(b, node, self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LrnParameter;

    fn param(p: LrnParameter) -> LayerParameter {
        LayerParameter {
            lrn_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn size3(region: NormRegion) -> LrnParameter {
        LrnParameter {
            local_size: Some(3),
            alpha: Some(3.0),
            beta: Some(1.0),
            k: Some(2.0),
            norm_region: Some(region.into()),
            ..LrnParameter::default()
        }
    }

    #[test]
    fn across_channels() {
        let x = tensor(&[1, 4, 1, 1], [1., 2., 3., 0.]);
        let p = param(size3(NormRegion::AcrossChannels));
        let y = forward::<Lrn>(&p, &[&x], &[]);
        assert_close(&y[0].data, &[1. / 7., 2. / 16., 3. / 15., 0.], 1e-7);
        let in_place = LayerParameter {
            bottom: vec!["x".into()],
            top: vec!["x".into()],
            ..p
        };
        let y = forward::<Lrn>(&in_place, &[x], &[]);
        assert_close(
            &y[0].data,
            &[1. / 49., 1. / 256., 1. / 225., 1. / 121.],
            1e-7,
        );
    }

    #[test]
    fn within_a_channel_k_is_1_and_padding_counts() {
        let x = tensor(&[1, 2, 2, 2], [1., 2., 3., 0., 3., 0., 0., 0.]);
        for bottom in [None, Some("x".into())] {
            let p = LayerParameter {
                bottom: bottom.iter().cloned().collect(),
                top: bottom.into_iter().collect(),
                ..param(size3(NormRegion::WithinChannel))
            };
            let y = forward::<Lrn>(&p, &[&x], &[]);
            let base = 1. + 3. * 14. / 9.;
            assert_close(
                &y[0].data[..4],
                &[1. / base, 2. / base, 3. / base, 0.],
                1e-7,
            );
            assert_close(&y[0].data[4..], &[0.75, 0., 0., 0.], 1e-7);
        }
    }

    #[test]
    fn zero_to_a_negative_power() {
        let p = LrnParameter {
            k: Some(0.0),
            ..LrnParameter::default()
        };
        let y = forward::<Lrn>(&param(p), &[tensor(&[1, 1, 1, 1], [0.])], &[]);
        assert!(y[0].data[0].is_nan());
    }

    #[test]
    fn windows_larger_than_the_blob() {
        for region in [NormRegion::AcrossChannels, NormRegion::WithinChannel] {
            let p = LrnParameter {
                local_size: Some(i32::MAX as u32),
                ..size3(region)
            };
            let y = forward::<Lrn>(&param(p), &[tensor(&[1, 1, 1, 1], [1.])], &[]);
            assert!(y[0].data[0] > 0.0);
        }
    }

    #[test]
    fn bad_parameters() {
        let local_size = |size| {
            param(LrnParameter {
                local_size: Some(size),
                ..LrnParameter::default()
            })
        };
        let dims: &[&[usize]] = &[&[1, 2, 3, 4]];
        assert_eq!(
            refusal::<Lrn>(&local_size(4), dims),
            "lrn_param.local_size: must be odd, not 4"
        );
        assert!(refusal::<Lrn>(&local_size(0), dims).ends_with("must be odd, not 0"));
        assert!(refusal::<Lrn>(&local_size(u32::MAX), dims).contains("larger"));
        assert!(refusal::<Lrn>(&local_size(5), &[&[1, 2, 3]]).starts_with("bottom: "));
    }
}
