//! What a convolution reads: channel blocks or plain planes, with the zeros that its
//! windows reach around them.

use super::conv::Conv;
use super::pack::SegmentOrder;
use super::tile::TileKind;
use super::view::{Blocked, Halo, Maps, Plain};
use super::{Builder, for_loop};
use crate::diag::{Diagnostic, Result};
use crate::ir::BlobId;
use crate::kernel::{Affine, Arg, BufferId, Region, Stmt};
use crate::leaf::{BLOCK, Leaf};

/// Longest table of segments: 2^24 products in a sum of channel blocks.
const MAX_SEGMENTS: usize = 1 << 20;

/// Where tiles read: the first element that the first window of an image reads, and
/// the table of segments from there.
pub struct Source {
    pub buffer: BufferId,
    pub base: i64,
    /// From one item to the next.
    pub image: i64,
    /// Spatial axes before the height: how many outputs there are, and how far their
    /// windows lie apart.
    pub outer: Vec<(usize, i64)>,
    /// From one output row's windows to the next.
    pub line: i64,
    pub px: usize,
    /// From one input channel block to the next.
    pub block: i64,
    pub kind: TileKind,
    pub order: SegmentOrder,
    pub row: i64,
    /// Kernel axes but the last, outermost first: how many taps, and how far apart.
    kernel: Vec<(usize, i64)>,
    columns: usize,
    dilation: usize,
}

impl Source {
    /// A blocked source, whose halo holds what the windows reach. `slices` are its sizes
    /// along the outer axes, with the padding there.
    pub fn blocked(view: &Blocked, slices: &[usize], conv: &Conv) -> Source {
        let (kind, order) = match conv.is_depthwise() {
            true => {
                let kind = TileKind::depthwise(conv.kernel[1], conv.dilation[1]);
                (kind, SegmentOrder::Depthwise)
            }
            false => (TileKind::Blocked, SegmentOrder::Blocked),
        };
        let mut outer = Vec::new();
        let mut kernel = Vec::new();
        for (i, axis) in conv.outer.iter().enumerate() {
            let step = view.image * slices[i + 1..].iter().product::<usize>() as i64;
            outer.push((axis.output, axis.stride as i64 * step));
            kernel.push((axis.kernel, axis.dilation as i64 * step));
        }
        kernel.push((conv.kernel[0], conv.dilation[0] as i64 * view.row));
        Source {
            buffer: view.buffer,
            base: view.base - conv.pad[0] as i64 * view.row - (conv.pad[1] * BLOCK) as i64,
            image: view.item(),
            outer,
            line: conv.stride[0] as i64 * view.row,
            px: conv.stride[1] * BLOCK,
            block: view.block,
            kind,
            order,
            row: view.row,
            kernel,
            columns: conv.kernel[1],
            dilation: conv.dilation[1],
        }
    }

    /// Packed weights of one block of output channels.
    pub fn weight_stride(&self, segments: usize) -> usize {
        segments * self.kind.taps() * BLOCK
    }

    /// Maps that one block of output channels reads.
    pub fn planes(&self, conv: &Conv) -> usize {
        match self.order {
            SegmentOrder::Blocked => {
                let slices: usize = conv.outer.iter().map(|axis| axis.kernel).product();
                (conv.inputs / conv.group).div_ceil(BLOCK) * slices
            }
            SegmentOrder::Planar | SegmentOrder::PlanarPoint => conv.inputs,
            SegmentOrder::Depthwise => 1,
        }
    }

    /// How far the source moves from one block of output channels to the next.
    pub fn src_stride(&self) -> usize {
        match self.kind {
            TileKind::Depthwise { .. } => self.block as usize,
            _ => 0,
        }
    }

