//! `Convolution`: correlation of each bottom with one set of filters
//! (Caffe `base_conv_layer.cpp`, `conv_layer.cpp`).
//!
//! * bottoms: `[batch…, C, spatial…]`, all of one shape; `axis` is that of C.
//! * tops, one for each bottom: `[batch…, num_output, out…]`,
//!   `out = (in + 2·pad − (dilation·(kernel − 1) + 1)) / stride + 1`, where the division
//!   truncates towards zero.
//! * blobs: weights `[num_output, C/group, kernel…]`, bias `[num_output]`.
//!
//! `y[o, p] = bias[o] + Σ_c,k w[o, c, k] · x[g·C/group + c, p·stride − pad + k·dilation]`
//! with zeros outside of the bottom.

use super::{Cx, Layer, Taps};
use crate::diag::Result;
use crate::frontend::proto::{ConvolutionParameter, FillerParameter, LayerParameter};
use crate::ir::{Graph, Node, ParamSpec, Shape, Tensor};
use crate::lower::{self, Builder, Conv, Halo, WeightStrides};
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Convolution {
    pub num_output: usize,
    pub group: usize,
    pub bias: bool,
    /// Channel axis as the file gives it; may be negative.
    pub axis: i32,
    pub kernel: PerAxis,
    pub stride: PerAxis,
    pub pad: PerAxis,
    pub dilation: PerAxis,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

/// A number for each spatial axis, as the file gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum PerAxis {
    All(usize),
    Each(Vec<usize>),
}

/// What a convolution does to bottoms of a certain shape. The vectors have one
/// number for each spatial axis, of which there may be none.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// The channel axis.
    pub axis: usize,
    /// Product of the axes before the channel axis.
    pub batch: usize,
    /// Channels of the bottom.
    pub channels: usize,
    pub input: Vec<usize>,
    /// Because sizes truncate towards zero, the only window along an axis may reach
    /// beyond `input + pad`; it reads zeros there.
    pub output: Vec<usize>,
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub pad: Vec<usize>,
    pub dilation: Vec<usize>,
}

