//! What a convolution reads: channel blocks or plain planes, with the zeros that its
//! windows reach around them.

use super::Builder;
use super::conv::Conv;
use super::pack::SegmentOrder;
use super::tile::TileKind;
use super::view::{Blocked, Halo, Plain};
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
    pub image: i64,
    /// From one output row's windows to the next.
    pub line: i64,
    pub px: usize,
    /// From one input channel block to the next.
    pub block: i64,
    pub kind: TileKind,
    pub order: SegmentOrder,
    pub taps: usize,
    pub row: i64,
    dilation: [usize; 2],
    kernel: [usize; 2],
}

impl Source {
    /// A blocked source, whose halo holds what the windows reach.
    pub fn blocked(view: &Blocked, conv: &Conv) -> Source {
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

    /// Maps that one block of output channels reads.
    pub fn planes(&self, conv: &Conv) -> usize {
        match self.order {
            SegmentOrder::Blocked => (conv.inputs / conv.group).div_ceil(BLOCK),
            SegmentOrder::Planar | SegmentOrder::PlanarPoint => conv.inputs,
            SegmentOrder::Depthwise => 1,
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
    /// Errors: `Unsupported` beyond what an i32 can say, and for tables that no real
    /// kernel needs.
    pub fn offsets(&self, inputs: usize) -> Result<Vec<i32>> {
        let [kh, kw] = self.kernel;
        let [dy, dx] = self.dilation;
        let (units, columns, unit) = match self.order {
            SegmentOrder::Blocked => (inputs.div_ceil(BLOCK), kw, BLOCK),
            SegmentOrder::Planar => (inputs, 1, 1),
            SegmentOrder::PlanarPoint => (inputs, kw, 1),
            SegmentOrder::Depthwise => (1, kw, BLOCK),
        };
        let count = units.saturating_mul(kh).saturating_mul(columns);
        if count > MAX_SEGMENTS {
            let message = format!("a kernel of {kh}×{kw} over {inputs} channels");
            return Err(Diagnostic::unsupported(message).into());
        }
        let mut offsets = Vec::with_capacity(count);
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