    /// Element offsets of the segments for `inputs` input channels.
    ///
    /// Errors: `Unsupported` beyond what an i32 can say, and for tables that no real
    /// kernel needs.
    pub fn offsets(&self, inputs: usize) -> Result<Vec<i32>> {
        let (units, columns, unit) = match self.order {
            SegmentOrder::Blocked => (inputs.div_ceil(BLOCK), self.columns, BLOCK),
            SegmentOrder::Planar => (inputs, 1, 1),
            SegmentOrder::PlanarPoint => (inputs, self.columns, 1),
            SegmentOrder::Depthwise => (1, self.columns / self.kind.taps(), BLOCK),
        };
        let axes = [(units, self.block)]
            .into_iter()
            .chain(self.kernel.iter().copied())
            .chain([(columns, (self.dilation * unit) as i64)]);
        let sizes = axes.clone().map(|(taps, _)| taps);
        if sizes.fold(1, usize::saturating_mul) > MAX_SEGMENTS {
            let rows: usize = self.kernel.iter().map(|&(taps, _)| taps).product();
            let message = format!("a kernel of {rows}×{columns} over {inputs} channels");
            return Err(Diagnostic::unsupported(message).into());
        }
        let mut offsets = vec![0];
        for (taps, step) in axes {
            let along = |&start: &i64| (0..taps as i64).map(move |tap| start + tap * step);
            offsets = offsets.iter().flat_map(along).collect();
        }
        let narrow = |offset| {
            i32::try_from(offset).map_err(|_| {
                let message = "a bottom of more than 2^31 elements with its padding";
                Diagnostic::unsupported(message).into()
            })
        };
        offsets.into_iter().map(narrow).collect()
    }
}

/// What a convolution reads: the user's planes where there are few channels, else
/// channel blocks, with the zeros that its windows reach.
pub fn source(b: &mut Builder, conv: &Conv) -> Result<Source> {
    let [src, dst] = [conv.src, conv.dst].map(|blob| Maps::of(b.graph.shape(blob), conv.axis));
    let halo = conv.halo([src.h, src.w], [dst.h, dst.w]);
    if conv.has_few_inputs() && b.has_plain(conv.src) && !b.has_blocked(conv.src) {
        return planar_source(b, conv, [src.items, src.c, src.h, src.w], halo);
    }
    let pads = conv.outer.iter().map(|axis| {
        let (before, after) = axis.reach();
        Spread {
            input: axis.input,
            stride: 1,
            before,
            after,
        }
    });
    let slices: Vec<Spread> = pads.collect();
    let sizes: Vec<usize> = slices.iter().map(Spread::size).collect();
    let padded = slices.iter().any(|axis| axis.size() > axis.input);
    let view = if padded {
        let view = b.blocked_at(conv.src, conv.axis, Halo::default())?;
        spread(b, conv.src, &view, &slices, [1, 1], halo)?
    } else {
        b.blocked_at(conv.src, conv.axis, halo)?
    };
    Ok(Source::blocked(&view, &sizes, conv))
}

/// What becomes of an axis: `stride − 1` zeros between its elements, and so many before
/// the first and after the last.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub input: usize,
    pub stride: usize,
    pub before: usize,
    pub after: usize,
}

impl Spread {
    pub fn size(&self) -> usize {
        let between = (self.input.max(1) - 1).saturating_mul(self.stride);
        let with_last = between.saturating_add(self.input.min(1));
        with_last
            .saturating_add(self.before)
            .saturating_add(self.after)
    }
}