/// A refusal before its place in the file is known: field, message.
type Refusal = (&'static str, String);

impl PerAxis {
    fn values(&self) -> &[usize] {
        match self {
            PerAxis::All(value) => std::slice::from_ref(value),
            PerAxis::Each(values) => values,
        }
    }

    fn resolve(&self, axes: usize, field: &'static str) -> Result<Vec<usize>, Refusal> {
        match self {
            PerAxis::All(value) => Ok(vec![*value; axes]),
            PerAxis::Each(values) if values.len() == axes => Ok(values.clone()),
            PerAxis::Each(values) => {
                let n = values.len();
                Err((field, format!("{n} values for {axes} spatial axes")))
            }
        }
    }
}

/// Reads one of the fields that come once for all axes, once for each, or as `*_h` and
/// `*_w`. `default`: what absence means; without one, only nets without spatial axes
/// may leave the field out.
fn per_axis(
    cx: &Cx,
    field: &str,
    repeated: &[u32],
    h_w: [Option<u32>; 2],
    default: Option<usize>,
) -> Result<PerAxis> {
    let sizes = |values: &[u32]| values.iter().map(|&v| cx.size(field, v)).collect();
    if h_w == [None, None] {
        return Ok(match (repeated, default) {
            ([], Some(default)) => PerAxis::All(default),
            ([value], _) => PerAxis::All(cx.size(field, *value)?),
            _ => PerAxis::Each(sizes(repeated)?),
        });
    }
    if !repeated.is_empty() {
        let message = "given for both axes and as *_h and *_w; only one form is allowed";
        return Err(cx.invalid(field, message).into());
    }
    let sizes: Result<Vec<usize>> = sizes(&h_w.map(Option::unwrap_or_default));
    Ok(PerAxis::Each(sizes?))
}

impl Convolution {
    /// Reads `convolution_param`, for Deconvolution as well. `engine` and
    /// `force_nd_im2col` choose between implementations with one result.
    pub(super) fn read(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..)?;
        if cx.bottoms != cx.tops {
            let message = format!("{} bottoms need as many tops, not {}", cx.bottoms, cx.tops);
            return Err(cx.invalid("top", message).into());
        }
        cx.not_in_place()?;
        let kernel_h_w = [p.kernel_h, p.kernel_w];
        let field = "convolution_param.kernel_size";
        let kernel = per_axis(cx, field, &p.kernel_size, kernel_h_w, None)?;
        let field = "convolution_param.stride";
        let stride = per_axis(cx, field, &p.stride, [p.stride_h, p.stride_w], Some(1))?;
        let field = "convolution_param.pad";
        let pad = per_axis(cx, field, &p.pad, [p.pad_h, p.pad_w], Some(0))?;
        let field = "convolution_param.dilation";
        let dilation = per_axis(cx, field, &p.dilation, [None, None], Some(1))?;
        for (what, values) in [
            ("kernel_size", &kernel),
            ("stride", &stride),
            ("dilation", &dilation),
        ] {
            if values.values().contains(&0) {
                let field = format!("convolution_param.{what}");
                return Err(cx.invalid(&field, "must not be 0 on any axis").into());
            }
        }
        let num_output = cx.positive("convolution_param.num_output", p.num_output())?;
        let group = cx.positive("convolution_param.group", p.group())?;
        if !num_output.is_multiple_of(group) {
            let message = format!("num_output {num_output} is not a multiple of group {group}");
            return Err(cx.invalid("convolution_param.group", message).into());
        }
        Ok(Convolution {
            num_output,
            group,
            bias: p.bias_term(),
            axis: p.axis(),
            kernel,
            stride,
            pad,
            dilation,
            weight_filler: p.weight_filler.clone().unwrap_or_default(),
            bias_filler: p.bias_filler.clone().unwrap_or_default(),
        })
    }

    /// Panics unless `infer` has passed for bottoms of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        self.resolve(bottom, conv_size).expect("inferred before")
    }

    /// `size` gives the top's size along one axis from the bottom's size, the extent
    /// of the dilated kernel, stride and pad; all below 2^31 but the extent, below 2^62.
    pub(super) fn resolve(
        &self,
        bottom: &Shape,
        size: fn(i128, i128, i128, i128) -> i128,
    ) -> Result<Geometry, Refusal> {
        let axis = bottom.axis(self.axis);
        let axis = axis.map_err(|e| ("convolution_param.axis", e.to_string()))?;
        let input = bottom[axis + 1..].to_vec();
        let axes = input.len();
        let mut geometry = Geometry {
            axis,
            batch: bottom.count_of(0..axis),
            channels: bottom[axis],
            input,
            output: Vec::new(),
            kernel: self.kernel.resolve(axes, "convolution_param.kernel_size")?,
            stride: self.stride.resolve(axes, "convolution_param.stride")?,
            pad: self.pad.resolve(axes, "convolution_param.pad")?,
            dilation: self.dilation.resolve(axes, "convolution_param.dilation")?,
        };
        if !geometry.channels.is_multiple_of(self.group) {
            let (channels, group) = (geometry.channels, self.group);
            let message = format!("{channels} channels are not a multiple of group {group}");
            return Err(("convolution_param.group", message));
        }
        for i in 0..axes {
            let g = &geometry;
            let [kernel, dilation, input, stride, pad] = [
                g.kernel[i],
                g.dilation[i],
                g.input[i],
                g.stride[i],
                g.pad[i],
            ]
            .map(|v| v as i128);
            let extent = dilation * (kernel - 1) + 1;
            let out = size(input, extent, stride, pad);
            if out <= 0 || out > i128::from(i32::MAX) {
                let axis = axis + 1 + i;
                let message = format!(
                    "axis {axis} of size {input} gives a top of size {out} \
                     (kernel extent {extent}, stride {stride}, pad {pad})"
                );
                return Err(("convolution_param", message));
            }
            geometry.output.push(out as usize);
        }
        Ok(geometry)
    }

    /// Shapes of the tops for what [`Convolution::resolve`] returned.
    pub(super) fn tops(
        &self,
        bottoms: &[Shape],
        geometry: Result<Geometry, Refusal>,
        cx: &Cx,
    ) -> Result<Vec<Shape>> {
        if let Some(other) = bottoms.iter().find(|&b| *b != bottoms[0]) {
            let message = format!(
                "all bottoms must have one shape, not {} and {other}",
                bottoms[0]
            );
            return Err(cx.invalid("bottom", message).into());
        }
        let g = geometry.map_err(|(field, message)| cx.invalid(field, message))?;
        let mut dims = bottoms[0][..g.axis].to_vec();
        dims.push(self.num_output);
        dims.extend(g.output);
        let top = cx.locate("convolution_param", Shape::new(dims))?;
        Ok(vec![top; bottoms.len()])
    }

    /// Weights `[outer, inner, kernel…]` and, if there is one, the bias.
    pub(super) fn specs(
        &self,
        outer: usize,
        inner: usize,
        kernel: &[usize],
    ) -> Result<Vec<ParamSpec>> {
        let mut dims = vec![outer, inner];
        dims.extend(kernel);
        let bias = self.bias.then_some((self.num_output, &self.bias_filler));
        super::weights_and_bias(dims, &self.weight_filler, bias)
    }
}

