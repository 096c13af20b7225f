//! Convolution as lines of register tiles over a source with zeros around it.

use super::Builder;
use super::grid::{self, Grid, grids};
use super::product::{EpilogueAddrs, pack_weights};
use super::source::{Source, source};
use super::tile::TileCall;
use super::view::{Blocked, Halo};
use crate::diag::Result;
use crate::ir::{BlobId, Graph, Node, ParamId};
use crate::kernel::{Addr, Affine, BufferId, Region};
use crate::leaf::BLOCK;

/// A two-dimensional convolution of one bottom into one top.
#[derive(Clone, Debug)]
pub struct Conv {
    pub src: BlobId,
    pub dst: BlobId,
    pub weights: ParamId,
    pub strides: WeightStrides,
    pub bias: Option<ParamId>,
    pub inputs: usize,
    pub outputs: usize,
    pub group: usize,
    /// Height, then width.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub dilation: [usize; 2],
}

/// Where the weight of (group g, output o of it, input i of it, row y, column x) lies
/// in a parameter: `base + g·group + o·output + i·input + y·row + x·column`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightStrides {
    pub base: isize,
    pub group: usize,
    pub output: usize,
    pub input: usize,
    pub row: isize,
    pub column: isize,
}

impl WeightStrides {
    /// Caffe's `[outputs][inputs / group][kh][kw]`.
    pub fn convolution(
        outputs_per_group: usize,
        inputs_per_group: usize,
        kernel: [usize; 2],
    ) -> Self {
        let area = kernel[0] * kernel[1];
        WeightStrides {
            base: 0,
            group: outputs_per_group * inputs_per_group * area,
            output: inputs_per_group * area,
            input: area,
            row: kernel[1] as isize,
            column: 1,
        }
    }

    /// Caffe's `[inputs][outputs / group][kh][kw]`, turned by 180°.
    pub fn deconvolution(
        outputs_per_group: usize,
        inputs_per_group: usize,
        kernel: [usize; 2],
    ) -> Self {
        let area = kernel[0] * kernel[1];
        WeightStrides {
            base: area as isize - 1,
            group: outputs_per_group * inputs_per_group * area,
            output: area,
            input: outputs_per_group * area,
            row: -(kernel[1] as isize),
            column: -1,
        }
    }
}

/// Rows or columns that windows reach beyond a map of `size`, for `outputs` windows:
/// before it and after it.
fn reach(
    size: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    dilation: usize,
) -> (usize, usize) {
    let end = (outputs.max(1) - 1)
        .saturating_mul(stride)
        .saturating_add((kernel - 1).saturating_mul(dilation))
        .saturating_add(1);
    (pad, end.saturating_sub(size.saturating_add(pad)))
}

/// The zeros that windows read around their source: height, then width, or height
/// alone; all slices have one entry for each.
pub fn window_halo(
    src: &[usize],
    dst: &[usize],
    kernel: &[usize],
    stride: &[usize],
    pad: &[usize],
    dilation: &[usize],
) -> Halo {
    let side = |i: usize| match src.get(i) {
        Some(&size) => reach(size, dst[i], kernel[i], stride[i], pad[i], dilation[i]),
        None => (0, 0),
    };
    let ((top, bottom), (left, right)) = (side(0), side(1));
    Halo {
        top,
        bottom,
        left,
        right,
    }
}

impl Conv {
    /// The zeros that it reads around its source.
    pub fn halo(&self, src: [usize; 2], dst: [usize; 2]) -> Halo {
        let Conv {
            kernel,
            stride,
            pad,
            dilation,
            ..
        } = self;
        window_halo(&src, &dst, kernel, stride, pad, dilation)
    }

    pub fn is_depthwise(&self) -> bool {
        self.group > 1 && self.group == self.inputs && self.group == self.outputs
    }

    /// Products in the sum of one output.
    pub fn sums(&self) -> usize {
        self.inputs / self.group * self.kernel[0] * self.kernel[1]
    }

    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0]
    }
}

