//! Convolution as lines of register tiles over a source with zeros around it.

use super::grid::{self, Grid, grids};
use super::product::{EpilogueAddrs, pack_weights};
use super::source::{Source, source};
use super::tile::TileCall;
use super::view::{Blocked, Halo, Maps};
use super::{Builder, Choices, winograd};
use crate::diag::Result;
use crate::ir::{BlobId, Graph, Node, ParamId};
use crate::kernel::{Addr, Affine, BufferId, Region};
use crate::leaf::BLOCK;

/// A convolution of one bottom into one top.
#[derive(Clone, Debug)]
pub struct Conv {
    pub src: BlobId,
    pub dst: BlobId,
    /// The axis of the channels; what comes before are items that do not meet.
    pub axis: usize,
    pub weights: ParamId,
    pub strides: WeightStrides,
    pub bias: Option<ParamId>,
    pub inputs: usize,
    pub outputs: usize,
    pub group: usize,
    /// Spatial axes before height and width, outermost first.
    pub outer: Vec<Axis>,
    /// Height, then width.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub dilation: [usize; 2],
}

/// A spatial axis before height and width: a blob has a slice of channels, rows and
/// columns for each place on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub dilation: usize,
}

impl Axis {
    /// Slices that windows reach beyond the bottom: before it and after it.
    pub fn reach(&self) -> (usize, usize) {
        let &Axis {
            input,
            output,
            kernel,
            stride,
            pad,
            dilation,
        } = self;
        reach(input, output, kernel, stride, pad, dilation)
    }
}

/// Where the weight of (group g, output o of it, input i of it, row y, column x) lies
/// in a parameter: `base + g·group + o·output + i·input + y·row + x·column`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightStrides {
    pub base: isize,
    pub group: usize,
    pub output: usize,
    pub input: usize,
    pub row: isize,
    pub column: isize,
}

impl WeightStrides {
    /// Caffe's `[outputs][inputs / group][rows][columns]`; kernel axes before the height
    /// are more rows.
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

    /// Caffe's `[inputs][outputs / group][rows][columns]`, turned round on every axis.
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

    /// Rows and columns of the kernel, with the slices of it one below the other.
    pub fn kernel_plane(&self) -> [usize; 2] {
        let slices: usize = self.outer.iter().map(|axis| axis.kernel).product();
        [slices * self.kernel[0], self.kernel[1]]
    }

    /// Products in the sum of one output.
    pub fn sums(&self) -> usize {
        let [rows, columns] = self.kernel_plane();
        self.inputs / self.group * rows * columns
    }

    /// Whether its source is better read as planes than padded to a block of channels.
    pub fn has_few_inputs(&self) -> bool {
        self.inputs < 8 && self.group == 1 && (self.axis, self.outer.len()) == (1, 0)
    }

    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0]
    }
}

/// The halo that each blob's readers want, gathered at the blob whose memory it is.
pub fn halos(graph: &Graph, choices: &Choices, inside: &[Option<(BlobId, usize)>]) -> Vec<Halo> {
    let mut halos = vec![Halo::default(); graph.blobs.len()];
    for node in &graph.nodes {
        for (i, &bottom) in node.bottoms.iter().enumerate() {
            let Some(&top) = node.tops.get(i) else {
                continue;
            };
            let halo = match choices.winograd(top) {
                Some((conv, w)) => w.halo(graph, conv),
                None => node.op.halo(graph.shape(bottom), graph.shape(top)),
            };
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
    if let Some(&(_, w)) = b.choices.winograd(conv.dst) {
        return winograd::lower(b, node, conv, &w);
    }
    let source = source(b, conv)?;
    let about = describe("convolution", b.graph, conv);
    finish(b, node, conv, source, &about)
}

pub fn describe(what: &str, graph: &Graph, conv: &Conv) -> String {
    let sizes = |of: fn(&Axis) -> usize, plane: [usize; 2]| -> Vec<usize> {
        conv.outer.iter().map(of).chain(plane).collect()
    };
    let product = |sizes: Vec<usize>| -> String {
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        sizes.join("x")
    };
    let kernel = product(sizes(|axis| axis.kernel, conv.kernel));
    let mut text = format!("{what} {kernel}");
    for (name, sizes, default) in [
        ("stride", sizes(|axis| axis.stride, conv.stride), 1),
        ("pad", sizes(|axis| axis.pad, conv.pad), 0),
        ("dilation", sizes(|axis| axis.dilation, conv.dilation), 1),
    ] {
        if sizes.iter().any(|&size| size != default) {
            text += &format!(" {name} {}", product(sizes));
        }
    }
    if conv.group > 1 {
        text += &format!(" group {}", conv.group);
    }
    format!(
        "{text}: {} -> {}",
        graph.shape(conv.src),
        graph.shape(conv.dst)
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
    let dst = match conv.axis {
        1 => b.alloc_blocked(conv.dst)?,
        axis => {
            let name = format!("{} blocked", b.graph[conv.dst].name);
            let maps = Maps::of(b.graph.shape(conv.dst), axis);
            b.new_maps(&name, maps, Halo::default())?
        }
    };
    let grids = grids(b, conv, &source, &dst, residual.as_ref());
    let regions = regions(b, node, conv, &source, &dst, residual.as_ref(), &grids)?;
    let outputs = (dst.n * dst.h * dst.w * conv.outputs) as u64;
    let macs = outputs * conv.sums() as u64;
    b.step(node.layers.clone(), about, regions, macs, b.traffic(node));
    if conv.axis != 1 {
        let plain = b.alloc_plain(conv.dst)?;
        let regions = b.to_plain(&dst, plain);
        let traffic = 8 * b.graph.shape(conv.dst).count() as u64;
        b.step(node.layers.clone(), "blocked to plain", regions, 0, traffic);
    }
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
                src_stride: source.src_stride(),
                weight_stride,
                dst_stride: dst.block as usize,
                residual_stride: residual.map_or(0, |r| r.block as usize),
                src_px: grid.src_px,
                dst_px: grid.dst_px,
                activation: epilogue.activation,
                slope: epilogue.slope,
                ahead: None,
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