fn conv_size(input: i128, extent: i128, stride: i128, pad: i128) -> i128 {
    (input + 2 * pad - extent) / stride + 1
}

impl Convolution {
    /// What lowering makes of bottom and top number `i` of a node.
    pub fn conv(&self, graph: &Graph, node: &Node, i: usize) -> Conv {
        let bottom = graph.shape(node.bottoms[i]);
        self.conv_of(node, i, &self.geometry(bottom))
    }

    /// [`Convolution::conv`] with sizes that a deconvolution has found its own way.
    pub(super) fn conv_of(&self, node: &Node, i: usize, g: &Geometry) -> Conv {
        let [kernel, stride, pad, dilation] = [
            (&g.kernel, 1),
            (&g.stride, 1),
            (&g.pad, 0),
            (&g.dilation, 1),
        ]
        .map(|(v, none)| two(&v[g.outer()..], none));
        let mut conv = Conv {
            src: node.bottoms[i],
            dst: node.tops[i],
            axis: g.axis,
            weights: node.params[0],
            strides: WeightStrides::default(),
            bias: self.bias.then(|| node.params[1]),
            inputs: g.channels,
            outputs: self.num_output,
            group: self.group,
            outer: (0..g.outer()).map(|i| g.outer_axis(i)).collect(),
            kernel,
            stride,
            pad,
            dilation,
        };
        conv.strides = WeightStrides::convolution(
            self.num_output / self.group,
            g.channels / self.group,
            conv.kernel_plane(),
        );
        conv
    }
}

/// Height and width of what may have fewer spatial axes.
fn two(values: &[usize], none: usize) -> [usize; 2] {
    let at = |i: usize| values.get(i).copied().unwrap_or(none);
    [at(0), at(1)]
}

impl Geometry {
    /// How many spatial axes there are before height and width.
    fn outer(&self) -> usize {
        self.input.len().saturating_sub(2)
    }

    fn outer_axis(&self, i: usize) -> lower::Axis {
        lower::Axis {
            input: self.input[i],
            output: self.output[i],
            kernel: self.kernel[i],
            stride: self.stride[i],
            pad: self.pad[i],
            dilation: self.dilation[i],
        }
    }

    /// The zeros that the windows read around rows and columns of a bottom. There are
    /// none where lowering copies the bottom: for padding on other axes, and for
    /// channels that are not along axis 1.
    fn halo(&self) -> Halo {
        let outer = self.outer();
        if self.axis != 1 || (0..outer).any(|i| self.outer_axis(i).reach() != (0, 0)) {
            return Halo::default();
        }
        lower::window_halo(
            &self.input[outer..],
            &self.output[outer..],
            &self.kernel[outer..],
            &self.stride[outer..],
            &self.pad[outer..],
            &self.dilation[outer..],
        )
    }
}

