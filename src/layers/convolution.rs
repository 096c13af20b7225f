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
//!
//! Of forks:
//! * `DepthwiseConvolution` (MobileNet-YOLO) is a convolution under another name: without
//!   `group` it is dense.
//! * `ConvolutionDepthwise` has a group for each channel; `num_output` counts only where
//!   `group` is given too (Synopsys), else there are as many outputs as channels.
//! * `Convolution3D` (C3D, MNN) is over length, height and width: `kernel_depth`,
//!   `temporal_stride` and `temporal_pad` are those of the length, `kernel_size`, `stride` and
//!   `pad` of the other two.
//! * `NdConvolution` (video-caffe) gives them as `kernel_shape`, `stride_shape` and
//!   `pad_shape`, a number for each axis.
//! * `hole` (DeepLab) is the dilation; `HoleConvolution` (PSPNet) cannot do without it, and is
//!   over height and width. `pad_l`, `pad_r`, `pad_t` and `pad_b` (Synopsys) are a
//!   pad for each side; `pad_type` 1 makes `ceil(in / stride)` outputs, with half of
//!   `max(kernel − stride, 0)` as pad (`max(kernel − in mod stride, 0)` where the stride
//!   does not divide the size), rounded down.

use super::concat::axis_of;
use super::{Cx, Layer, Taps};
use crate::diag::{Errors, Result};
use crate::frontend::proto::{
    BlobShape, Convolution3DParameter, ConvolutionParameter, FillerParameter, LayerParameter,
};
use crate::ir::{Graph, Node, ParamSpec, Shape, Tensor};
use crate::lower::{self, Builder, Conv, Halo, WeightStrides};
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Convolution {
    /// None: as many as the bottom has channels.
    pub num_output: Option<usize>,
    /// None: one for each channel.
    pub group: Option<usize>,
    pub bias: bool,
    /// Channel axis as the file gives it; may be negative.
    pub axis: i32,
    pub kernel: PerAxis,
    pub stride: PerAxis,
    pub pad: Pad,
    pub dilation: PerAxis,
    /// How many axes the bottom must have, if that is not free.
    pub axes: Option<usize>,
    pub weight_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

/// A number for each spatial axis, as the file gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum PerAxis {
    All(usize),
    Each(Vec<usize>),
}