/// The halo that each blob's readers want, gathered at the blob whose memory it is.
pub fn halos(graph: &Graph, inside: &[Option<(BlobId, usize)>]) -> Vec<Halo> {
    let mut halos = vec![Halo::default(); graph.blobs.len()];
    for node in &graph.nodes {
        for (i, &bottom) in node.bottoms.iter().enumerate() {
            let top = node.tops.get(i).map(|&t| graph.shape(t));
            let Some(top) = top else { continue };
            let halo = node.op.halo(graph.shape(bottom), top);
            let mut root = bottom;
            while let Some((parent, _)) = inside[root.0 as usize] {
                root = parent;
            }
            halos[root.0 as usize] = halos[root.0 as usize].max(halo);
        }
    }
    halos
}

/// Lowers a convolution.
pub fn convolution(b: &mut Builder, node: &Node, conv: &Conv) -> Result<()> {
    let source = source(b, conv)?;
    let about = describe("convolution", b, conv);
    finish(b, node, conv, source, &about)
}

pub fn describe(what: &str, b: &Builder, conv: &Conv) -> String {
    let [kh, kw] = conv.kernel;
    let mut text = format!("{what} {kh}x{kw}");
    for (name, [h, w], default) in [
        ("stride", conv.stride, 1),
        ("pad", conv.pad, 0),
        ("dilation", conv.dilation, 1),
    ] {
        if [h, w] != [default, default] {
            text += &format!(" {name} {h}x{w}");
        }
    }
    if conv.group > 1 {
        text += &format!(" group {}", conv.group);
    }
    format!(
        "{text}: {} -> {}",
        b.graph.shape(conv.src),
        b.graph.shape(conv.dst)
    )
}

/// Packs weights, allocates the top and emits the step.
pub fn finish(
    b: &mut Builder,
    node: &Node,
    conv: &Conv,
    source: Source,
    about: &str,
) -> Result<()> {
    let residual = match node.epilogue.residual {
        true => Some(b.blocked(*node.bottoms.last().expect("a residual is a bottom"))?),
        false => None,
    };
    let dst = b.alloc_blocked(conv.dst)?;
    let grids = grids(b, conv, &source, &dst, residual.as_ref());
    let regions = regions(b, node, conv, &source, &dst, residual.as_ref(), &grids)?;
    let outputs = (dst.n * dst.h * dst.w * conv.outputs) as u64;
    let macs = outputs * conv.sums() as u64;
    b.step(node.layers.clone(), about, regions, macs, b.traffic(node));
    Ok(())
}

pub fn regions(
    b: &mut Builder,
    node: &Node,
    conv: &Conv,
    source: &Source,
    dst: &Blocked,
    residual: Option<&Blocked>,
    grids: &[Grid],
) -> Result<Vec<Region>> {
    let epilogue = EpilogueAddrs::new(b, node, conv.bias, conv.outputs);
    let (weights, runs) = pack_weights(b, node, conv, source.order);
    let mut regions = Vec::new();
    let mut weights_at = 0;
    for run in &runs {
        let offsets = source.offsets(run.inputs)?;
        let segments = offsets.len();
        let table = b.table(offsets);
        let weight_stride = source.weight_stride(segments);
        for grid in grids {
            let call = TileCall {
                kind: source.kind,
                src: addr(
                    source.buffer,
                    grid.src[0] + (run.first_input / BLOCK) as i64 * source.block,
                ),
                weights: addr(weights, weights_at as i64),
                bias: shift(&epilogue.bias, run.first * BLOCK),
                residual: residual
                    .map(|r| addr(r.buffer, grid.residual[0] + run.first as i64 * r.block)),
                slopes: epilogue
                    .slopes
                    .as_ref()
                    .map(|s| shift(s, run.first * BLOCK)),
                dst: addr(dst.buffer, grid.dst[0] + run.first as i64 * dst.block),
                offsets: table,
                segments,
                taps: source.taps,
                src_stride: source.src_stride(),
                weight_stride,
                dst_stride: dst.block as usize,
                residual_stride: residual.map_or(0, |r| r.block as usize),
                src_px: grid.src_px,
                dst_px: grid.dst_px,
                activation: epilogue.activation,
                slope: epilogue.slope,
            };
            regions.extend(grid::regions(b, &call, grid, run.blocks));
        }
        weights_at += weight_stride * run.blocks;
    }
    Ok(regions)
}

pub fn addr(buffer: BufferId, base: i64) -> Addr {
    let offset = Affine::constant(base);
    Addr { buffer, offset }
}

fn shift(addr: &Addr, by: usize) -> Addr {
    Addr {
        buffer: addr.buffer,
        offset: addr.offset.clone().offset(by as i64),
    }
}