impl Layer for Convolution {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        Convolution::read(&param.convolution_param.clone().unwrap_or_default(), cx)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        self.tops(bottoms, self.resolve(&bottoms[0], conv_size), cx)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let g = self.geometry(&bottoms[0]);
        self.specs(self.num_output, g.channels / self.group, &g.kernel)
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape).with_columns();
        let channels = g.channels / self.group;
        let filters = self.num_output / self.group;
        for (bottom, top) in bottoms.iter().zip(tops) {
            each_plane(&mut top.data, g.output.iter().product(), |plane, out| {
                let (n, o) = (plane / self.num_output, plane % self.num_output);
                let first = n * g.channels + o / filters * channels;
                let images = planes(&bottom.data, &g.input, first, channels);
                let filter = planes(&params[0].data, &g.kernel, o * channels, channels);
                let bias = params.get(1).map_or(0.0, |bias| f64::from(bias.data[o]));
                g.correlate(images, filter, bias, out);
            });
        }
    }

    fn taps(&self, bottoms: &[Shape]) -> Option<[Taps; 2]> {
        self.geometry(&bottoms[0]).taps(false)
    }

    fn macs(&self, bottoms: &[Shape], tops: &[Shape]) -> u64 {
        let g = self.geometry(&bottoms[0]);
        let filter = (g.channels / self.group * g.kernel.iter().product::<usize>()) as u64;
        let tops = tops
            .iter()
            .map(|top| filter.saturating_mul(top.count() as u64));
        tops.fold(0, u64::saturating_add)
    }

    fn halo(&self, bottom: &Shape, _top: &Shape) -> Halo {
        self.geometry(bottom).halo()
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        (0..node.tops.len())
            .try_for_each(|i| lower::convolution(b, node, &self.conv(b.graph, node, i)))
    }
}

impl Geometry {
    /// Those of two spatial axes, height and width.
    pub(super) fn taps(&self, transposed: bool) -> Option<[Taps; 2]> {
        (self.kernel.len() == 2).then(|| {
            [0, 1].map(|axis| Taps {
                kernel: self.kernel[axis],
                stride: self.stride[axis],
                pad: self.pad[axis],
                dilation: self.dilation[axis],
                transposed,
            })
        })
    }

    /// The same with a column axis of size 1 if there is no spatial axis at all.
    pub(super) fn with_columns(mut self) -> Self {
        if self.kernel.is_empty() {
            for sizes in [&mut self.input, &mut self.output, &mut self.kernel] {
                sizes.push(1);
            }
            self.stride.push(1);
            self.dilation.push(1);
            self.pad.push(0);
        }
        self
    }