/// Zeros around the bottom.
#[derive(Clone, Debug, PartialEq)]
pub enum Pad {
    /// As many after as before.
    Even(PerAxis),
    /// Along height and width.
    Sides {
        before: [usize; 2],
        after: [usize; 2],
    },
    /// For `ceil(in / stride)` outputs.
    Same,
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
    /// Channels of the top.
    pub outputs: usize,
    pub group: usize,
    pub input: Vec<usize>,
    /// Because sizes truncate towards zero, the only window along an axis may reach
    /// beyond `input + pad`; it reads zeros there.
    pub output: Vec<usize>,
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    /// Before the bottom; what is read after it follows from `output`.
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

/// A number for each axis, in the form of a shape.
fn per_axis_of(cx: &Cx, field: &str, shape: &BlobShape) -> Result<PerAxis> {
    let size = |&dim: &i64| match u32::try_from(dim) {
        Ok(value) => cx.size(field, value),
        Err(_) => Err(cx.invalid(field, format!("{dim} is no size")).into()),
    };
    let sizes: Result<Vec<usize>> = shape.dim.iter().map(size).collect();
    Ok(PerAxis::Each(sizes?))
}

/// The pad, in one of its three forms.
fn read_pad(p: &ConvolutionParameter, cx: &Cx) -> Result<Pad> {
    let even = "convolution_param.pad";
    let has_even = !p.pad.is_empty() || p.pad_h() != 0 || p.pad_w() != 0;
    let sides = [p.pad_t(), p.pad_l(), p.pad_b(), p.pad_r()];
    let same = match p.pad_type() {
        0 => false,
        1 => true,
        other => {
            let message = format!("{other}: neither 0 nor 1 (as much as TensorFlow's SAME)");
            return Err(cx.invalid("convolution_param.pad_type", message).into());
        }
    };
    let has_sides = sides != [0; 4];
    if usize::from(has_even) + usize::from(has_sides) + usize::from(same) > 1 {
        let message = "only one of pad, pad_l … pad_b and pad_type is allowed";
        let field = if has_even {
            even
        } else {
            "convolution_param.pad_l"
        };
        return Err(cx.invalid(field, message).into());
    }
    if same {
        return Ok(Pad::Same);
    }
    if has_sides {
        let mut size = [0; 4];
        for ((size, side), name) in size.iter_mut().zip(sides).zip(["t", "l", "b", "r"]) {
            let negative = |_| {
                let message = "must not be negative";
                cx.invalid(&format!("convolution_param.pad_{name}"), message)
            };
            *size = usize::try_from(side).map_err(negative)?;
        }
        let [t, l, b, r] = size;
        return Ok(Pad::Sides {
            before: [t, l],
            after: [b, r],
        });
    }
    let pad = per_axis(cx, even, &p.pad, [p.pad_h, p.pad_w], Some(0))?;
    Ok(Pad::Even(pad))
}

/// `dilation`, or `hole`.
fn read_dilation(p: &ConvolutionParameter, cx: &Cx) -> Result<PerAxis> {
    let (field, hole) = ("convolution_param.dilation", "convolution_param.hole");
    if p.hole.is_empty() && (p.hole_h, p.hole_w) == (None, None) {
        return per_axis(cx, field, &p.dilation, [None, None], Some(1));
    }
    if !p.dilation.is_empty() {
        let message = "is another name of dilation: only one is allowed";
        return Err(cx.invalid(hole, message).into());
    }
    per_axis(cx, hole, &p.hole, [p.hole_h, p.hole_w], Some(1))
}

impl Convolution {
    /// What the layer types have in common. `engine` and `force_nd_im2col` choose between
    /// implementations with one result.
    fn new(
        p: &ConvolutionParameter,
        [kernel, stride, dilation]: [PerAxis; 3],
        pad: Pad,
        cx: &Cx,
    ) -> Result<Self> {
        cx.counts(1.., 1..)?;
        if cx.bottoms != cx.tops {
            let message = format!("{} bottoms need as many tops, not {}", cx.bottoms, cx.tops);
            return Err(cx.invalid("top", message).into());
        }
        cx.not_in_place()?;
        for (what, values) in [
            ("kernel_size", &kernel),
            ("stride", &stride),
            ("dilation", &dilation),
        ] {
            if values.values().contains(&0) {
                let field = format!("convolution_param.{what}");
                return Err(cx.wrong(&field, "must not be 0 on any axis").into());
            }
        }
        let num_output = cx.positive("convolution_param.num_output", p.num_output())?;
        let group = cx.positive("convolution_param.group", p.group())?;
        if !num_output.is_multiple_of(group) {
            let message = format!("num_output {num_output} is not a multiple of group {group}");
            return Err(cx.invalid("convolution_param.group", message).into());
        }
        Ok(Convolution {
            num_output: Some(num_output),
            group: Some(group),
            bias: p.bias_term(),
            axis: p.axis(),
            kernel,
            stride,
            pad,
            dilation,
            axes: None,
            weight_filler: p.weight_filler.clone().unwrap_or_default(),
            bias_filler: p.bias_filler.clone().unwrap_or_default(),
        })
    }

    /// Reads `convolution_param`, for Deconvolution as well.
    pub(super) fn read(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        for (field, given) in [
            ("kernel_depth", p.kernel_depth.is_some()),
            ("temporal_stride", p.temporal_stride.is_some()),
            ("temporal_pad", p.temporal_pad.is_some()),
            ("kernel_shape", p.kernel_shape.is_some()),
            ("stride_shape", p.stride_shape.is_some()),
            ("pad_shape", p.pad_shape.is_some()),
        ] {
            if given {
                let field = format!("convolution_param.{field}");
                let message = "only Convolution3D and NdConvolution have this";
                return Err(cx.unsupported(&field, message).into());
            }
        }
        let kernel_h_w = [p.kernel_h, p.kernel_w];
        let field = "convolution_param.kernel_size";
        let kernel = per_axis(cx, field, &p.kernel_size, kernel_h_w, None)?;
        let field = "convolution_param.stride";
        let stride = per_axis(cx, field, &p.stride, [p.stride_h, p.stride_w], Some(1))?;
        let dilation = read_dilation(p, cx)?;
        let pad = read_pad(p, cx)?;
        Convolution::new(p, [kernel, stride, dilation], pad, cx)
    }

