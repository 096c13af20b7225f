//! `Local` (happynear/caffe-windows): a convolution with weights of its own for each place.
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, num_output, OH, OW]`,
//!   `OH = (H + 2·pad − kernel) / stride + 1`, rounded down; the kernel is not larger than
//!   the bottom.
//! * blobs: weights `[num_output, 1, C·kernel·kernel, OH·OW]`, bias
//!   `[1, 1, num_output, OH·OW]`.
//!
//! `y[o, p] = bias[o, p] + Σ_k w[o, k, p] · x[window p, k]`, with zeros outside.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Local {
    pub num_output: usize,
    pub bias: bool,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

impl Local {
    /// How many windows there are along an axis of this size.
    fn windows(&self, size: usize) -> usize {
        (size + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Weights of one output at one place.
    fn taps(&self, channels: usize) -> usize {
        channels
            .saturating_mul(self.kernel)
            .saturating_mul(self.kernel)
    }
}

impl Layer for Local {
    fn claims() -> &'static [&'static str] {
        &["local_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.local_param.clone().unwrap_or_default();
        Ok(Local {
            num_output: cx.positive("local_param.num_output", p.num_output())?,
            bias: p.bias_term(),
            kernel: cx.positive("local_param.kernel_size", p.kernel_size())?,
            stride: cx.positive("local_param.stride", p.stride())?,
            pad: cx.size("local_param.pad", p.pad())?,
            weight_filler: p.weight_filler.unwrap_or_default(),
            bias_filler: p.bias_filler.unwrap_or_default(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, _, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        if h.min(w) < self.kernel {
            let message = format!("larger than the bottom of {h}×{w}");
            return Err(cx.invalid("local_param.kernel_size", message).into());
        }
        let dims = [n, self.num_output, self.windows(h), self.windows(w)];
        Ok(vec![cx.locate("local_param", Shape::new(dims))?])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let places = self
            .windows(bottoms[0][2])
            .saturating_mul(self.windows(bottoms[0][3]));
        let weights = [self.num_output, 1, self.taps(bottoms[0][1]), places];
        let bias = [1, 1, self.num_output, places];
        let mut specs = vec![ParamSpec {
            shape: Shape::new(weights)?,
            filler: self.weight_filler.clone(),
        }];
        if self.bias {
            specs.push(ParamSpec {
                shape: Shape::new(bias)?,
                filler: self.bias_filler.clone(),
            });
        }
        Ok(specs)
    }

    fn macs(&self, bottoms: &[Shape], tops: &[Shape]) -> u64 {
        (self.taps(bottoms[0][1]) as u64).saturating_mul(tops[0].count() as u64)
    }

    fn routine(&self, bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let mut sizes = bottoms[0][1..].to_vec();
        sizes.extend(&tops[0][1..]);
        sizes.extend([self.kernel, self.stride, self.pad]);
        let call = Call::new(routine!("local"), sizes, Vec::new());
        Some(call.cut(bottoms[0][0].max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    /// One image. `sizes`: channels, height, width of bottom and top; kernel, stride, pad.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let &[
            channels,
            height,
            width,
            _,
            rows,
            columns,
            kernel,
            stride,
            pad,
        ] = sizes
        else {
            return;
        };
        let (image, weights) = (bottoms[0], bottoms[1]);
        let places = rows * columns;
        let taps = channels * kernel * kernel;
        for (i, y) in tops[0].iter_mut().enumerate() {
            let (output, place) = (i / places, i % places);
            let mut sum = bottoms.get(2).map_or(0.0, |bias| f64::from(bias[i]));
            for tap in 0..taps {
                let row = place / columns * stride + tap / kernel % kernel;
                let column = place % columns * stride + tap % kernel;
                let inside =
                    row >= pad && row - pad < height && column >= pad && column - pad < width;
                // Padding is multiplied too, as Caffe does.
                let x = match inside {
                    true => {
                        let channel = tap / (kernel * kernel);
                        image[(channel * height + row - pad) * width + column - pad]
                    }
                    false => 0.0,
                };
                let weight = weights[(output * taps + tap) * places + place];
                sum += f64::from(weight) * f64::from(x);
            }
            *y = sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::LocalParameter;

    fn param(p: LocalParameter) -> LayerParameter {
        LayerParameter {
            local_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn simple(kernel: u32) -> LocalParameter {
        LocalParameter {
            num_output: Some(1),
            kernel_size: Some(kernel),
            ..LocalParameter::default()
        }
    }

    #[test]
    fn each_place_has_weights() {
        let x = tensor(
            &[2, 1, 2, 3],
            [1., 2., 3., 4., 5., 6., 0., 0., 0., 0., 0., 0.],
        );
        // Taps are rows, places columns.
        let w = tensor(&[1, 1, 4, 2], [1., 0., 0., 0., 0., 0., 0., 10.]);
        let bias = tensor(&[1, 1, 1, 2], [0.5, -0.5]);
        let y = forward::<Local>(&param(simple(2)), &[x], &[w, bias]).remove(0);
        assert_eq!(y, tensor(&[2, 1, 1, 2], [1.5, 59.5, 0.5, -0.5]));
    }

    #[test]
    fn padding_and_stride() {
        let p = LocalParameter {
            pad: Some(1),
            stride: Some(2),
            bias_term: Some(false),
            ..simple(1)
        };
        let x = tensor(&[1, 1, 3, 5], (0..15).map(|v| v as f32).collect::<Vec<_>>());
        let w = tensor(
            &[1, 1, 1, 12],
            (0..12).map(|v| v as f32).collect::<Vec<_>>(),
        );
        let y = forward::<Local>(&param(p), &[x], &[w]).remove(0);
        let middle = [0., 5. * 6., 6. * 8., 0.];
        assert_eq!(&*y.shape, [1, 1, 3, 4]);
        assert_eq!(y.data, [[0.; 4], middle, [0.; 4]].concat());
    }

    #[test]
    fn bad_parameters() {
        let shape: &[&[usize]] = &[&[1, 1, 2, 3]];
        let got = refusal::<Local>(&param(simple(3)), shape);
        assert!(got.starts_with("local_param.kernel_size: larger"), "{got}");
        assert!(refusal::<Local>(&param(simple(0)), shape).contains("must not be 0"));
        let none = LocalParameter::default();
        assert!(refusal::<Local>(&param(none), shape).starts_with("local_param.num_output"));
        assert!(refusal::<Local>(&param(simple(1)), &[&[1, 1, 2]]).starts_with("bottom: "));
    }
}