    /// [`Geometry::correlate_rows`], compiled with wider vectors where the CPU has them.
    fn correlate(&self, images: &[f32], filter: &[f32], bias: f64, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512 F.
            return unsafe { self.correlate_avx512(images, filter, bias, out) };
        }
        self.correlate_rows(images, filter, bias, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn correlate_avx512(&self, images: &[f32], filter: &[f32], bias: f64, out: &mut [f32]) {
        self.correlate_rows(images, filter, bias, out);
    }

    /// One plane of a top, row by row, with a row of f64 accumulators. `images` and
    /// `filter` hold one plane of the bottom and of the weights for each channel.
    #[inline(always)]
    fn correlate_rows(&self, images: &[f32], filter: &[f32], bias: f64, out: &mut [f32]) {
        let [width, taps] = [&self.input, &self.kernel].map(|sizes| sizes[sizes.len() - 1]);
        let columns: Vec<Columns> = (0..taps).map(|tap| self.columns(tap)).collect();
        let (image_rows, tap_rows) = (rows(&self.input), rows(&self.kernel));
        let mut acc = vec![0.0; self.output[self.output.len() - 1]];
        for (out_row, out) in out.chunks_mut(acc.len()).enumerate() {
            acc.fill(bias);
            let sources: Vec<Option<usize>> = (0..tap_rows)
                .map(|tap_row| self.source_row(out_row, tap_row))
                .collect();
            for (i, weights) in filter.chunks(taps).enumerate() {
                let row = sources[i % tap_rows].map(|row| i / tap_rows * image_rows + row);
                match row {
                    Some(row) => {
                        let source = &images[row * width..][..width];
                        self.add_row(&mut acc, source, weights, &columns);
                    }
                    None => weights.iter().for_each(|&w| add_padding(&mut acc, w)),
                }
            }
            for (y, &sum) in out.iter_mut().zip(&acc) {
                *y = sum as f32;
            }
        }
    }

    /// Adds one row of the filter over one row of the bottom.
    #[inline(always)]
    fn add_row(&self, acc: &mut [f64], source: &[f32], weights: &[f32], columns: &[Columns]) {
        let stride = self.stride[self.stride.len() - 1];
        for (&weight, Columns { inside, first }) in weights.iter().zip(columns) {
            if !inside.is_empty() {
                let weight = f64::from(weight);
                add_scaled(&mut acc[inside.clone()], &source[*first..], stride, weight);
            }
            add_padding(&mut acc[..inside.start], weight);
            add_padding(&mut acc[inside.end..], weight);
        }
    }

    /// The row of the bottom that a row of the filter meets for a row of the top.
    fn source_row(&self, mut out_row: usize, mut tap_row: usize) -> Option<usize> {
        let (mut row, mut step) = (0, 1);
        for axis in (0..self.kernel.len() - 1).rev() {
            let out = out_row % self.output[axis];
            let tap = tap_row % self.kernel[axis];
            let padded = out * self.stride[axis] + tap * self.dilation[axis];
            let at = padded.checked_sub(self.pad[axis])?;
            if at >= self.input[axis] {
                return None;
            }
            row += at * step;
            step *= self.input[axis];
            out_row /= self.output[axis];
            tap_row /= self.kernel[axis];
        }
        Some(row)
    }

    fn columns(&self, tap: usize) -> Columns {
        let axis = self.kernel.len() - 1;
        let (input, output) = (self.input[axis], self.output[axis]);
        self.meeting(axis, tap, output, input)
    }

    /// For one tap along an axis: which of `steps` multiples of the stride, moved by
    /// the tap's offset, fall into `0..size`, and where the first does.
    pub(super) fn meeting(&self, axis: usize, tap: usize, steps: usize, size: usize) -> Columns {
        let (stride, pad) = (self.stride[axis], self.pad[axis]);
        let offset = tap * self.dilation[axis];
        let start = pad.saturating_sub(offset).div_ceil(stride).min(steps);
        let end = (size + pad)
            .saturating_sub(offset)
            .div_ceil(stride)
            .min(steps);
        let inside = start..end.max(start);
        let first = (start * stride + offset).saturating_sub(pad);
        Columns { inside, first }
    }
}

pub(super) struct Columns {
    pub inside: Range<usize>,
    pub first: usize,
}

/// Number of rows of a plane: the product of all axes but the last.
pub(super) fn rows(sizes: &[usize]) -> usize {
    sizes[..sizes.len() - 1].iter().product()
}

/// `count` neighbouring planes of `sizes`, from number `first` on.
pub(super) fn planes<'a>(
    data: &'a [f32],
    sizes: &[usize],
    first: usize,
    count: usize,
) -> &'a [f32] {
    let plane: usize = sizes.iter().product();
    &data[first * plane..][..count * plane]
}

#[inline(always)]
fn add_scaled(acc: &mut [f64], source: &[f32], stride: usize, weight: f64) {
    if stride == 1 {
        // Said apart because it is what the compiler makes vectors of.
        for (sum, &x) in acc.iter_mut().zip(source) {
            *sum += weight * f64::from(x);
        }
    } else {
        for (sum, &x) in acc.iter_mut().zip(source.iter().step_by(stride)) {
            *sum += weight * f64::from(x);
        }
    }
}

/// Padding is multiplied too: infinite and NaN weights make NaN of its zeros.
fn add_padding(acc: &mut [f64], weight: f32) {
    if !weight.is_finite() {
        acc.fill(f64::NAN);
    }
}

