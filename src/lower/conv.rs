//! Convolution, deconvolution and inner product: all are lines of register tiles
//! over a source with zeros around it.

use super::pack::{BiasPack, BlockPack, Pack, SegmentOrder, TilePack};
use super::tile::{self, TileCall, TileKind};
use super::view::{Blocked, Halo, Plain};
use super::{Builder, for_loop};
use crate::diag::{Diagnostic, Result};
use crate::ir::{Activation as IrActivation, BlobId, Graph, Node, ParamId};
use crate::kernel::{Addr, Affine, Arg, BufferId, Region, Stmt};
use crate::leaf::{Activation, BLOCK, Leaf};

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
    fn deconvolution(
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

/// Rows and columns that windows reach beyond a map of `size`, for `outputs` windows:
/// before it and after it.
pub fn reach(
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

impl Conv {
    /// The zeros that it reads around its source.
    pub fn halo(&self, src: [usize; 2], dst: [usize; 2]) -> Halo {
        let side = |i: usize| {
            reach(
                src[i],
                dst[i],
                self.kernel[i],
                self.stride[i],
                self.pad[i],
                self.dilation[i],
            )
        };
        let ((top, bottom), (left, right)) = (side(0), side(1));
        Halo {
            top,
            bottom,
            left,
            right,
        }
    }

    pub fn is_depthwise(&self) -> bool {
        self.group > 1 && self.group == self.inputs && self.group == self.outputs
    }

    /// Products in the sum of one output.
    pub fn sums(&self) -> usize {
        self.inputs / self.group * self.kernel[0] * self.kernel[1]
    }

    fn is_pointwise(&self) -> bool {
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

/// Where tiles read: the first element that the first window of an image reads, and
/// the table of segments from there.
pub struct Source {
    pub buffer: BufferId,
    pub base: i64,
    pub image: i64,
    /// From one output row's windows to the next.
    pub line: i64,
    pub px: usize,
    /// From one input channel block to the next.
    pub block: i64,
    pub kind: TileKind,
    pub order: SegmentOrder,
    pub taps: usize,
    row: i64,
    dilation: [usize; 2],
    kernel: [usize; 2],
}

impl Source {
    /// A blocked source, whose halo holds what the windows reach.
    fn blocked(view: &Blocked, conv: &Conv) -> Source {
        let (kind, order) = match conv.is_depthwise() {
            true => (TileKind::Depthwise, SegmentOrder::Depthwise),
            false => (TileKind::Blocked, SegmentOrder::Blocked),
        };
        Source {
            buffer: view.buffer,
            base: view.base - conv.pad[0] as i64 * view.row - (conv.pad[1] * BLOCK) as i64,
            image: view.image,
            line: conv.stride[0] as i64 * view.row,
            px: conv.stride[1] * BLOCK,
            block: view.block,
            kind,
            order,
            taps: BLOCK,
            row: view.row,
            dilation: conv.dilation,
            kernel: conv.kernel,
        }
    }

    /// Packed weights of one block of output channels.
    pub fn weight_stride(&self, segments: usize) -> usize {
        match self.kind {
            TileKind::Depthwise => segments * BLOCK,
            _ => segments * self.taps * BLOCK,
        }
    }

    /// How far the source moves from one block of output channels to the next.
    pub fn src_stride(&self) -> usize {
        match self.kind {
            TileKind::Depthwise => self.block as usize,
            _ => 0,
        }
    }

    /// Element offsets of the segments for `inputs` input channels.
    ///
    /// Errors: `Unsupported` beyond what an i32 can say.
    pub fn offsets(&self, inputs: usize) -> Result<Vec<i32>> {
        let [kh, kw] = self.kernel;
        let [dy, dx] = self.dilation;
        let (units, columns, unit) = match self.order {
            SegmentOrder::Blocked => (inputs.div_ceil(BLOCK), kw, BLOCK),
            SegmentOrder::Planar => (inputs, 1, 1),
            SegmentOrder::PlanarPoint => (inputs, kw, 1),
            SegmentOrder::Depthwise => (1, kw, BLOCK),
        };
        let mut offsets = Vec::with_capacity(units * kh * columns);
        for i in 0..units as i64 {
            for y in 0..kh as i64 {
                for x in 0..columns {
                    let at = i * self.block + y * dy as i64 * self.row + (x * dx * unit) as i64;
                    let at = i32::try_from(at).map_err(|_| {
                        Diagnostic::unsupported(
                            "a bottom of more than 2^31 elements with its padding",
                        )
                    })?;
                    offsets.push(at);
                }
            }
        }
        Ok(offsets)
    }
}

/// How the outputs of a convolution are laid out as lines of pixels.
struct Grid {
    images: usize,
    lines: usize,
    pixels: usize,
    /// Of source, destination and residual: first element, stride of images, of lines.
    src: [i64; 3],
    dst: [i64; 3],
    residual: [i64; 3],
    dst_px: usize,
    src_px: usize,
}

/// Source elements of one task's rows should stay in the second-level cache.
const CHUNK_BYTES: usize = 384 << 10;

/// Lowers a convolution.
pub fn convolution(b: &mut Builder, node: &Node, conv: &Conv) -> Result<()> {
    let source = source(b, conv)?;
    let about = describe("convolution", b, conv);
    finish(b, node, conv, source, &about)
}

/// What a convolution reads: the user's planes where there are few channels, else
/// channel blocks, with the zeros that its windows reach.
///
/// Errors: `Unsupported` if bottom or top have not 2 to 4 axes.
pub fn source(b: &mut Builder, conv: &Conv) -> Result<Source> {
    let (Some(src), Some(dst)) = (b.dims4(conv.src), b.dims4(conv.dst)) else {
        let shape = b.graph.shape(conv.src);
        let message = format!("a convolution's bottom of shape {shape} (only 2 to 4 axes)");
        return Err(Diagnostic::unsupported(message).into());
    };
    let halo = conv.halo([src[2], src[3]], [dst[2], dst[3]]);
    let few = conv.inputs < 8 && conv.group == 1;
    if few && b.has_plain(conv.src) && !b.has_blocked(conv.src) {
        planar_source(b, conv, src, halo)
    } else {
        Ok(Source::blocked(&b.blocked_with(conv.src, halo)?, conv))
    }
}

fn describe(what: &str, b: &Builder, conv: &Conv) -> String {
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

/// The user's NCHW as it is, or a copy with zeros around each map.
fn planar_source(
    b: &mut Builder,
    conv: &Conv,
    [n, c, h, w]: [usize; 4],
    halo: Halo,
) -> Result<Source> {
    let plain = b.plain(conv.src)?;
    let view = if halo == Halo::default() {
        plane_view(plain.buffer, plain.base, [n, c, h, w], halo)
    } else {
        padded_planes(b, plain, conv.src, [n, c, h, w], halo)?
    };
    let order = if conv.dilation[1] == 1 {
        SegmentOrder::Planar
    } else {
        SegmentOrder::PlanarPoint
    };
    Ok(Source {
        buffer: view.buffer,
        base: view.base - conv.pad[0] as i64 * view.row - conv.pad[1] as i64,
        image: view.image,
        line: conv.stride[0] as i64 * view.row,
        px: conv.stride[1],
        block: view.block,
        kind: TileKind::Planar,
        order,
        taps: if order == SegmentOrder::Planar {
            conv.kernel[1]
        } else {
            1
        },
        row: view.row,
        dilation: conv.dilation,
        kernel: conv.kernel,
    })
}

/// Planes as a [`Blocked`] view whose "blocks" are single channels and whose pixels are
/// one element.
fn plane_view(buffer: BufferId, start: i64, [n, c, h, w]: [usize; 4], halo: Halo) -> Blocked {
    let row = (w + halo.left + halo.right) as i64;
    let block = row * (h + halo.top + halo.bottom) as i64;
    Blocked {
        buffer,
        base: start + halo.top as i64 * row + halo.left as i64,
        image: block * c as i64,
        block,
        row,
        n,
        c,
        h,
        w,
        halo,
    }
}

fn padded_planes(
    b: &mut Builder,
    plain: Plain,
    blob: BlobId,
    dims: [usize; 4],
    halo: Halo,
) -> Result<Blocked> {
    let [n, c, h, w] = dims;
    let name = format!("{} padded", b.graph[blob].name);
    let sides = [(h, halo.top, halo.bottom), (w, halo.left, halo.right)];
    let padded =
        |(size, before, after): (usize, usize, usize)| size.checked_add(before)?.checked_add(after);
    let len = sides
        .into_iter()
        .try_fold(n * c, |len, side| len.checked_mul(padded(side)?));
    let buffer = b.arena(&name, len)?;
    let view = plane_view(buffer, 0, dims, halo);
    let (image, channel) = (b.var(), b.var());
    let to = view.plane(image, channel);
    let from = Affine::constant(plain.base)
        .plus(image, (c * h * w) as i64)
        .plus(channel, (h * w) as i64);
    let mut body = b.halo_stmts(buffer, to.clone(), &view, 1);
    body.push(Stmt::Call {
        leaf: Leaf::Copy,
        args: vec![
            b.at(plain.buffer, from),
            b.at(buffer, to),
            Arg::Len(h),
            Arg::Len(w),
            Arg::Len(w),
            Arg::Len(view.row as usize),
        ],
    });
    let region = Region {
        tasks: vec![(image, n as u32), (channel, c as u32)],
        body,
        cost: (h * w) as u64 / 8 + 1,
    };
    let layers = vec![b.graph[blob].name.clone()];
    b.step(
        layers,
        "padded copy",
        vec![region],
        0,
        8 * (n * c * h * w) as u64,
    );
    Ok(view)
}

/// Packs weights, allocates the top and emits the step.
fn finish(b: &mut Builder, node: &Node, conv: &Conv, source: Source, about: &str) -> Result<()> {
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

fn grids(
    b: &Builder,
    conv: &Conv,
    source: &Source,
    dst: &Blocked,
    residual: Option<&Blocked>,
) -> Vec<Grid> {
    let line = |view: Option<&Blocked>| view.map_or([0; 3], |v| [v.base, v.image, v.row]);
    let whole = Grid {
        images: dst.n,
        lines: dst.h,
        pixels: dst.w,
        src: [source.base, source.image, source.line],
        dst: line(Some(dst)),
        residual: line(residual),
        dst_px: BLOCK,
        src_px: source.px,
    };
    let flat = |v: &Blocked| v.is_flat();
    let source_is_flat = source.row == (dst.w * BLOCK) as i64 || dst.h == 1;
    if dst.h * dst.w == 1 && dst.n > 1 && residual.is_none_or(|r| r.image == dst.image) {
        return vec![batch_grid(whole)];
    }
    let pointwise = conv.is_pointwise() && source.kind == TileKind::Blocked;
    if pointwise && dst.h > 1 && source_is_flat && flat(dst) && residual.is_none_or(flat) {
        return flat_grids(b, whole, dst.blocks());
    }
    vec![whole]
}

/// Images as pixels, for 1 × 1 maps.
fn batch_grid(grid: Grid) -> Grid {
    Grid {
        images: 1,
        pixels: grid.images,
        src_px: grid.src[1] as usize,
        dst_px: grid.dst[1] as usize,
        ..grid
    }
}

/// All pixels of a map as one line, cut into tiles.
fn flat_grids(b: &Builder, grid: Grid, blocks: usize) -> Vec<Grid> {
    let pixels = grid.lines * grid.pixels;
    let runs = tile::choose(b.isa(), TileKind::Blocked, pixels, blocks, BLOCK);
    let mut first = 0;
    let mut grids = Vec::new();
    for (mr, count) in tile::line_tiles(b.isa(), TileKind::Blocked, pixels, runs[0].0, BLOCK) {
        let lines = |at: [i64; 3]| [at[0] + (first * BLOCK) as i64, at[1], (mr * BLOCK) as i64];
        grids.push(Grid {
            lines: count,
            pixels: mr,
            src: lines(grid.src),
            dst: lines(grid.dst),
            residual: lines(grid.residual),
            ..grid
        });
        first += mr * count;
    }
    grids
}

/// Consecutive blocks of output channels that read the same input channels.
pub struct Run {
    first: usize,
    blocks: usize,
    first_input: usize,
    inputs: usize,
}

fn runs(conv: &Conv) -> Vec<Run> {
    let (outputs, inputs) = (conv.outputs / conv.group, conv.inputs / conv.group);
    let mut runs: Vec<Run> = Vec::new();
    for block in 0..conv.outputs.div_ceil(BLOCK) {
        let first_group = block * BLOCK / outputs;
        let last_group = ((block + 1) * BLOCK - 1).min(conv.outputs - 1) / outputs;
        let first_input = first_group * inputs / BLOCK * BLOCK;
        let inputs = (last_group + 1) * inputs - first_input;
        match runs.last_mut() {
            Some(run) if (run.first_input, run.inputs) == (first_input, inputs) => run.blocks += 1,
            _ => runs.push(Run {
                first: block,
                blocks: 1,
                first_input,
                inputs,
            }),
        }
    }
    runs
}

fn regions(
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
            regions.extend(grid_regions(b, &call, grid, run.blocks));
        }
        weights_at += weight_stride * run.blocks;
    }
    Ok(regions)
}

/// The regions of one run of channel blocks over one grid: lines in chunks whose source
/// stays in cache while all channel blocks go over it.
fn grid_regions(b: &mut Builder, call: &TileCall, grid: &Grid, blocks: usize) -> Vec<Region> {
    let line_bytes = 4 * call.segments * call.taps * grid.pixels;
    let most = (CHUNK_BYTES / line_bytes.max(1)).clamp(1, grid.lines);
    let per_chunk = grid.lines.div_ceil(grid.lines.div_ceil(most));
    let (chunks, rest) = (grid.lines / per_chunk, grid.lines % per_chunk);
    let mut regions = Vec::new();
    for (nb, first_block, tiles) in
        tile::choose(b.isa(), call.kind, grid.pixels, blocks, call.src_px)
    {
        for (first_line, chunks, lines) in [(0, chunks, per_chunk), (chunks * per_chunk, 1, rest)] {
            if lines == 0 || chunks == 0 {
                continue;
            }
            let (image, chunk, tile, line) = (b.var(), b.var(), b.var(), b.var());
            let along = |addr: &Addr, [_, images, line_stride]: [i64; 3]| {
                let offset = addr.offset.clone();
                let offset = offset
                    .offset(first_line as i64 * line_stride)
                    .plus(image, images)
                    .plus(chunk, lines as i64 * line_stride)
                    .plus(line, line_stride);
                Addr {
                    buffer: addr.buffer,
                    offset,
                }
            };
            let moved = TileCall {
                src: along(&call.src, grid.src),
                residual: call.residual.as_ref().map(|r| along(r, grid.residual)),
                dst: along(&call.dst, grid.dst),
                ..call.clone()
            };
            let moved = moved.blocks_on(first_block, tile, nb);
            regions.push(Region {
                tasks: vec![
                    (image, grid.images as u32),
                    (chunk, chunks as u32),
                    (tile, tiles as u32),
                    (line, lines as u32),
                ],
                body: b.line(&moved, grid.pixels, nb),
                cost: line_cost(call, grid.pixels, nb),
            });
        }
    }
    regions
}

/// Nanoseconds, roughly.
fn line_cost(call: &TileCall, pixels: usize, nb: usize) -> u64 {
    (pixels * nb * call.segments * call.taps) as u64 / 4 + 1
}

/// Bias, slopes and activation of a node's epilogue, packed.
pub struct EpilogueAddrs {
    pub bias: Addr,
    pub slopes: Option<Addr>,
    pub activation: Activation,
    pub slope: f32,
}

impl EpilogueAddrs {
    pub fn new(b: &mut Builder, node: &Node, bias: Option<ParamId>, outputs: usize) -> Self {
        let epilogue = &node.epilogue;
        let (slopes, activation, slope) = match &epilogue.activation {
            None => (None, Activation::None, 0.0),
            Some(IrActivation::Relu { slope }) => (None, Activation::Relu, *slope),
            Some(IrActivation::PRelu { slopes }) => {
                let name = format!("{} slopes", node.name);
                (Some(b.vector(&name, slopes)), Activation::PRelu, 0.0)
            }
        };
        let name = format!("{} bias", node.name);
        let bias = if bias.is_none() && epilogue.shift.is_none() {
            b.vector(&name, &vec![0.0; outputs])
        } else {
            let (scale, shift) = (epilogue.scale.clone(), epilogue.shift.clone());
            let len = outputs.next_multiple_of(BLOCK);
            let buffer = b.weights(&name, len, |start| {
                Pack::Bias(BiasPack {
                    start,
                    outputs,
                    bias,
                    scale,
                    shift,
                })
            });
            addr(buffer, 0)
        };
        EpilogueAddrs {
            bias,
            slopes,
            activation,
            slope,
        }
    }
}

/// Room for the packed weights, run after run.
pub fn pack_weights(
    b: &mut Builder,
    node: &Node,
    conv: &Conv,
    order: SegmentOrder,
) -> (BufferId, Vec<Run>) {
    let runs = match order {
        // Block n reads block n: one run, whose source moves along.
        SegmentOrder::Depthwise => vec![Run {
            first: 0,
            blocks: conv.outputs.div_ceil(BLOCK),
            first_input: 0,
            inputs: BLOCK,
        }],
        _ => runs(conv),
    };
    let blocks = runs
        .iter()
        .flat_map(|run| {
            (run.first..run.first + run.blocks).map(|block| BlockPack {
                block,
                first_input: run.first_input,
                inputs: match order {
                    SegmentOrder::Blocked => run.inputs.next_multiple_of(BLOCK),
                    _ => run.inputs,
                },
            })
        })
        .collect();
    let mut tiles = TilePack {
        start: 0,
        param: conv.weights,
        strides: conv.strides,
        blocks,
        outputs_per_group: conv.outputs / conv.group,
        inputs_per_group: conv.inputs / conv.group,
        outputs: conv.outputs,
        kernel: conv.kernel,
        order,
        scale: node.epilogue.scale.clone(),
    };
    let name = format!("{} weights", node.name);
    let buffer = b.weights(&name, tiles.packed_len(), |start| {
        tiles.start = start;
        Pack::Tiles(tiles)
    });
    (buffer, runs)
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

/// A deconvolution as a convolution with stride 1 over the source with `stride − 1`
/// zeros between its pixels. `conv` has the deconvolution's own kernel, stride, pad
/// and dilation; its weight strides are set here.
pub fn deconvolution(b: &mut Builder, node: &Node, conv: &Conv) -> Result<()> {
    let Some(src_dims) = b.dims4(conv.src) else {
        let shape = b.graph.shape(conv.src);
        let message = format!("a deconvolution's bottom of shape {shape} (only 2 to 4 axes)");
        return Err(Diagnostic::unsupported(message).into());
    };
    // Windows start d(k − 1) − p before the first pixel; a negative number means
    // that they start inside.
    let side =
        |i: usize| conv.dilation[i] as i64 * (conv.kernel[i] as i64 - 1) - conv.pad[i] as i64;
    let before = [side(0), side(1)];
    let spread = |i: usize, size: usize| (size - 1) * conv.stride[i] + 1;
    let size = [spread(0, src_dims[2]), spread(1, src_dims[3])];
    let (y, x) = (before[0].max(0) as usize, before[1].max(0) as usize);
    let halo = Halo {
        top: y,
        bottom: y,
        left: x,
        right: x,
    };
    let wide = spread_pixels(b, conv, [src_dims[0], src_dims[1], size[0], size[1]], halo)?;
    let plain_conv = Conv {
        strides: WeightStrides::deconvolution(
            conv.outputs / conv.group,
            conv.inputs / conv.group,
            conv.kernel,
        ),
        stride: [1, 1],
        pad: [0, 0],
        ..conv.clone()
    };
    let mut source = Source::blocked(&wide, &plain_conv);
    source.base -= before[0] * wide.row + before[1] * BLOCK as i64;
    let about = describe("deconvolution", b, conv);
    finish(b, node, &plain_conv, source, &about)
}

/// A copy of the source with `stride − 1` zeros between pixels.
fn spread_pixels(b: &mut Builder, conv: &Conv, dims: [usize; 4], halo: Halo) -> Result<Blocked> {
    let src = b.blocked(conv.src)?;
    if conv.stride == [1, 1] && src.halo.contains(halo) {
        return Ok(src);
    }
    let name = format!("{} spread", b.graph[conv.src].name);
    let dst = b.new_blocked(&name, dims, halo)?;
    let (image, block, row) = (b.var(), b.var(), b.var());
    let to = dst.plane(image, block);
    let zero = Stmt::Call {
        leaf: Leaf::Fill,
        args: vec![
            b.at(dst.buffer, to.clone()),
            Arg::Len(dst.h),
            Arg::Len(dst.w * BLOCK),
            Arg::Len(dst.row as usize),
            Arg::F32(0.0),
        ],
    };
    let copy = Stmt::Call {
        leaf: Leaf::Copy,
        args: vec![
            b.at(src.buffer, src.plane(image, block).plus(row, src.row)),
            b.at(dst.buffer, to.plus(row, dst.row * conv.stride[0] as i64)),
            Arg::Len(src.w),
            Arg::Len(BLOCK),
            Arg::Len(BLOCK),
            Arg::Len(BLOCK * conv.stride[1]),
        ],
    };
    let mut body = vec![zero];
    body.extend(for_loop(row, src.h, vec![copy]));
    let region = Region {
        tasks: vec![(image, src.n as u32), (block, src.blocks() as u32)],
        body,
        cost: (dst.h * dst.w) as u64 + 1,
    };
    let layers = vec![b.graph[conv.src].name.clone()];
    let traffic = 4 * (src.h * src.w + dst.h * dst.w) as u64 * (src.n * src.c) as u64;
    b.step(layers, "zeros between pixels", vec![region], 0, traffic);
    Ok(dst)
}

/// An inner product of `outputs` over everything from `axis` on; `transpose` says that
/// the weights lie as inputs × outputs.
pub fn inner_product(
    b: &mut Builder,
    node: &Node,
    (src, dst): (BlobId, BlobId),
    (weights, bias): (ParamId, Option<ParamId>),
    (axis, outputs, transpose): (usize, usize, bool),
) -> Result<()> {
    let shape = b.graph.shape(src).clone();
    let inputs = shape.count_of(axis..shape.len());
    let maps = b.dims4(src).filter(|_| axis == 1);
    let [m, c, h, w] = maps.unwrap_or([shape.count_of(0..axis), inputs, 1, 1]);
    let view = match maps {
        Some(_) => b.blocked(src)?,
        None => matrix(b, src, m, inputs)?,
    };
    let area = h * w;
    let unit = if transpose { outputs } else { 1 };
    let strides = WeightStrides {
        base: 0,
        group: 0,
        output: if transpose { 1 } else { inputs },
        input: area * unit,
        row: (w * unit) as isize,
        column: unit as isize,
    };
    let conv = Conv {
        src,
        dst,
        weights,
        strides,
        bias,
        inputs: c,
        outputs,
        group: 1,
        kernel: [h, w],
        stride: [1, 1],
        pad: [0, 0],
        dilation: [1, 1],
    };
    let source = Source::blocked(&view, &conv);
    let about = format!("inner product: {m}x{inputs} -> {m}x{outputs}");
    if axis == 1 {
        return finish(b, node, &conv, source, &about);
    }
    let name = format!("{} matrix", b.graph[dst].name);
    let result = b.new_blocked(&name, [m, outputs, 1, 1], Halo::default())?;
    let grids = grids(b, &conv, &source, &result, None);
    let regions = regions(b, node, &conv, &source, &result, None, &grids)?;
    b.step(
        node.layers.clone(),
        about,
        regions,
        (m * inputs * outputs) as u64,
        b.traffic(node),
    );
    let plain = b.alloc_plain(dst)?;
    let regions = b.to_plain(&result, plain);
    b.step(
        node.layers.clone(),
        "blocked to plain",
        regions,
        0,
        8 * (m * outputs) as u64,
    );
    Ok(())
}

/// A blob as a dense `m × k` matrix of pixels with `k` channels.
fn matrix(b: &mut Builder, src: BlobId, m: usize, k: usize) -> Result<Blocked> {
    let plain = b.plain(src)?;
    if k % BLOCK == 0 {
        return Ok(super::view::pixels(plain, m, k));
    }
    let name = format!("{} matrix", b.graph[src].name);
    let view = b.new_blocked(&name, [m, k, 1, 1], Halo::default())?;
    let regions = b.to_blocked(plain, &view);
    let layers = vec![b.graph[src].name.clone()];
    b.step(layers, "plain to blocked", regions, 0, 8 * (m * k) as u64);
    Ok(view)
}
