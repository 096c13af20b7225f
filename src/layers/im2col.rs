//! `Im2col`: the windows of a convolution, each as a column (Caffe `im2col_layer.cpp`).
//!
//! * bottom: `[batch…, C, spatial…]`; `axis` is that of C. Top:
//!   `[batch…, C · taps of the kernel, out…]`, `out` as for `Convolution`.
//!
//! `y[c · taps + k, p] = x[c, p·stride − pad + k·dilation]`, with zeros outside.

use super::convolution::Convolution;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{ConvolutionParameter, LayerParameter};
use crate::ir::Shape;
use crate::leaf::routine::Call;

/// The windows are those of a convolution with one output.
#[derive(Clone, Debug)]
pub struct Im2col(Convolution);

impl Layer for Im2col {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = ConvolutionParameter {
            num_output: Some(1),
            group: None,
            ..*param.convolution_param.clone().unwrap_or_default()
        };
        Convolution::read(&p, cx).map(Im2col)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let mut dims = self.0.infer(bottoms, cx)?.remove(0).to_vec();
        let g = self.0.geometry(&bottoms[0]);
        if g.kernel.is_empty() {
            let message = format!("no spatial axes after the channels of {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let taps = g.kernel.iter().fold(1, |n, &k| usize::saturating_mul(n, k));
        dims[g.axis] = g.channels.saturating_mul(taps);
        Ok(vec![cx.locate("convolution_param", Shape::new(dims))?])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let g = self.0.geometry(&bottoms[0]);
        let sizes = [
            &g.input,
            &g.output,
            &g.kernel,
            &g.stride,
            &g.pad,
            &g.dilation,
        ];
        let sizes = sizes.into_iter().flatten().copied().collect();
        let maps = (g.batch * g.channels).max(1);
        Some(Call::new(routine!("im2col"), sizes, Vec::new()).cut(maps))
    }
}

/// Pasted into emitted source.
mod routine {
    /// One map and its windows. `sizes`, a number for each axis: of the map, of the top,
    /// of the kernel; stride, pad, dilation.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let axes = sizes.len() / 6;
        let part = |i: usize| &sizes[i * axes..][..axes];
        let (input, output, kernel) = (part(0), part(1), part(2));
        let (stride, pad, dilation) = (part(3), part(4), part(5));
        let places: usize = output.iter().product();
        for (i, y) in tops[0].iter_mut().enumerate() {
            let (mut tap, mut place) = (i / places, i % places);
            let (mut at, mut step) = (Some(0), 1);
            for axis in (0..axes).rev() {
                let along =
                    place % output[axis] * stride[axis] + tap % kernel[axis] * dilation[axis];
                let inside = along.checked_sub(pad[axis]).filter(|&x| x < input[axis]);
                at = at.zip(inside).map(|(at, x)| at + x * step);
                step *= input[axis];
                place /= output[axis];
                tap /= kernel[axis];
            }
            *y = at.map_or(0.0, |at| bottoms[0][at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, noise, refusal, tensor};
    use super::*;

    fn param(p: ConvolutionParameter) -> LayerParameter {
        LayerParameter {
            convolution_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn columns_by_hand() {
        let p = ConvolutionParameter {
            kernel_size: vec![2],
            ..ConvolutionParameter::default()
        };
        let x = tensor(&[1, 1, 2, 3], [1., 2., 3., 4., 5., 6.]);
        let y = forward::<Im2col>(&param(p), &[x], &[]).remove(0);
        let want = [1., 2., 2., 3., 4., 5., 5., 6.];
        assert_eq!(y, tensor(&[1, 4, 1, 2], want));
    }

    #[test]
    fn a_product_with_it_is_the_convolution() {
        let p = ConvolutionParameter {
            kernel_size: vec![3, 2, 1],
            stride: vec![1, 2, 1],
            pad: vec![1, 0, 2],
            dilation: vec![1, 2, 1],
            ..ConvolutionParameter::default()
        };
        let x = noise(&[2, 3, 4, 5, 2]);
        let columns = forward::<Im2col>(&param(p.clone()), &[&x], &[]).remove(0);
        let ones = ConvolutionParameter {
            num_output: Some(1),
            bias_term: Some(false),
            ..p
        };
        let w = tensor(&[1, 3, 3, 2, 1], [1.; 18]);
        let sums = forward::<Convolution>(&param(ones), &[x], &[w]).remove(0);
        let places = sums.data.len() / 2;
        for (i, &want) in sums.data.iter().enumerate() {
            let (n, place) = (i / places, i % places);
            let column = (0..18).map(|row| columns.data[(n * 18 + row) * places + place]);
            let sum: f64 = column.map(f64::from).sum();
            assert!((sum as f32 - want).abs() < 1e-6, "{i}");
        }
    }

    #[test]
    fn what_it_needs() {
        let p = param(ConvolutionParameter::default());
        assert!(refusal::<Im2col>(&p, &[&[1, 1, 4, 4]]).contains("kernel_size"));
        assert!(refusal::<Im2col>(&p, &[&[1, 4]]).starts_with("bottom: no spatial"));
        let two = refusal::<Im2col>(&p, &[&[1, 1, 4, 4], &[1, 1, 4, 4]]);
        assert!(two.starts_with("bottom: "), "{two}");
    }
}