/// Calls `compute` with number and values of each plane of `len` values, in parallel.
pub(super) fn each_plane(data: &mut [f32], len: usize, compute: impl Fn(usize, &mut [f32]) + Sync) {
    if data.is_empty() {
        return;
    }
    let planes = data.len() / len;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = planes.div_ceil(threads);
    let run = |first: usize, part: &mut [f32]| {
        for (i, plane) in part.chunks_mut(len).enumerate() {
            compute(first + i, plane);
        }
    };
    let run = &run;
    std::thread::scope(|scope| {
        for (i, part) in data.chunks_mut(share * len).enumerate() {
            scope.spawn(move || run(i * share, part));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, noise, refusal, tensor, tops};
    use super::*;

    fn param(p: ConvolutionParameter) -> LayerParameter {
        LayerParameter {
            convolution_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn simple(num_output: u32, kernel: u32) -> ConvolutionParameter {
        ConvolutionParameter {
            num_output: Some(num_output),
            kernel_size: vec![kernel],
            bias_term: Some(false),
            ..ConvolutionParameter::default()
        }
    }

    #[test]
    fn example_by_hand() {
        let x = tensor(&[1, 1, 3, 3], [1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        let w = tensor(&[1, 1, 2, 2], [1., 0., 0., -1.]);
        let y = forward::<Convolution>(&param(simple(1, 2)), &[&x], std::slice::from_ref(&w));
        assert_eq!(y[0], tensor(&[1, 1, 2, 2], [-4.; 4]));
        let p = ConvolutionParameter {
            pad: vec![1],
            stride: vec![2],
            bias_term: Some(true),
            ..simple(1, 2)
        };
        let bias = tensor(&[1], [0.5]);
        let y = forward::<Convolution>(&param(p), &[x], &[w, bias]);
        assert_eq!(y[0], tensor(&[1, 1, 2, 2], [-0.5, -2.5, -6.5, -3.5]));
    }

    /// The definition, one output at a time.
    fn direct(g: &Geometry, group: usize, x: &Tensor, w: &Tensor, y: &[usize; 4]) -> f64 {
        let filters = w.shape[0] / group;
        let channels = w.shape[1];
        let mut sum = 0.0;
        for c in 0..channels {
            for kh in 0..g.kernel[0] {
                for kw in 0..g.kernel[1] {
                    let h = y[2] * g.stride[0] + kh * g.dilation[0];
                    let w_ = y[3] * g.stride[1] + kw * g.dilation[1];
                    if h < g.pad[0]
                        || h >= g.pad[0] + g.input[0]
                        || w_ < g.pad[1]
                        || w_ >= g.pad[1] + g.input[1]
                    {
                        continue;
                    }
                    let channel = y[1] / filters * channels + c;
                    let at = ((y[0] * g.channels + channel) * g.input[0] + h - g.pad[0])
                        * g.input[1]
                        + w_
                        - g.pad[1];
                    let weight = ((y[1] * channels + c) * g.kernel[0] + kh) * g.kernel[1] + kw;
                    sum += f64::from(x.data[at]) * f64::from(w.data[weight]);
                }
            }
        }
        sum
    }

    #[test]
    fn agrees_with_the_definition() {
        let p = ConvolutionParameter {
            kernel_size: vec![],
            kernel_h: Some(3),
            kernel_w: Some(2),
            stride: vec![1, 2],
            pad_h: Some(1),
            pad_w: Some(3),
            dilation: vec![2, 1],
            group: Some(2),
            ..simple(6, 1)
        };
        let p = param(p);
        let x = noise(&[2, 4, 7, 9]);
        let w = noise(&[6, 2, 3, 2]);
        let y = forward::<Convolution>(&p, &[&x], std::slice::from_ref(&w)).remove(0);
        assert_eq!(&*y.shape, [2, 6, 5, 7]);
        let (layer, _) = super::super::testing::infer::<Convolution>(&p, &[&x.shape]).unwrap();
        let g = layer.geometry(&x.shape);
        for (i, &y_i) in y.data.iter().enumerate() {
            let at = [i / 210, i / 35 % 6, i / 7 % 5, i % 7];
            assert_eq!(y_i, direct(&g, 2, &x, &w, &at) as f32, "{at:?}");
        }
        assert_eq!(layer.macs(&[x.shape], &[y.shape]), 2 * 6 * 35 * 12);
    }

    #[test]
    fn any_number_of_spatial_axes() {
        assert_eq!(
            tops::<Convolution>(&param(simple(4, 3)), &[&[2, 3, 5, 6, 7]]),
            [[2, 4, 3, 4, 5]]
        );
        let x = noise(&[1, 2, 3, 3, 3]);
        let y = forward::<Convolution>(&param(simple(1, 3)), &[&x], std::slice::from_ref(&x));
        let want: f64 = x.data.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert_close(&y[0].data, &[want as f32], 1e-6);
        let none = ConvolutionParameter {
            kernel_size: vec![],
            ..simple(2, 1)
        };
        let x = tensor(&[1, 3], [1., 2., 3.]);
        let w = tensor(&[2, 3], [1., 1., 1., 0., 0., 2.]);
        assert_eq!(
            forward::<Convolution>(&param(none), &[x], &[w])[0].data,
            [6., 6.]
        );
    }

    #[test]
    fn bottoms_share_weights() {
        let p = LayerParameter {
            top: vec!["a".into(), "b".into()],
            ..param(simple(1, 1))
        };
        let bottoms = [
            tensor(&[1, 1, 1, 2], [1., 2.]),
            tensor(&[1, 1, 1, 2], [3., 4.]),
        ];
        let y = forward::<Convolution>(&p, &bottoms, &[tensor(&[1, 1, 1, 1], [2.])]);
        assert_eq!(
            (&y[0].data[..], &y[1].data[..]),
            (&[2., 4.][..], &[6., 8.][..])
        );
        assert!(
            refusal::<Convolution>(&p, &[&[1, 1, 1, 2], &[1, 1, 2, 1]]).starts_with("bottom: ")
        );
        assert!(refusal::<Convolution>(&p, &[&[1, 1, 1, 2]]).starts_with("top: "));
    }

    #[test]
    fn sizes_truncate_towards_zero() {
        let p = ConvolutionParameter {
            stride: vec![2],
            ..simple(1, 3)
        };
        let x = tensor(&[1, 1, 3, 2], [1.; 6]);
        let y = forward::<Convolution>(&param(p.clone()), &[x], &[tensor(&[1, 1, 3, 3], [1.; 9])]);
        assert_eq!(y[0], tensor(&[1, 1, 1, 1], [6.]));
        assert!(refusal::<Convolution>(&param(p), &[&[1, 1, 3, 1]]).contains("top of size 0"));
    }

    #[test]
    fn infinite_weights_over_padding_give_nan() {
        let p = ConvolutionParameter {
            pad: vec![1],
            ..simple(1, 3)
        };
        let mut w = tensor(&[1, 1, 3, 3], [0.; 9]);
        w.data[1] = f32::INFINITY;
        let y = forward::<Convolution>(&param(p), &[tensor(&[1, 1, 2, 2], [1.; 4])], &[w]);
        assert!(y[0].data[0].is_nan() && y[0].data[1].is_nan());
        assert_eq!(y[0].data[2..], [f32::INFINITY; 2]);
    }

    #[test]
    fn bad_parameters() {
        let shape: &[&[usize]] = &[&[1, 4, 8, 8]];
        type Change = fn(&mut ConvolutionParameter);
        let cases: [(&str, Change); 14] = [
            ("num_output: must not be 0", |p| p.num_output = None),
            ("num_output: 4294967295 is larger", |p| {
                p.num_output = Some(u32::MAX)
            }),
            ("group: must not be 0", |p| p.group = Some(0)),
            ("group: num_output 6 is not", |p| p.group = Some(4)),
            ("group: 4 channels are not", |p| p.group = Some(3)),
            ("stride: must not be 0", |p| p.stride = vec![0]),
            ("stride: must not be 0", |p| p.stride_h = Some(2)),
            ("dilation: must not be 0", |p| p.dilation = vec![1, 0]),
            ("kernel_size: must not be 0", |p| p.kernel_size = vec![0]),
            ("kernel_size: 3 values", |p| p.kernel_size = vec![1; 3]),
            ("kernel_size: 0 values", |p| p.kernel_size.clear()),
            ("kernel_size: given", |p| p.kernel_h = Some(3)),
            ("pad: 4294967295 is larger", |p| p.pad = vec![u32::MAX]),
            ("axis: axis 4 is outside", |p| p.axis = Some(4)),
        ];
        for (want, change) in cases {
            let mut p = simple(6, 3);
            change(&mut p);
            let got = refusal::<Convolution>(&param(p), shape);
            assert!(
                got.starts_with(&format!("convolution_param.{want}")),
                "{got}"
            );
        }
        for (kernel, dilation, pad) in [(9, 1, 0), (2, 1 << 30, 0), (1, 1, i32::MAX as u32)] {
            let p = ConvolutionParameter {
                dilation: vec![dilation],
                pad: vec![pad],
                ..simple(1, kernel)
            };
            let got = refusal::<Convolution>(&param(p), shape);
            assert!(
                got.starts_with("convolution_param: axis 2 of size 8 gives"),
                "{got}"
            );
        }
        let in_place = LayerParameter {
            bottom: vec!["x".into()],
            top: vec!["x".into()],
            ..param(simple(4, 1))
        };
        assert!(refusal::<Convolution>(&in_place, shape).starts_with("top: "));
    }
}
