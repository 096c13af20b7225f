//! Deconvolution, as a convolution over a source with zeros between its pixels.

use super::Builder;
use super::conv::{Axis, Conv, WeightStrides, describe, finish};
use super::source::{self, Source, Spread};
use super::view::{Blocked, Halo, Maps};
use crate::diag::Result;
use crate::ir::Node;
use crate::leaf::BLOCK;

/// A deconvolution as a convolution with stride 1 over the source with `stride − 1`
/// zeros between its pixels. `conv` has the deconvolution's own kernel, stride, pad
/// and dilation; its weight strides are set here.
pub fn deconvolution(b: &mut Builder, node: &Node, conv: &Conv) -> Result<()> {
    let [src, dst] = [conv.src, conv.dst].map(|blob| Maps::of(b.graph.shape(blob), conv.axis));
    let plane = |i: usize, input, output| Axis {
        input,
        output,
        kernel: conv.kernel[i],
        stride: conv.stride[i],
        pad: conv.pad[i],
        dilation: conv.dilation[i],
    };
    let [rows, columns] = [plane(0, src.h, dst.h), plane(1, src.w, dst.w)];
    let (y, bottom) = around(&rows);
    let (x, right) = around(&columns);
    let halo = Halo {
        top: y.max(0) as usize,
        bottom,
        left: x.max(0) as usize,
        right,
    };
    let slices: Vec<i64> = conv.outer.iter().map(|axis| around(axis).0).collect();
    let spread = |axis: &Axis| {
        let (before, after) = around(axis);
        Spread {
            input: axis.input,
            stride: axis.stride,
            before: before.max(0) as usize,
            after,
        }
    };
    let spreads: Vec<Spread> = conv.outer.iter().map(spread).collect();
    let wide = spread_pixels(b, conv, &spreads, halo)?;
    let sizes: Vec<usize> = spreads.iter().map(Spread::size).collect();
    let plain_conv = Conv {
        strides: WeightStrides::deconvolution(
            conv.outputs / conv.group,
            conv.inputs / conv.group,
            conv.kernel_plane(),
        ),
        stride: [1, 1],
        pad: [0, 0],
        outer: conv
            .outer
            .iter()
            .map(|&axis| Axis { stride: 1, ..axis })
            .collect(),
        ..conv.clone()
    };
    let mut source = Source::blocked(&wide, &sizes, &plain_conv);
    source.base -= y * wide.row + x * BLOCK as i64;
    for (&before, (_, step)) in slices.iter().zip(&source.outer) {
        source.base -= before.min(0) * step;
    }
    let about = describe("deconvolution", b.graph, conv);
    finish(b, node, &plain_conv, source, &about)
}

/// How far windows reach before the first pixel along an axis, where a negative number
/// means that they start inside, and beyond the last.
fn around(axis: &Axis) -> (i64, usize) {
    let reach = axis.dilation as i64 * (axis.kernel as i64 - 1);
    let before = reach - axis.pad as i64;
    let size = (axis.input.max(1) as i64 - 1) * axis.stride as i64 + 1;
    let after = axis.output as i64 - before + reach - size;
    (before, after.max(0) as usize)
}

/// The source with `stride − 1` zeros between pixels: itself if there is nothing to do.
fn spread_pixels(b: &mut Builder, conv: &Conv, slices: &[Spread], halo: Halo) -> Result<Blocked> {
    let src = b.blocked_at(conv.src, conv.axis, Halo::default())?;
    let same = slices.iter().all(|axis| axis.size() == axis.input);
    if conv.stride == [1, 1] && same && src.halo.contains(halo) {
        return Ok(src);
    }
    source::spread(b, conv.src, &src, slices, conv.stride, halo)
}