    /// `ConvolutionDepthwise`.
    fn read_depthwise(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        let filled = ConvolutionParameter {
            num_output: match p.group {
                Some(_) => p.num_output,
                None => Some(1),
            },
            group: None,
            ..p.clone()
        };
        let convolution = Convolution::read(&filled, cx)?;
        Ok(Convolution {
            num_output: p.group.and(convolution.num_output),
            group: None,
            ..convolution
        })
    }

    /// `Convolution3D`: three spatial axes, the last two with the same numbers.
    fn read_3d(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        let one = |field: &str, values: &[u32], h_w: [Option<u32>; 2], default| {
            let field = format!("convolution_param.{field}");
            match per_axis(cx, &field, values, h_w, default)? {
                PerAxis::All(value) => Ok(value),
                PerAxis::Each(_) => {
                    let message = "needs one value, for height and width";
                    Err(Errors::from(cx.invalid(&field, message)))
                }
            }
        };
        let three = |depth, plane| PerAxis::Each(vec![depth, plane, plane]);
        let field = "convolution_param.kernel_depth";
        let depth = cx.positive(field, p.kernel_depth.unwrap_or_default())?;
        let kernel = one(
            "kernel_size",
            &p.kernel_size,
            [p.kernel_h, p.kernel_w],
            None,
        )?;
        let step = cx.size("convolution_param.temporal_stride", p.temporal_stride())?;
        let stride = one("stride", &p.stride, [p.stride_h, p.stride_w], Some(1))?;
        let before = cx.size("convolution_param.temporal_pad", p.temporal_pad())?;
        let pad = one("pad", &p.pad, [p.pad_h, p.pad_w], Some(0))?;
        let sizes = [
            three(depth, kernel),
            three(step, stride),
            read_dilation(p, cx)?,
        ];
        let convolution = Convolution::new(p, sizes, Pad::Even(three(before, pad)), cx)?;
        Ok(Convolution {
            axes: Some(5),
            ..convolution
        })
    }

    /// `NdConvolution`.
    fn read_nd(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        let shaped = |field: &str, shape: &Option<BlobShape>, default| match shape {
            Some(shape) => per_axis_of(cx, &format!("convolution_param.{field}"), shape),
            None => Ok(default),
        };
        let kernel = shaped("kernel_shape", &p.kernel_shape, PerAxis::Each(Vec::new()))?;
        let stride = shaped("stride_shape", &p.stride_shape, PerAxis::All(1))?;
        let pad = shaped("pad_shape", &p.pad_shape, PerAxis::All(0))?;
        let sizes = [kernel, stride, read_dilation(p, cx)?];
        Convolution::new(p, sizes, Pad::Even(pad), cx)
    }

    /// `HoleConvolution`.
    fn read_hole(p: &ConvolutionParameter, cx: &Cx) -> Result<Self> {
        if p.hole.is_empty() && p.hole_h.is_none() && p.hole_w.is_none() {
            let message = "is missing: use Convolution instead";
            return Err(cx.invalid("convolution_param.hole", message).into());
        }
        Ok(Convolution {
            axes: Some(4),
            ..Convolution::read(p, cx)?
        })
    }

    /// Panics unless `infer` has passed for bottoms of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        self.resolve(bottom, conv_size).expect("inferred before")
    }