/// A copy of `src`, a view of `blob`, with zeros between and around slices, rows and
/// columns: `stride` is that of rows and columns, which get zeros around them by the halo.
pub fn spread(
    b: &mut Builder,
    blob: BlobId,
    src: &Blocked,
    slices: &[Spread],
    stride: [usize; 2],
    halo: Halo,
) -> Result<Blocked> {
    let sizes: Vec<usize> = slices.iter().map(Spread::size).collect();
    let wide = |input: usize, stride: usize| Spread {
        input,
        stride,
        before: 0,
        after: 0,
    };
    let maps = Maps {
        items: src.items(),
        c: src.c,
        slices: sizes.iter().fold(1, |n, &size| n.saturating_mul(size)),
        h: wide(src.h, stride[0]).size(),
        w: wide(src.w, stride[1]).size(),
    };
    let layers = vec![b.graph[blob].name.clone()];
    let dst = b.new_maps(&format!("{} spread", layers[0]), maps, halo)?;
    let (item, block, row) = (b.var(), b.var(), b.var());
    let mut from = Affine::constant(src.base).plus(item, src.item());
    let mut to = Affine::constant(dst.base).plus(item, dst.item());
    let mut tasks = vec![(item, src.items() as u32)];
    let (mut src_step, mut dst_step) = (src.item(), dst.item());
    for (axis, &size) in slices.iter().zip(&sizes) {
        let slice = b.var();
        src_step /= axis.input.max(1) as i64;
        dst_step /= size as i64;
        from = from.plus(slice, src_step);
        to = to
            .offset(axis.before as i64 * dst_step)
            .plus(slice, axis.stride as i64 * dst_step);
        tasks.push((slice, axis.input as u32));
    }
    tasks.push((block, src.blocks() as u32));
    let from = from.plus(block, src.block);
    let to = to.plus(block, dst.block);
    let zeros = |b: &Builder, at: Affine| Stmt::Call {
        leaf: Leaf::Fill,
        args: vec![
            b.at(dst.buffer, at),
            Arg::Len(dst.h),
            Arg::Len(dst.w * BLOCK),
            Arg::Len(dst.row as usize),
            Arg::F32(0.0),
        ],
    };
    let line = dst.row * stride[0] as i64;
    let (rows, from, onto, [count, len, src_stride, dst_stride]) = match stride[1] {
        1 => {
            let sizes = [src.h, src.w * BLOCK, src.row as usize, line as usize];
            (1, from, to.clone(), sizes)
        }
        stride => {
            let sizes = [src.w, BLOCK, BLOCK, BLOCK * stride];
            let (from, onto) = (from.plus(row, src.row), to.clone().plus(row, line));
            (src.h, from, onto, sizes)
        }
    };
    let copy = Stmt::Call {
        leaf: Leaf::Copy,
        args: vec![
            b.at(src.buffer, from),
            b.at(dst.buffer, onto),
            Arg::Len(count),
            Arg::Len(len),
            Arg::Len(src_stride),
            Arg::Len(dst_stride),
        ],
    };
    let cost = (dst.h * dst.w) as u64 + 1;
    let mut body = Vec::new();
    if dst.slices > src.slices {
        let (image, block) = (b.var(), b.var());
        let region = Region {
            tasks: vec![(image, dst.n as u32), (block, dst.blocks() as u32)],
            body: vec![zeros(b, dst.plane(image, block))],
            cost,
        };
        b.step(layers.clone(), "zero slices", vec![region], 0, 0);
    } else if stride != [1, 1] {
        body.push(zeros(b, to));
    }
    body.extend(for_loop(row, rows, vec![copy]));
    let region = Region { tasks, body, cost };
    let traffic = 4 * (src.n * src.h * src.w + dst.n * dst.h * dst.w) as u64 * src.c as u64;
    b.step(layers, "zeros between pixels", vec![region], 0, traffic);
    Ok(dst)
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
    let (order, taps) = if conv.dilation[1] == 1 {
        (SegmentOrder::Planar, conv.kernel[1])
    } else {
        (SegmentOrder::PlanarPoint, 1)
    };
    Ok(Source {
        buffer: view.buffer,
        base: view.base - conv.pad[0] as i64 * view.row - conv.pad[1] as i64,
        image: view.image,
        outer: Vec::new(),
        line: conv.stride[0] as i64 * view.row,
        px: conv.stride[1],
        block: view.block,
        kind: TileKind::Planar { taps },
        order,
        row: view.row,
        kernel: vec![(conv.kernel[0], conv.dilation[0] as i64 * view.row)],
        columns: conv.kernel[1],
        dilation: conv.dilation[1],
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
        slices: 1,
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
