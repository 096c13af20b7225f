//! `Deconvolution`: the transpose of a convolution
//! (Caffe `base_conv_layer.cpp`, `deconv_layer.cpp`).
//!
//! * bottoms, tops, fields: as for `Convolution`, but
//!   `out = stride·(in − 1) + dilation·(kernel − 1) + 1 − 2·pad`.
//! * blobs: weights `[C, num_output/group, kernel…]`, bias `[num_output]`.
//!
//! Each value of the bottom, times the filters, is added to the top at
//! `p·stride − pad + k·dilation`; what falls outside is dropped.

use super::convolution::{Columns, Convolution, Geometry, each_plane, planes, rows};
use super::{Cx, Layer, Taps};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, ParamSpec, Shape, Tensor};
use crate::lower::{self, Builder};

/// The fields are those of a convolution.
#[derive(Clone, Debug)]
pub struct Deconvolution(pub Convolution);

impl Deconvolution {
    /// Panics unless `infer` has passed for bottoms of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        let geometry = self.0.resolve(bottom, deconv_size);
        geometry.expect("inferred before")
    }
}

fn deconv_size(input: i128, extent: i128, stride: i128, pads: i128) -> i128 {
    stride * (input - 1) + extent - pads
}

impl Layer for Deconvolution {
    fn claims() -> &'static [&'static str] {
        &[
            "convolution_param.pad_l",
            "convolution_param.pad_r",
            "convolution_param.pad_t",
            "convolution_param.pad_b",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.convolution_param.clone().unwrap_or_default();
        Convolution::read(&p, cx).map(Deconvolution)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let geometry = self.0.resolve(&bottoms[0], deconv_size);
        self.0.tops(bottoms, geometry, cx)
    }

    /// Along the batch axes.
    fn carries(&self, b: usize, axis: usize, bottoms: &[Shape], top: &Shape) -> Option<usize> {
        self.0.carries(b, axis, bottoms, top)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let g = self.geometry(&bottoms[0]);
        self.0.specs(g.channels, g.outputs / g.group, &g)
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape).with_columns();
        let channels = g.channels / g.group;
        let filters = g.outputs / g.group;
        for (bottom, top) in bottoms.iter().zip(tops) {
            each_plane(&mut top.data, g.output.iter().product(), |plane, out| {
                let (n, o) = (plane / g.outputs, plane % g.outputs);
                let first = o / filters * channels;
                let images = planes(&bottom.data, &g.input, n * g.channels + first, channels);
                let filter = |c| {
                    let filter = (first + c) * filters + o % filters;
                    planes(&params[0].data, &g.kernel, filter, 1)
                };
                let bias = params.get(1).map_or(0.0, |bias| f64::from(bias.data[o]));
                g.spread(images, filter, bias, out);
            });
        }
    }

    fn taps(&self, bottoms: &[Shape]) -> Option<[Taps; 2]> {
        self.geometry(&bottoms[0]).taps(true)
    }

    fn macs(&self, bottoms: &[Shape], _tops: &[Shape]) -> u64 {
        let g = self.geometry(&bottoms[0]);
        let filters = g.outputs / g.group;
        let filter = (filters as u64).saturating_mul(g.kernel.iter().product::<usize>() as u64);
        let bottoms = bottoms
            .iter()
            .map(|b| filter.saturating_mul(b.count() as u64));
        bottoms.fold(0, u64::saturating_add)
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        (0..node.tops.len()).try_for_each(|i| {
            let bottom = b.graph.shape(node.bottoms[i]);
            let conv = self.0.conv_of(node, i, &self.geometry(bottom));
            lower::deconvolution(b, node, &conv)
        })
    }
}

impl Geometry {
    /// One plane of a deconvolution's top, row by row, with a row of f64 accumulators.
    /// `filter` gives the weights of one channel of `images`.
    fn spread<'a>(
        &self,
        images: &[f32],
        filter: impl Fn(usize) -> &'a [f32],
        bias: f64,
        out: &mut [f32],
    ) {
        let last = self.kernel.len() - 1;
        let (width, taps) = (self.input[last], self.kernel[last]);
        let columns: Vec<Columns> = (0..taps)
            .map(|tap| self.meeting(last, tap, width, self.output[last]))
            .collect();
        let image: usize = self.input.iter().product();
        let mut acc = vec![0.0; self.output[last]];
        for (out_row, out) in out.chunks_mut(acc.len()).enumerate() {
            acc.fill(bias);
            for (c, image) in images.chunks(image.max(1)).enumerate() {
                for (tap_row, weights) in filter(c).chunks(taps).enumerate() {
                    let Some(row) = self.origin_row(out_row, tap_row) else {
                        continue;
                    };
                    let source = &image[row * width..][..width];
                    for (&weight, Columns { inside, first }) in weights.iter().zip(&columns) {
                        let sums = acc.iter_mut().skip(*first).step_by(self.stride[last]);
                        for (sum, &x) in sums.zip(&source[inside.clone()]) {
                            *sum += f64::from(weight) * f64::from(x);
                        }
                    }
                }
            }
            for (y, &sum) in out.iter_mut().zip(&acc) {
                *y = sum as f32;
            }
        }
    }

    /// The row of the bottom that a row of the filter adds to a row of the top.
    fn origin_row(&self, mut out_row: usize, mut tap_row: usize) -> Option<usize> {
        let (mut row, mut step) = (0, 1);
        for axis in (0..rank(self) - 1).rev() {
            let out = out_row % self.output[axis];
            let tap = tap_row % self.kernel[axis];
            let padded = (out + self.pad[axis]).checked_sub(tap * self.dilation[axis])?;
            let at = padded / self.stride[axis];
            if !padded.is_multiple_of(self.stride[axis]) || at >= self.input[axis] {
                return None;
            }
            row += at * step;
            step *= self.input[axis];
            out_row /= self.output[axis];
            tap_row /= self.kernel[axis];
        }
        debug_assert!(row < rows(&self.input));
        Some(row)
    }
}

