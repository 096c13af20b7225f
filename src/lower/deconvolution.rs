//! Deconvolution, as a convolution over a source with zeros between its pixels.

use super::Builder;
use super::conv::{Axis, Conv, WeightStrides, describe, finish};
use super::source::{Source, Spread, spread};
use super::view::{Blocked, Halo};
use crate::diag::Result;
use crate::ir::Node;
use crate::leaf::BLOCK;

/// A deconvolution as a convolution with stride 1 over the source with `stride − 1`
/// zeros between its pixels. `conv` has the deconvolution's own kernel, stride, pad
/// and dilation; its weight strides are set here.
pub fn deconvolution(b: &mut Builder, node: &Node, conv: &Conv) -> Result<()> {
    let slices: Vec<i64> = conv
        .outer
        .iter()
        .map(|axis| first(axis.kernel, axis.pad, axis.dilation))
        .collect();
    let [y, x] = [0, 1].map(|i| first(conv.kernel[i], conv.pad[i], conv.dilation[i]));
    let (rows, columns) = (y.max(0) as usize, x.max(0) as usize);
    let halo = Halo {
        top: rows,
        bottom: rows,
        left: columns,
        right: columns,
    };
    let spreads: Vec<Spread> = conv
        .outer
        .iter()
        .zip(&slices)
        .map(|(axis, &before)| Spread {
            input: axis.input,
            stride: axis.stride,
            before: before.max(0) as usize,
            after: before.max(0) as usize,
        })
        .collect();
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
    let about = describe("deconvolution", b, conv);
    finish(b, node, &plain_conv, source, &about)
}

/// How far before the first pixel windows start along an axis; a negative number means
/// that they start inside.
fn first(kernel: usize, pad: usize, dilation: usize) -> i64 {
    dilation as i64 * (kernel as i64 - 1) - pad as i64
}

/// The source with `stride − 1` zeros between pixels: itself if there is nothing to do.
fn spread_pixels(b: &mut Builder, conv: &Conv, slices: &[Spread], halo: Halo) -> Result<Blocked> {
    let src = b.blocked_at(conv.src, conv.axis, Halo::default())?;
    let same = slices.iter().all(|axis| axis.size() == axis.input);
    if conv.stride == [1, 1] && same && src.halo.contains(halo) {
        return Ok(src);
    }
    spread(b, conv.src, &src, slices, conv.stride, halo)
}
