//! Deconvolution, as a convolution over a source with zeros between its pixels.

use super::conv::{Conv, WeightStrides, describe, finish};
use super::source::Source;
use super::view::{Blocked, Halo};
use super::{Builder, for_loop};
use crate::diag::{Diagnostic, Result};
use crate::ir::Node;
use crate::kernel::{Arg, Region, Stmt};
use crate::leaf::{BLOCK, Leaf};

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