fn rank(g: &Geometry) -> usize {
    g.kernel.len()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, infer, noise, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::ConvolutionParameter;

    fn param(p: ConvolutionParameter) -> LayerParameter {
        LayerParameter {
            convolution_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn stride2(num_output: u32, group: u32) -> ConvolutionParameter {
        ConvolutionParameter {
            num_output: Some(num_output),
            kernel_size: vec![3],
            stride: vec![2],
            group: Some(group),
            ..ConvolutionParameter::default()
        }
    }

    #[test]
    fn sizes_of_caffes_tests() {
        for group in [1, 3] {
            let tops = tops::<Deconvolution>(&param(stride2(3, group)), &[&[2, 3, 6, 4]]);
            assert_eq!(tops, [[2, 3, 13, 9]]);
        }
    }

    #[test]
    fn ones_overlap_as_in_caffes_test() {
        let x = tensor(&[2, 3, 6, 4], [1.; 144]);
        let params = [tensor(&[3, 4, 3, 3], [1.; 108]), tensor(&[4], [0.1; 4])];
        let y = forward::<Deconvolution>(&param(stride2(4, 1)), &[x], &params);
        for (i, &y) in y[0].data.iter().enumerate() {
            let (h, w) = (i / 9 % 13, i % 9);
            let twice = |at: usize, end| match at {
                0 => 1.,
                _ if at.is_multiple_of(2) && at < end => 2.,
                _ => 1.,
            };
            assert_eq!(y, 3. * twice(h, 12) * twice(w, 8) + 0.1, "{h} {w}");
        }
    }

    #[test]
    fn is_the_transpose_of_the_convolution() {
        let p = param(ConvolutionParameter {
            pad: vec![1, 0],
            dilation: vec![1, 2],
            bias_term: Some(false),
            ..stride2(4, 2)
        });
        let x = noise(&[1, 6, 4, 3]);
        let w = noise(&[6, 2, 3, 3]);
        let y = forward::<Deconvolution>(&p, &[&x], std::slice::from_ref(&w)).remove(0);
        assert_eq!(&*y.shape, [1, 4, 7, 9]);
        // <deconv(x), z> = <x, conv(z)> for any z, with the same weights.
        let z = noise(&y.shape);
        let back = ConvolutionParameter {
            num_output: Some(6),
            ..*p.convolution_param.clone().unwrap()
        };
        let conv = forward::<Convolution>(&param(back), &[&z], &[w]).remove(0);
        let dot = |a: &Tensor, b: &Tensor| -> f64 {
            let products = a.data.iter().zip(&b.data);
            products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        assert!((dot(&y, &z) - dot(&x, &conv)).abs() < 1e-5);
        let (layer, _) = infer::<Deconvolution>(&p, &[&x.shape]).unwrap();
        assert_eq!(layer.macs(&[x.shape], &[y.shape]), 72 * 2 * 9);
    }

    #[test]
    fn gaps_keep_the_bias() {
        let p = ConvolutionParameter {
            kernel_size: vec![1],
            ..stride2(1, 1)
        };
        let params = [tensor(&[1, 1, 1, 1], [3.]), tensor(&[1], [0.5])];
        let y = forward::<Deconvolution>(&param(p), &[tensor(&[1, 1, 1, 2], [1., 2.])], &params);
        assert_eq!(y[0], tensor(&[1, 1, 1, 3], [3.5, 0.5, 6.5]));
    }

    #[test]
    fn too_much_padding() {
        let p = ConvolutionParameter {
            pad: vec![4],
            ..stride2(1, 1)
        };
        let got = refusal::<Deconvolution>(&param(p), &[&[1, 1, 3, 3]]);
        assert!(got.contains("top of size -1"), "{got}");
    }
}