    /// `size` gives the top's size along one axis from the bottom's size, the extent
    /// of the dilated kernel, the stride and the pad of both sides; all below 2^32 but the
    /// extent, below 2^62.
    pub(super) fn resolve(
        &self,
        bottom: &Shape,
        size: fn(i128, i128, i128, i128) -> i128,
    ) -> Result<Geometry, Refusal> {
        let axis = bottom.axis(self.axis);
        let axis = axis.map_err(|e| ("convolution_param.axis", e.to_string()))?;
        if let Some(axes) = self.axes.filter(|&axes| axes != bottom.len()) {
            let message = format!("a bottom of {axes} axes is needed, not {bottom}");
            return Err(("bottom", message));
        }
        let input = bottom[axis + 1..].to_vec();
        let axes = input.len();
        let channels = bottom[axis];
        let kernel = self.kernel.resolve(axes, "convolution_param.kernel_size")?;
        let stride = self.stride.resolve(axes, "convolution_param.stride")?;
        let (pad, after) = self.pad.resolve(&input, &kernel, &stride)?;
        let mut geometry = Geometry {
            axis,
            batch: bottom.count_of(0..axis),
            channels,
            outputs: self.num_output.unwrap_or(channels),
            group: self.group.unwrap_or(channels),
            input,
            output: Vec::new(),
            kernel,
            stride,
            pad,
            dilation: self.dilation.resolve(axes, "convolution_param.dilation")?,
        };
        let (outputs, group) = (geometry.outputs, geometry.group);
        if outputs == 0 {
            return Err(("bottom", format!("no channels in {bottom}")));
        }
        for (what, count) in [("channels", channels), ("outputs", outputs)] {
            if !count.is_multiple_of(group) {
                let message = format!("{count} {what} are not a multiple of group {group}");
                return Err(("convolution_param.group", message));
            }
        }
        for (i, after) in after.into_iter().enumerate() {
            let g = &geometry;
            let [kernel, dilation, input, stride, pads] = [
                g.kernel[i],
                g.dilation[i],
                g.input[i],
                g.stride[i],
                g.pad[i] + after,
            ]
            .map(|v| v as i128);
            let extent = dilation * (kernel - 1) + 1;
            let out = match self.pad {
                Pad::Same => (input + stride - 1) / stride,
                _ => size(input, extent, stride, pads),
            };
            if out <= 0 || out > i128::from(i32::MAX) {
                let axis = axis + 1 + i;
                let message = format!(
                    "axis {axis} of size {input} gives a top of size {out} \
                     (kernel extent {extent}, stride {stride}, pad {})",
                    g.pad[i]
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
        dims.push(g.outputs);
        dims.extend(g.output);
        let top = cx.locate("convolution_param", Shape::new(dims))?;
        Ok(vec![top; bottoms.len()])
    }

    /// Weights `[outer, inner, kernel…]` and, if there is one, the bias.
    pub(super) fn specs(&self, outer: usize, inner: usize, g: &Geometry) -> Result<Vec<ParamSpec>> {
        let mut dims = vec![outer, inner];
        dims.extend(&g.kernel);
        let bias = self.bias.then_some((g.outputs, &self.bias_filler));
        super::weights_and_bias(dims, &self.weight_filler, bias)
    }
}

fn conv_size(input: i128, extent: i128, stride: i128, pads: i128) -> i128 {
    (input + pads - extent) / stride + 1
}

impl Pad {
    /// Before and after, along each axis.
    fn resolve(
        &self,
        input: &[usize],
        kernel: &[usize],
        stride: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>), Refusal> {
        Ok(match self {
            Pad::Even(pad) => {
                let pad = pad.resolve(input.len(), "convolution_param.pad")?;
                (pad.clone(), pad)
            }
            Pad::Sides { before, after } if input.len() == 2 => (before.to_vec(), after.to_vec()),
            Pad::Sides { .. } => {
                let message = format!("4 sides for {} spatial axes", input.len());
                return Err(("convolution_param.pad_l", message));
            }
            Pad::Same => {
                let axis = |i: usize| {
                    let taken = match input[i] % stride[i] {
                        0 => stride[i],
                        rest => rest,
                    };
                    kernel[i].saturating_sub(taken)
                };
                let pads: Vec<usize> = (0..input.len()).map(axis).collect();
                let before: Vec<usize> = pads.iter().map(|pads| pads / 2).collect();
                let after = pads.iter().zip(&before).map(|(p, before)| p - before);
                (before.clone(), after.collect())
            }
        })
    }
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
            outputs: g.outputs,
            group: g.group,
            outer: (0..g.outer()).map(|i| g.outer_axis(i)).collect(),
            kernel,
            stride,
            pad,
            dilation,
        };
        conv.strides = WeightStrides::convolution(
            g.outputs / g.group,
            g.channels / g.group,
            conv.kernel_plane(),
        );
        conv
    }
}

/// What `convolution3d_param` says, as `convolution_param` says it.
fn planar(p: &Convolution3DParameter) -> ConvolutionParameter {
    ConvolutionParameter {
        num_output: p.num_output,
        bias_term: p.bias_term,
        pad: p.pad.into_iter().collect(),
        kernel_size: p.kernel_size.into_iter().collect(),
        group: p.group,
        kernel_depth: p.kernel_depth,
        stride: p.stride.into_iter().collect(),
        temporal_stride: p.temporal_stride,
        weight_filler: p.weight_filler.clone(),
        bias_filler: p.bias_filler.clone(),
        temporal_pad: p.temporal_pad,
        ..ConvolutionParameter::default()
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
    fn claims() -> &'static [&'static str] {
        &[
            "convolution_param.hole",
            "convolution_param.hole_h",
            "convolution_param.hole_w",
            "convolution_param.pad_l",
            "convolution_param.pad_r",
            "convolution_param.pad_t",
            "convolution_param.pad_b",
            "convolution_param.pad_type",
            "convolution_param.kernel_depth",
            "convolution_param.temporal_stride",
            "convolution_param.temporal_pad",
            "convolution_param.kernel_shape",
            "convolution_param.stride_shape",
            "convolution_param.pad_shape",
            "convolution3d_param",
            "parameter_compress",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.convolution_param.clone().unwrap_or_default();
        if param.parameter_compress() {
            let message = "weights in other files (quantization_kmean_cluster_centers_file)";
            return Err(cx.unsupported("parameter_compress", message).into());
        }
        match (param.r#type(), &param.convolution3d_param) {
            ("Convolution3D", Some(p)) => Convolution::read_3d(&planar(p), cx),
            ("Convolution3D", None) => Convolution::read_3d(&p, cx),
            (_, Some(_)) => {
                let message = "only Convolution3D has this";
                Err(cx.unsupported("convolution3d_param", message).into())
            }
            ("ConvolutionDepthwise", _) => Convolution::read_depthwise(&p, cx),
            ("NdConvolution", _) => Convolution::read_nd(&p, cx),
            ("HoleConvolution", _) => Convolution::read_hole(&p, cx),
            _ => Convolution::read(&p, cx),
        }
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        self.tops(bottoms, self.resolve(&bottoms[0], conv_size), cx)
    }

    /// Along the batch axes.
    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        (axis < axis_of(self.axis, &bottoms[0])).then_some(axis)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let g = self.geometry(&bottoms[0]);
        self.specs(g.outputs, g.channels / g.group, &g)
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape).with_columns();
        let channels = g.channels / g.group;
        let filters = g.outputs / g.group;
        for (bottom, top) in bottoms.iter().zip(tops) {
            each_plane(&mut top.data, g.output.iter().product(), |plane, out| {
                let (n, o) = (plane / g.outputs, plane % g.outputs);
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
        let filter = (g.channels / g.group * g.kernel.iter().product::<usize>()) as u64;
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

    fn of_type(r#type: &str, p: ConvolutionParameter) -> LayerParameter {
        LayerParameter {
            r#type: Some(r#type.into()),
            ..param(p)
        }
    }

    #[test]
    fn holes_are_the_dilation() {
        let p = |hole: &[u32]| ConvolutionParameter {
            num_output: Some(1),
            kernel_size: vec![2],
            hole: hole.to_vec(),
            bias_term: Some(false),
            ..ConvolutionParameter::default()
        };
        let x = tensor(&[1, 1, 3, 3], [1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        let w = tensor(&[1, 1, 2, 2], [1., 1., 1., 1.]);
        let y = forward::<Convolution>(&of_type("HoleConvolution", p(&[2])), &[&x], &[w]);
        assert_eq!(y[0], tensor(&[1, 1, 1, 1], [1. + 3. + 7. + 9.]));
        let got = refusal::<Convolution>(&of_type("HoleConvolution", p(&[])), &[&[1, 1, 3, 3]]);
        assert!(got.starts_with("convolution_param.hole: "), "{got}");
        let got = refusal::<Convolution>(&of_type("HoleConvolution", p(&[1])), &[&[1, 1, 3]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }

    #[test]
    fn weights_are_not_assembled() {
        let compressed = |compress| LayerParameter {
            parameter_compress: Some(compress),
            ..param(ConvolutionParameter {
                num_output: Some(1),
                kernel_size: vec![1],
                quantization_kmean_num_cluster: Some(64),
                ..ConvolutionParameter::default()
            })
        };
        assert_eq!(
            tops::<Convolution>(&compressed(false), &[&[1, 1, 2, 2]]),
            [[1, 1, 2, 2]]
        );
        let got = refusal::<Convolution>(&compressed(true), &[&[1, 1, 2, 2]]);
        assert!(got.starts_with("parameter_compress: "), "{got}");
    }

    #[test]
    fn a_pad_for_each_side() {
        let p = ConvolutionParameter {
            pad_r: Some(1),
            pad_t: Some(2),
            ..simple(1, 2)
        };
        let x = tensor(&[1, 1, 2, 2], [1., 2., 3., 4.]);
        let ones = tensor(&[1, 1, 2, 2], [1.; 4]);
        let y = forward::<Convolution>(&param(p), &[&x], std::slice::from_ref(&ones));
        assert_eq!(y[0], tensor(&[1, 1, 3, 2], [0., 0., 3., 2., 10., 6.]));
        let same = |kernel, stride| ConvolutionParameter {
            pad_type: Some(1),
            stride: vec![stride],
            ..simple(1, kernel)
        };
        let y = forward::<Convolution>(&param(same(2, 1)), &[&x], &[ones]);
        assert_eq!(y[0], tensor(&[1, 1, 2, 2], [10., 6., 7., 4.]));
        for (size, kernel, stride, pad) in [(7, 3, 2, 1), (8, 3, 2, 0), (8, 5, 2, 1), (5, 1, 3, 0)]
        {
            let dims: &[usize] = &[1, 1, size, size];
            let (layer, tops) =
                super::super::testing::infer::<Convolution>(&param(same(kernel, stride)), &[dims])
                    .unwrap();
            assert_eq!(tops[0][2], size.div_ceil(stride as usize));
            assert_eq!(layer.geometry(&Shape::new(dims).unwrap()).pad, [pad; 2]);
        }
    }

    #[test]
    fn forms_of_the_pad_exclude_each_other() {
        let shape: &[&[usize]] = &[&[1, 1, 8, 8]];
        type Change = fn(&mut ConvolutionParameter);
        let cases: [(&str, Change); 6] = [
            ("pad: only one", |p| (p.pad, p.pad_l) = (vec![1], Some(1))),
            ("pad: only one", |p| {
                (p.pad_h, p.pad_type) = (Some(1), Some(1))
            }),
            ("pad_l: only one", |p| {
                (p.pad_b, p.pad_type) = (Some(1), Some(1))
            }),
            ("pad_b: must not be negative", |p| p.pad_b = Some(-1)),
            ("pad_type: 2", |p| p.pad_type = Some(2)),
            ("hole: is another name", |p| {
                (p.hole, p.dilation) = (vec![2], vec![2])
            }),
        ];
        for (want, change) in cases {
            let mut p = simple(1, 3);
            change(&mut p);
            let got = refusal::<Convolution>(&param(p), shape);
            assert!(
                got.starts_with(&format!("convolution_param.{want}")),
                "{got}"
            );
        }
    }

    #[test]
    fn holes_are_dilation() {
        let x = noise(&[1, 2, 7, 8]);
        let w = noise(&[3, 2, 3, 3]);
        let run = |p| forward::<Convolution>(&param(p), &[&x], std::slice::from_ref(&w)).remove(0);
        let dilated = run(ConvolutionParameter {
            dilation: vec![2, 3],
            ..simple(3, 3)
        });
        let holes = run(ConvolutionParameter {
            hole_h: Some(2),
            hole_w: Some(3),
            ..simple(3, 3)
        });
        assert_eq!((&*holes.shape, &holes), (&[1, 3, 3, 2][..], &dilated));
    }

    #[test]
    fn depthwise_by_type() {
        let x = tensor(&[1, 2, 1, 2], [1., 2., 3., 4.]);
        let w = tensor(&[2, 1, 1, 1], [10., 100.]);
        let p = of_type("ConvolutionDepthwise", simple(7, 1));
        let y = forward::<Convolution>(&p, &[&x], &[w]);
        assert_eq!(y[0], tensor(&[1, 2, 1, 2], [10., 20., 300., 400.]));
        let grouped = ConvolutionParameter {
            group: Some(2),
            ..simple(4, 1)
        };
        let p = of_type("ConvolutionDepthwise", grouped);
        assert_eq!(tops::<Convolution>(&p, &[&[1, 2, 1, 2]]), [[1, 4, 1, 2]]);
        assert!(refusal::<Convolution>(&p, &[&[1, 3, 1, 2]]).contains("4 outputs"));
        let dense = of_type("DepthwiseConvolution", simple(7, 1));
        assert_eq!(
            tops::<Convolution>(&dense, &[&[1, 2, 1, 2]]),
            [[1, 7, 1, 2]]
        );
    }

    #[test]
    fn length_height_and_width() {
        let p = ConvolutionParameter {
            kernel_depth: Some(2),
            temporal_stride: Some(2),
            temporal_pad: Some(1),
            ..simple(1, 1)
        };
        let x = tensor(&[1, 1, 4, 1, 1], [1., 2., 3., 4.]);
        let w = tensor(&[1, 1, 2, 1, 1], [1., 10.]);
        let c3d = of_type("Convolution3D", p.clone());
        let y = forward::<Convolution>(&c3d, &[&x], std::slice::from_ref(&w));
        assert_eq!(y[0], tensor(&[1, 1, 3, 1, 1], [10., 32., 4.]));
        let own_message = LayerParameter {
            r#type: Some("Convolution3D".into()),
            convolution3d_param: Some(Box::new(Convolution3DParameter {
                num_output: Some(1),
                bias_term: Some(false),
                kernel_size: Some(1),
                kernel_depth: Some(2),
                temporal_stride: Some(2),
                temporal_pad: Some(1),
                ..Convolution3DParameter::default()
            })),
            ..LayerParameter::default()
        };
        assert_eq!(
            forward::<Convolution>(&own_message, &[&x], std::slice::from_ref(&w)),
            y
        );
        let shape = |dims: &[i64]| Some(BlobShape { dim: dims.to_vec() });
        let nd = ConvolutionParameter {
            num_output: Some(1),
            bias_term: Some(false),
            kernel_shape: shape(&[2, 1, 1]),
            stride_shape: shape(&[2, 1, 1]),
            pad_shape: shape(&[1, 0, 0]),
            ..ConvolutionParameter::default()
        };
        let nd = of_type("NdConvolution", nd);
        assert_eq!(forward::<Convolution>(&nd, &[&x], &[w]), y);
        assert!(refusal::<Convolution>(&c3d, &[&[1, 1, 4, 4]]).starts_with("bottom: "));
        let got = refusal::<Convolution>(&param(p), &[&[1, 1, 4, 4]]);
        assert!(
            got.starts_with("convolution_param.kernel_depth: only"),
            "{got}"
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
            ("num_output: `num_output` must not be 0", |p| {
                p.num_output = None
            }),
            ("num_output: 4294967295 is larger", |p| {
                p.num_output = Some(u32::MAX)
            }),
            ("group: `group` must not be 0", |p| p.group = Some(0)),
            ("group: num_output 6 is not", |p| p.group = Some(4)),
            ("group: 4 channels are not", |p| p.group = Some(3)),
            ("stride: `stride` must not be 0", |p| p.stride = vec![0]),
            ("stride: `stride` must not be 0", |p| p.stride_h = Some(2)),
            ("dilation: `dilation` must not be 0", |p| {
                p.dilation = vec![1, 0]
            }),
            ("kernel_size: `kernel_size` must not be 0", |p| {
                p.kernel_size = vec![0]
            }),
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
