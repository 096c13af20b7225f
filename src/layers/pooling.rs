//! `Pooling`: maximum or average of each window, per channel
//! (Caffe `pooling_layer.cpp`).
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, C, OH, OW]`; MAX may have a second top of that
//!   shape, the place `h·W + w` of each maximum as a float, −1 if there is none.
//! * `OH = round((H + 2·pad − kernel) / stride) + 1` in f32, `round_mode` CEIL or FLOOR.
//!   If there is padding on either axis, a last window that would start at
//!   `H + pad` or beyond is dropped, on both axes. Without padding it stays, and may
//!   be empty.
//! * MAX starts from −FLT_MAX and takes what is larger: of equals the first; never NaN
//!   or −∞; an empty window gives −FLT_MAX.
//! * AVE divides by the window's area after clipping it to `H + pad`: padding counts. The
//!   area of an empty window is 0 or negative, so NaN or 0 comes out.
//!
//! Of forks:
//! * `ceil_mode: false` is `round_mode: FLOOR`; a `round_mode` wins over it.
//! * `pad_l`, `pad_r`, `pad_t` and `pad_b` (Synopsys) are a pad for each side; the last
//!   window is dropped as above, with the pad before. `pad_type` 1 makes `ceil(H / stride)`
//!   windows, with a pad as in `Convolution`.
//! * AVE_EXC_PAD (Synopsys) divides by the area inside of the bottom.
//! * `Pooling3D` (C3D) is over length, height and width of `[N, C, L, H, W]`, rounds up and
//!   drops no window; padding is for AVE, in height and width.
//! * `NdPooling` (video-caffe, which runs it by cuDNN) gives a kernel and a stride for each of
//!   two or three axes as `kernel_shape` and `stride_shape`, and rounds up; AVE where no
//!   window reaches beyond the bottom.

use super::{Cx, Layer, Taps};
use crate::diag::Result;
use crate::frontend::proto::pooling_parameter::{PoolMethod, RoundMode};
use crate::frontend::proto::{BlobShape, LayerParameter, Pooling3DParameter, PoolingParameter};
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};
use std::ops::Range;

/// Vectors have a number for each axis: height and width, or length before them.
#[derive(Clone, Debug)]
pub struct Pooling {
    pub method: Method,
    /// AVE divides by what of the window is inside.
    pub exclude_pad: bool,
    /// `None`: the whole picture (`global_pooling`).
    pub kernel: Option<Vec<usize>>,
    pub stride: Vec<usize>,
    pub pad: Pad,
    pub round: Round,
    /// How many axes the windows have.
    pub axes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Max,
    Ave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Ceil,
    Floor,
    /// There is no need to: no window may reach beyond the bottom.
    Whole,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Pad {
    Sides {
        before: Vec<usize>,
        after: Vec<usize>,
    },
    /// For `ceil(size / stride)` windows.
    Same,
}

impl Pad {
    /// As many after as before, for height and width.
    pub fn even(pad: [usize; 2]) -> Pad {
        Pad::Sides {
            before: pad.into(),
            after: pad.into(),
        }
    }
}

/// What a pooling does to bottoms of a certain shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// Outermost first.
    pub axes: Vec<Axis>,
    pub exclude_pad: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Before and after.
    pub pad: [usize; 2],
}

/// One window along one axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The part inside of the bottom; may be empty.
    pub start: usize,
    pub end: usize,
    /// The length that AVE counts: padding included unless it is excluded, overhang
    /// beyond it not. Zero or negative for a window outside.
    pub counted: i64,
}

impl Window {
    fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

impl Geometry {
    /// Window number `out` along an axis.
    pub fn window(&self, axis: usize, out: usize) -> Window {
        let Axis {
            input,
            kernel,
            stride,
            pad: [before, after],
            ..
        } = self.axes[axis];
        let [input, kernel, stride, before, after] =
            [input, kernel, stride, before, after].map(|v| v as i64);
        let start = out as i64 * stride - before;
        let end = (start + kernel).min(input + after);
        let counted = match self.exclude_pad {
            true => end.min(input) - start.max(0),
            false => end - start,
        };
        Window {
            start: start.clamp(0, input) as usize,
            end: end.clamp(0, input) as usize,
            counted,
        }
    }

    fn sizes(&self, of: fn(&Axis) -> usize) -> Vec<usize> {
        self.axes.iter().map(of).collect()
    }
}

/// A pair of fields that come as one or as `*_h` and `*_w`, both of which are needed.
fn pair(
    cx: &Cx,
    field: &str,
    one: Option<u32>,
    h_w: [Option<u32>; 2],
) -> Result<Option<[usize; 2]>> {
    let message = match (one, h_w) {
        (None, [None, None]) => return Ok(None),
        (Some(both), [None, None]) => return Ok(Some([cx.size(field, both)?; 2])),
        (None, [Some(h), Some(w)]) => return Ok(Some([cx.size(field, h)?, cx.size(field, w)?])),
        (None, _) => "needs both *_h and *_w",
        (Some(_), _) => "given for both axes and as *_h and *_w; only one form is allowed",
    };
    Err(cx.invalid(field, message).into())
}

impl Pooling {
    /// Panics unless `infer` has passed for a bottom of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        self.resolve(bottom).expect("inferred before")
    }

    /// Errors: what is wrong with the size of the top.
    fn resolve(&self, bottom: &Shape) -> Result<Geometry, String> {
        let input = &bottom[2..];
        let kernel = self.kernel.as_deref().unwrap_or(input);
        if kernel.contains(&0) {
            return Err(format!("a window over an empty picture ({bottom})"));
        }
        let mut axes = Vec::new();
        for (i, (&input, &kernel)) in input.iter().zip(kernel).enumerate() {
            let stride = self.stride[i];
            let (size, pad) = self.size(i, input, kernel);
            let output = usize::try_from(size).ok().filter(|&size| size > 0);
            let output = output.ok_or_else(|| {
                let axis = i + 2;
                format!("axis {axis} of size {input} gives a top of size {size} (kernel {kernel})")
            })?;
            axes.push(Axis {
                input,
                output,
                kernel,
                stride,
                pad,
            });
        }
        let exclude_pad = self.exclude_pad;
        Ok(Geometry { axes, exclude_pad })
    }

    /// How many windows there are along an axis, and the pad before and after.
    fn size(&self, i: usize, input: usize, kernel: usize) -> (i64, [usize; 2]) {
        let stride = self.stride[i];
        let (before, after) = match &self.pad {
            Pad::Sides { before, after } => (before, after),
            Pad::Same => {
                let taken = match input % stride {
                    0 => stride,
                    rest => rest,
                };
                let pads = kernel.saturating_sub(taken);
                let size = input.div_ceil(stride) as i64;
                return (size, [pads / 2, pads - pads / 2]);
            }
        };
        let pad = [before[i], after[i]];
        let [input, kernel, stride] = [input, kernel, stride].map(|v| v as i64);
        // In f32 because Caffe rounds it so.
        let steps = (input + (pad[0] + pad[1]) as i64 - kernel) as f32 / stride as f32;
        let steps = match self.round {
            Round::Ceil | Round::Whole => steps.ceil(),
            Round::Floor => steps.floor(),
        };
        let size = steps as i64 + 1;
        let padded = self.axes == 2 && before.iter().chain(after).any(|&pad| pad > 0);
        let clip = padded && (size - 1) * stride >= input + pad[0] as i64;
        (size - i64::from(clip), pad)
    }
}

/// Kernel, stride and pad, all with Caffe's rules.
type Windows = (Option<[usize; 2]>, [usize; 2], Pad);

fn windows(p: &PoolingParameter, cx: &Cx) -> Result<Windows> {
    let field = "pooling_param.kernel_size";
    let kernel = match (p.kernel_size, p.kernel_h, p.kernel_w) {
        // Caffe lets this pass (for the kernel only) and takes kernel_size.
        (Some(_), Some(_), None) | (Some(_), None, Some(_)) => [None, None],
        _ => [p.kernel_h, p.kernel_w],
    };
    let kernel = pair(cx, field, p.kernel_size, kernel)?;
    let field = "pooling_param.stride";
    let stride = pair(cx, field, p.stride, [p.stride_h, p.stride_w])?.unwrap_or([1; 2]);
    if stride.contains(&0) {
        return Err(cx.wrong(field, "must not be 0").into());
    }
    let pad = pair(cx, "pooling_param.pad", p.pad, [p.pad_h, p.pad_w])?.unwrap_or([0; 2]);
    let pads = sides(p, pad, cx)?;
    let none = Pad::even([0; 2]);
    let wrong = match kernel {
        Some(_) if p.global_pooling() => (
            "pooling_param.global_pooling",
            "allows no kernel size: the window is the picture",
        ),
        None if p.global_pooling() && (stride != [1; 2] || pads != none) => (
            "pooling_param.global_pooling",
            "allows no stride and no pad",
        ),
        None if !p.global_pooling() => ("pooling_param.kernel_size", "is missing"),
        Some(kernel) if kernel.contains(&0) => ("pooling_param.kernel_size", "must not be 0"),
        Some(kernel) if pad != [0; 2] && (pad[0] >= kernel[0] || pad[1] >= kernel[1]) => {
            ("pooling_param.pad", "must be smaller than the kernel")
        }
        _ => return Ok((kernel, stride, pads)),
    };
    Err(cx.wrong(wrong.0, wrong.1).into())
}

/// The pad, in one of its three forms, of which `pad` is the first.
fn sides(p: &PoolingParameter, pad: [usize; 2], cx: &Cx) -> Result<Pad> {
    let given = [p.pad_t(), p.pad_l(), p.pad_b(), p.pad_r()];
    let same = match p.pad_type() {
        0 => false,
        1 => true,
        other => {
            let message = format!("{other}: neither 0 nor 1 (as much as TensorFlow's SAME)");
            return Err(cx.invalid("pooling_param.pad_type", message).into());
        }
    };
    let one_sided = given != [0; 4];
    if usize::from(pad != [0; 2]) + usize::from(one_sided) + usize::from(same) > 1 {
        let message = "only one of pad, pad_l … pad_b and pad_type is allowed";
        return Err(cx.invalid("pooling_param.pad_l", message).into());
    }
    if same {
        return Ok(Pad::Same);
    }
    if !one_sided {
        return Ok(Pad::even(pad));
    }
    let mut size = [0; 4];
    for ((size, side), name) in size.iter_mut().zip(given).zip(["t", "l", "b", "r"]) {
        *size = cx.size(&format!("pooling_param.pad_{name}"), side)?;
    }
    let [t, l, b, r] = size;
    Ok(Pad::Sides {
        before: vec![t, l],
        after: vec![b, r],
    })
}

/// What there is to say about a method that only Caffe's GPU code knows.
pub(super) fn stochastic(field: &str, cx: &Cx) -> crate::diag::Errors {
    let message = "STOCHASTIC pooling (only MAX and AVE), which Caffe has no CPU code for";
    cx.unsupported(field, message).into()
}

impl Pooling {
    /// Reads `pooling_param`, for Unpooling as well.
    pub(super) fn read(p: &PoolingParameter, cx: &Cx) -> Result<Self> {
        for (field, given) in [
            ("kernel_depth", p.kernel_depth.is_some()),
            ("temporal_stride", p.temporal_stride.is_some()),
            ("kernel_shape", p.kernel_shape.is_some()),
            ("stride_shape", p.stride_shape.is_some()),
        ] {
            if given {
                let message = "only Pooling3D and NdPooling have this";
                let field = format!("pooling_param.{field}");
                return Err(cx.unsupported(&field, message).into());
            }
        }
        let (method, exclude_pad) = match p.pool() {
            PoolMethod::Max => (Method::Max, false),
            PoolMethod::Ave => (Method::Ave, false),
            PoolMethod::AveExcPad => (Method::Ave, true),
            PoolMethod::Stochastic => return Err(stochastic("pooling_param.pool", cx)),
        };
        let (kernel, stride, pad) = windows(p, cx)?;
        let round = match (p.round_mode, p.ceil_mode()) {
            (None, false) if p.ceil_mode.is_some() => Round::Floor,
            _ if p.round_mode() == RoundMode::Floor => Round::Floor,
            _ => Round::Ceil,
        };
        Ok(Pooling {
            method,
            exclude_pad,
            kernel: kernel.map(Vec::from),
            stride: stride.into(),
            pad,
            round,
            axes: 2,
        })
    }

    /// `Pooling3D`, whose parameters stand in the message called `name`.
    fn read_3d(p: &Pooling3DParameter, name: &str, cx: &Cx) -> Result<Self> {
        use crate::frontend::proto::pooling3_d_parameter::PoolMethod;
        let field = |field: &str| format!("{name}.{field}");
        let method = match p.pool() {
            PoolMethod::Max => Method::Max,
            PoolMethod::Ave => Method::Ave,
            PoolMethod::Stochastic => return Err(stochastic(&field("pool"), cx)),
        };
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let positive =
            |what: &str, value: Option<u32>| cx.positive(&field(what), value.unwrap_or_default());
        let kernel = positive("kernel_size", p.kernel_size)?;
        let depth = positive("kernel_depth", p.kernel_depth)?;
        let stride = positive("stride", Some(p.stride()))?;
        let step = positive("temporal_stride", Some(p.temporal_stride()))?;
        let pad = cx.size(&field("pad"), p.pad())?;
        if pad > 0 && method == Method::Max {
            let message = "MAX pooling over length, height and width takes no pad";
            return Err(cx.invalid(&field("pad"), message).into());
        }
        if pad >= kernel {
            let must = "must be smaller than the kernel";
            return Err(cx.wrong(&field("pad"), must).into());
        }
        Ok(Pooling {
            method,
            exclude_pad: false,
            kernel: Some(vec![depth, kernel, kernel]),
            stride: vec![step, stride, stride],
            pad: Pad::Sides {
                before: vec![0, pad, pad],
                after: vec![0, pad, pad],
            },
            round: Round::Ceil,
            axes: 3,
        })
    }
}

impl Pooling {
    /// `NdPooling`.
    fn read_nd(p: &PoolingParameter, cx: &Cx) -> Result<Self> {
        let shaped = PoolingParameter {
            pool: p.pool,
            kernel_shape: p.kernel_shape.clone(),
            stride_shape: p.stride_shape.clone(),
            engine: p.engine,
            ..PoolingParameter::default()
        };
        if *p != shaped {
            let message = "NdPooling takes pool, kernel_shape and stride_shape only";
            return Err(cx.unsupported("pooling_param", message).into());
        }
        let (method, round) = match p.pool() {
            PoolMethod::Max => (Method::Max, Round::Ceil),
            PoolMethod::Ave => (Method::Ave, Round::Whole),
            _ => {
                let message = "NdPooling takes MAX and AVE only";
                return Err(cx.unsupported("pooling_param.pool", message).into());
            }
        };
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let sizes = |field: &str, shape: &Option<BlobShape>| -> Result<Vec<usize>> {
            let field = format!("pooling_param.{field}");
            let dims = shape.iter().flat_map(|shape| &shape.dim);
            let size = |&dim: &i64| cx.positive(&field, u32::try_from(dim).unwrap_or(0));
            dims.map(size).collect()
        };
        let kernel = sizes("kernel_shape", &p.kernel_shape)?;
        if !matches!(kernel.len(), 2 | 3) {
            let message = format!("{} axes instead of two or three", kernel.len());
            return Err(cx.unsupported("pooling_param.kernel_shape", message).into());
        }
        let axes = kernel.len();
        let stride = match p.stride_shape {
            Some(_) => sizes("stride_shape", &p.stride_shape)?,
            None => vec![1; axes],
        };
        if stride.len() != axes {
            let message = format!("{} numbers for a kernel of {axes} axes", stride.len());
            return Err(cx.invalid("pooling_param.stride_shape", message).into());
        }
        Ok(Pooling {
            method,
            exclude_pad: false,
            kernel: Some(kernel),
            stride,
            pad: Pad::Sides {
                before: vec![0; axes],
                after: vec![0; axes],
            },
            round,
            axes,
        })
    }
}

/// What `pooling_param` says of a `Pooling3D`, as `pooling3d_param` says it.
///
/// Errors: fields that C3D does not have.
fn spatial(p: &PoolingParameter, cx: &Cx) -> Result<Pooling3DParameter> {
    let c3d = PoolingParameter {
        pool: p.pool,
        kernel_size: p.kernel_size,
        kernel_depth: p.kernel_depth,
        stride: p.stride,
        temporal_stride: p.temporal_stride,
        pad: p.pad,
        engine: p.engine,
        ..PoolingParameter::default()
    };
    if *p != c3d {
        let message = "Pooling3D takes pool, kernel_size, kernel_depth, stride, temporal_stride \
                       and pad only";
        return Err(cx.unsupported("pooling_param", message).into());
    }
    Ok(Pooling3DParameter {
        pool: p.pool,
        kernel_size: p.kernel_size,
        kernel_depth: p.kernel_depth,
        stride: p.stride,
        temporal_stride: p.temporal_stride,
        pad: p.pad,
        ..Pooling3DParameter::default()
    })
}

impl Layer for Pooling {
    fn claims() -> &'static [&'static str] {
        &[
            "pooling_param.pool.AVE_EXC_PAD",
            "pooling_param.ceil_mode",
            "pooling_param.pad_l",
            "pooling_param.pad_r",
            "pooling_param.pad_t",
            "pooling_param.pad_b",
            "pooling_param.pad_type",
            "pooling_param.kernel_depth",
            "pooling_param.temporal_stride",
            "pooling_param.kernel_shape",
            "pooling_param.stride_shape",
            "pooling3d_param.pool",
            "pooling3d_param.kernel_size",
            "pooling3d_param.kernel_depth",
            "pooling3d_param.stride",
            "pooling3d_param.temporal_stride",
            "pooling3d_param.pad",
        ]
    }

    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.pooling_param.clone().unwrap_or_default();
        match (param.r#type(), &param.pooling3d_param) {
            ("Pooling3D", Some(p)) => Pooling::read_3d(p, "pooling3d_param", cx),
            ("Pooling3D", None) => Pooling::read_3d(&spatial(&p, cx)?, "pooling_param", cx),
            (_, Some(_)) => {
                let message = "only Pooling3D has this";
                Err(cx.unsupported("pooling3d_param", message).into())
            }
            ("NdPooling", _) => Pooling::read_nd(&p, cx),
            _ => {
                let pooling = Pooling::read(&p, cx)?;
                let mask = pooling.method == Method::Max;
                cx.counts(1..=1, 1..=if mask { 2 } else { 1 })?;
                cx.not_in_place()?;
                Ok(pooling)
            }
        }
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if bottoms[0].len() != 2 + self.axes {
            let (axes, bottom) = (2 + self.axes, &bottoms[0]);
            let message = format!("the bottom must have {axes} axes, it is {bottom}");
            return Err(cx.invalid("bottom", message).into());
        }
        let g = self.resolve(&bottoms[0]);
        let g = g.map_err(|message| cx.invalid("pooling_param", message))?;
        let beyond = |axis: &Axis| (axis.output - 1) * axis.stride + axis.kernel > axis.input;
        if self.round == Round::Whole && g.axes.iter().any(beyond) {
            let message = "a mean of windows that reach beyond the bottom: by what cuDNN divides it is its own";
            return Err(cx.unsupported("pooling_param.pool", message).into());
        }
        let mut dims = bottoms[0][..2].to_vec();
        dims.extend(g.sizes(|axis| axis.output));
        Ok(vec![cx.locate("pooling_param", Shape::new(dims))?; cx.tops])
    }

    /// Item by item.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0).then_some(0)
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape);
        let input = g.sizes(|axis| axis.input);
        let output = g.sizes(|axis| axis.output);
        let (plane, windows) = (input.iter().product(), output.iter().product::<usize>());
        let mut window = vec![Window::default(); input.len()];
        for i in 0..tops[0].data.len() {
            let mut place = i;
            for axis in (0..input.len()).rev() {
                window[axis] = g.window(axis, place % output[axis]);
                place /= output[axis];
            }
            let image = &bottoms[0].data[i / windows * plane..][..plane];
            let points = points(&window, &input);
            match self.method {
                Method::Ave => {
                    let sum = points.fold(0.0, |sum, at| sum + f64::from(image[at]));
                    let area: i64 = window.iter().map(|w| w.counted).product();
                    tops[0].data[i] = (sum / area as f64) as f32;
                }
                Method::Max => {
                    let (max, at) = maximum(image, points);
                    tops[0].data[i] = max;
                    if let Some(mask) = tops.get_mut(1) {
                        mask.data[i] = at.map_or(-1.0, |at| at as f32);
                    }
                }
            }
        }
    }

    fn taps(&self, bottoms: &[Shape]) -> Option<[Taps; 2]> {
        let g = self.geometry(&bottoms[0]);
        let [height, width] = g.axes[..] else {
            return None;
        };
        Some([height, width].map(|axis| Taps {
            kernel: axis.kernel,
            stride: axis.stride,
            pad: axis.pad[0],
            dilation: 1,
            transposed: false,
        }))
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let geometry = self.geometry(b.graph.shape(node.bottoms[0]));
        if node.tops.len() == 2 {
            return lower::pool_with_mask(b, node, &geometry);
        }
        lower::pool(b, node, self.method, &geometry)
    }
}

/// Places of a window's values among a map's of these sizes, the last axis fastest.
fn points<'a>(window: &'a [Window], sizes: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let last = window.len() - 1;
    let outer: usize = window[..last].iter().map(|w| w.range().len()).product();
    let row = move |mut line: usize| {
        let (mut row, mut step) = (0, 1);
        for axis in (0..last).rev() {
            let len = window[axis].range().len();
            row += (window[axis].start + line % len) * step;
            step *= sizes[axis];
            line /= len;
        }
        row * sizes[last]
    };
    (0..outer).flat_map(move |line| {
        let start = row(line);
        window[last].range().map(move |at| start + at)
    })
}

fn maximum(image: &[f32], points: impl Iterator<Item = usize>) -> (f32, Option<usize>) {
    points.fold((f32::MIN, None), |(max, place), at| {
        if image[at] > max {
            (image[at], Some(at))
        } else {
            (max, place)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;

    fn param(p: PoolingParameter) -> LayerParameter {
        LayerParameter {
            pooling_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn square(kernel: u32, stride: u32, pad: u32) -> PoolingParameter {
        PoolingParameter {
            kernel_size: Some(kernel),
            stride: Some(stride),
            pad: Some(pad),
            ..PoolingParameter::default()
        }
    }

    fn ave(p: PoolingParameter) -> LayerParameter {
        param(PoolingParameter {
            pool: Some(PoolMethod::Ave.into()),
            ..p
        })
    }

    fn with_mask(p: PoolingParameter) -> LayerParameter {
        LayerParameter {
            top: vec!["y".into(), "mask".into()],
            ..param(p)
        }
    }

    #[test]
    fn maxima_and_mask_of_caffes_tests() {
        let x = tensor(
            &[1, 1, 3, 5],
            [1., 2., 5., 2., 3., 9., 4., 1., 4., 8., 1., 2., 5., 2., 3.],
        );
        let y = forward::<Pooling>(&with_mask(square(2, 1, 0)), &[x], &[]);
        assert_eq!(
            y[0],
            tensor(&[1, 1, 2, 4], [9., 5., 5., 8., 9., 5., 5., 8.])
        );
        assert_eq!(y[1].data, [5., 2., 2., 9., 5., 12., 12., 9.]);

        let magic = [
            35., 1., 6., 26., 19., 24., 3., 32., 7., 21., 23., 25., 31., 9., 2., 22., 27., 20., 8.,
            28., 33., 17., 10., 15., 30., 5., 34., 12., 14., 16., 4., 36., 29., 13., 18., 11.,
        ];
        let p = PoolingParameter {
            kernel_h: Some(3),
            kernel_w: Some(2),
            ..PoolingParameter::default()
        };
        let y = forward::<Pooling>(&with_mask(p), &[tensor(&[1, 1, 6, 6], magic)], &[]);
        assert_eq!(
            y[0].data[..10],
            [35., 32., 26., 27., 27., 32., 33., 33., 27., 27.]
        );
        assert_eq!(
            y[1].data[10..],
            [12., 26., 26., 16., 16., 31., 31., 26., 34., 34.]
        );
    }

    #[test]
    fn padding_of_caffes_tests() {
        let x = tensor(&[1, 1, 3, 3], [1., 2., 4., 2., 3., 2., 4., 2., 1.]);
        let y = forward::<Pooling>(&param(square(3, 2, 2)), &[x], &[]);
        assert_eq!(y[0].data, [1., 4., 4., 4., 4., 4., 4., 4., 1.]);
        let x = tensor(&[1, 1, 3, 3], [2.; 9]);
        let y = forward::<Pooling>(&ave(square(3, 1, 1)), &[x], &[]);
        let [corner, edge] = [8. / 9., 4. / 3.];
        assert_eq!(
            y[0].data,
            [corner, edge, corner, edge, 2., edge, corner, edge, corner]
        );
    }

    #[test]
    fn sizes() {
        let size =
            |p: PoolingParameter| tops::<Pooling>(&param(p), &[&[2, 3, 6, 5]])[0][2..].to_vec();
        assert_eq!(size(square(3, 2, 0)), [3, 2]);
        assert_eq!(size(square(3, 2, 1)), [4, 3]);
        let floor = PoolingParameter {
            round_mode: Some(RoundMode::Floor.into()),
            ..square(3, 2, 0)
        };
        assert_eq!(size(floor), [2, 2]);
        let global = PoolingParameter {
            global_pooling: Some(true),
            ..PoolingParameter::default()
        };
        assert_eq!(size(global), [1, 1]);
        assert_eq!(
            size(PoolingParameter {
                kernel_h: Some(9),
                ..square(3, 2, 0)
            }),
            [3, 2]
        );
        // Padding on one axis drops late windows on both.
        let one_axis = PoolingParameter {
            pad: None,
            pad_h: Some(1),
            pad_w: Some(0),
            ..square(2, 5, 0)
        };
        assert_eq!(size(one_axis), [2, 1]);
        assert_eq!(size(square(2, 5, 0)), [2, 2]);
    }

    #[test]
    fn a_pad_for_each_side() {
        let x = tensor(&[1, 1, 1, 3], [1., 2., 6.]);
        let one_row = PoolingParameter {
            kernel_size: None,
            kernel_h: Some(1),
            kernel_w: Some(2),
            stride: Some(2),
            ..PoolingParameter::default()
        };
        let sides = |left, right| PoolingParameter {
            pad_l: Some(left),
            pad_r: Some(right),
            ..one_row.clone()
        };
        let run = |p: PoolingParameter| forward::<Pooling>(&ave(p), &[&x], &[]).remove(0).data;
        assert_eq!(run(sides(1, 0)), [0.5, 4.]);
        assert_eq!(run(sides(0, 1)), [1.5, 3.]);
        let inside = |p| PoolingParameter {
            pool: Some(PoolMethod::AveExcPad.into()),
            ..p
        };
        let exclude = |p| {
            forward::<Pooling>(&param(inside(p)), &[&x], &[])
                .remove(0)
                .data
        };
        assert_eq!(exclude(sides(1, 0)), [1., 4.]);
        let same = PoolingParameter {
            pad_type: Some(1),
            ..one_row.clone()
        };
        assert_eq!(run(same), [1.5, 3.]);
        let both = PoolingParameter {
            pad: Some(1),
            ..sides(1, 0)
        };
        let got = refusal::<Pooling>(&ave(both), &[&[1, 1, 1, 3]]);
        assert!(got.starts_with("pooling_param.pad_l: only one"), "{got}");
    }

    #[test]
    fn ceil_mode_gives_way_to_round_mode() {
        let width = |ceil: Option<bool>, round: Option<RoundMode>| {
            let p = PoolingParameter {
                ceil_mode: ceil,
                round_mode: round.map(i32::from),
                ..square(2, 2, 0)
            };
            tops::<Pooling>(&param(p), &[&[1, 1, 5, 5]])[0][3]
        };
        assert_eq!(width(Some(false), None), 2);
        assert_eq!(width(Some(true), None), 3);
        assert_eq!(width(Some(false), Some(RoundMode::Ceil)), 3);
        assert_eq!(width(Some(true), Some(RoundMode::Floor)), 2);
    }

    #[test]
    fn length_height_and_width() {
        let p = PoolingParameter {
            kernel_depth: Some(2),
            temporal_stride: Some(2),
            ..square(1, 1, 0)
        };
        let of_3d = |p| LayerParameter {
            r#type: Some("Pooling3D".into()),
            ..param(p)
        };
        let x = tensor(&[1, 1, 3, 1, 2], [1., 8., 3., 4., 5., 6.]);
        let y = forward::<Pooling>(&of_3d(p.clone()), &[&x], &[]).remove(0);
        assert_eq!(y, tensor(&[1, 1, 2, 1, 2], [3., 8., 5., 6.]));
        let average = PoolingParameter {
            pool: Some(PoolMethod::Ave.into()),
            ..p.clone()
        };
        let y = forward::<Pooling>(&of_3d(average), &[&x], &[]).remove(0);
        assert_eq!(y.data, [2., 6., 5., 6.]);
        let shape: &[&[usize]] = &[&[1, 1, 3, 1, 2]];
        assert!(refusal::<Pooling>(&of_3d(p.clone()), &[&[1, 1, 3, 3]]).starts_with("bottom: "));
        assert!(refusal::<Pooling>(&param(p), shape).contains("only Pooling3D"));
        let padded = PoolingParameter {
            kernel_depth: Some(1),
            ..square(2, 1, 1)
        };
        assert!(refusal::<Pooling>(&of_3d(padded), shape).contains("takes no pad"));
        let height = PoolingParameter {
            kernel_h: Some(1),
            ..square(2, 1, 0)
        };
        assert!(refusal::<Pooling>(&of_3d(height), shape).contains("takes pool, kernel_size"));
    }

    #[test]
    fn a_kernel_for_each_axis() {
        let shape = |dims: &[i64]| Some(BlobShape { dim: dims.to_vec() });
        let p = PoolingParameter {
            kernel_shape: shape(&[1, 2, 2]),
            stride_shape: shape(&[1, 1, 2]),
            ..PoolingParameter::default()
        };
        let nd = |p: &PoolingParameter| LayerParameter {
            r#type: Some("NdPooling".into()),
            ..param(p.clone())
        };
        let x = tensor(
            &[1, 1, 2, 2, 3],
            [1., 8., 3., 4., 5., 6., 9., 9., 9., 9., 9., 9.],
        );
        let y = forward::<Pooling>(&nd(&p), &[&x], &[]).remove(0);
        assert_eq!(y, tensor(&[1, 1, 2, 1, 2], [8., 6., 9., 9.]));
        let mean = PoolingParameter {
            pool: Some(PoolMethod::Ave.into()),
            kernel_shape: shape(&[2, 2, 1]),
            ..p.clone()
        };
        let y = forward::<Pooling>(&nd(&mean), &[&x], &[]).remove(0);
        assert_eq!(y, tensor(&[1, 1, 1, 1, 2], [5.75, 6.75]));
        let dims: &[usize] = &[1, 1, 2, 2, 3];
        assert!(refusal::<Pooling>(&param(p.clone()), &[dims]).contains("NdPooling"));
        for (p, field) in [
            (
                PoolingParameter {
                    pool: Some(PoolMethod::Ave.into()),
                    ..p.clone()
                },
                "pooling_param.pool",
            ),
            (
                PoolingParameter {
                    pad: Some(1),
                    ..p.clone()
                },
                "pooling_param",
            ),
            (
                PoolingParameter {
                    kernel_shape: shape(&[1, 0, 1]),
                    ..p.clone()
                },
                "pooling_param.kernel_shape",
            ),
            (
                PoolingParameter {
                    kernel_shape: shape(&[1]),
                    ..p.clone()
                },
                "pooling_param.kernel_shape",
            ),
            (
                PoolingParameter {
                    stride_shape: shape(&[1, -1, 1]),
                    ..p.clone()
                },
                "pooling_param.stride_shape",
            ),
            (
                PoolingParameter {
                    stride_shape: shape(&[1, 1]),
                    ..p.clone()
                },
                "pooling_param.stride_shape",
            ),
            (
                PoolingParameter {
                    kernel_shape: shape(&[1, 1]),
                    stride_shape: None,
                    ..p
                },
                "bottom",
            ),
        ] {
            let got = refusal::<Pooling>(&nd(&p), &[dims]);
            assert!(got.starts_with(&format!("{field}: ")), "{got}");
        }
    }

    #[test]
    fn empty_windows() {
        let x = tensor(&[1, 1, 1, 4], [1., 2., 3., 4.]);
        let last = |p: &LayerParameter| {
            let tops = forward::<Pooling>(p, &[&x], &[]);
            tops.iter().map(|top| top.data[1]).collect::<Vec<f32>>()
        };
        assert_eq!(last(&with_mask(square(1, 4, 0))), [f32::MIN, -1.]);
        assert!(last(&ave(square(1, 4, 0)))[0].is_nan());
        assert_eq!(last(&ave(square(1, 5, 0)))[0], 0.0);
    }

    #[test]
    fn nan_and_minus_infinity_never_win() {
        let x = tensor(&[1, 1, 1, 4], [f32::NAN, 1., f32::NEG_INFINITY, f32::NAN]);
        let y = forward::<Pooling>(
            &with_mask(PoolingParameter {
                kernel_size: None,
                kernel_h: Some(1),
                kernel_w: Some(2),
                ..square(1, 2, 0)
            }),
            &[x],
            &[],
        );
        assert_eq!(
            (&y[0].data[..], &y[1].data[..]),
            (&[1., f32::MIN][..], &[1., -1.][..])
        );
    }

    #[test]
    fn bad_parameters() {
        let global = PoolingParameter {
            global_pooling: Some(true),
            ..PoolingParameter::default()
        };
        let cases = [
            (square(0, 1, 0), "kernel_size: `kernel_size` must not be 0"),
            (
                PoolingParameter::default(),
                "kernel_size: `kernel_size` is missing",
            ),
            (
                PoolingParameter {
                    kernel_h: Some(2),
                    ..Default::default()
                },
                "kernel_size: needs both",
            ),
            (
                PoolingParameter {
                    kernel_h: Some(2),
                    kernel_w: Some(2),
                    ..square(2, 1, 0)
                },
                "kernel_size: given",
            ),
            (square(2, 0, 0), "stride: `stride` must not be 0"),
            (
                PoolingParameter {
                    stride_h: Some(2),
                    ..square(2, 1, 0)
                },
                "stride: given",
            ),
            (square(2, 1, 2), "pad: `pad` must be smaller"),
            (square(2, 1, u32::MAX), "pad: 4294967295 is larger"),
            (
                PoolingParameter {
                    kernel_size: Some(2),
                    ..global.clone()
                },
                "global_pooling: `global_pooling` allows no kernel",
            ),
            (
                PoolingParameter {
                    stride: Some(2),
                    ..global.clone()
                },
                "global_pooling: `global_pooling` allows no stride",
            ),
            (
                PoolingParameter {
                    pool: Some(PoolMethod::Stochastic.into()),
                    ..global.clone()
                },
                "pool: STOCHASTIC",
            ),
        ];
        for (p, want) in cases {
            let got = refusal::<Pooling>(&param(p), &[&[1, 1, 4, 4]]);
            assert!(got.starts_with(&format!("pooling_param.{want}")), "{got}");
        }
        let empty = refusal::<Pooling>(&param(global), &[&[1, 1, 0, 4]]);
        assert!(empty.contains("empty picture"), "{empty}");
        let p = param(square(3, 2, 0));
        assert!(refusal::<Pooling>(&p, &[&[1, 4, 4]]).starts_with("bottom: "));
        assert!(refusal::<Pooling>(&p, &[&[1, 1, 1, 1]]).contains("top of size 0"));
        let two_tops = LayerParameter {
            top: vec!["a".into(), "b".into()],
            ..ave(square(2, 1, 0))
        };
        assert!(refusal::<Pooling>(&two_tops, &[&[1, 1, 4, 4]]).starts_with("top: "));
    }
}
