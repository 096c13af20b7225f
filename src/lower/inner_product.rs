//! Inner product, as a convolution whose kernel is the whole map.

use super::Builder;
use super::conv::{Conv, WeightStrides, finish};
use super::source::Source;
use super::view::{Blocked, Halo, Maps, pixels};
use crate::diag::Result;
use crate::ir::{BlobId, Node, ParamId};
use crate::leaf::BLOCK;

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
    let maps = b
        .maps(src)
        .filter(|maps| axis == 1 && maps.slices == 1 && !worth_packing(maps, inputs, outputs));
    let (m, [c, h, w]) = match maps {
        Some(maps) => (maps.items, [maps.c, maps.h, maps.w]),
        None => (shape.count_of(0..axis), [inputs, 1, 1]),
    };
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
        axis,
        weights,
        strides,
        bias,
        inputs: c,
        outputs,
        group: 1,
        outer: Vec::new(),
        kernel: [h, w],
        stride: [1, 1],
        pad: [0, 0],
        dilation: [1, 1],
    };
    let source = Source::blocked(&view, &[], &conv);
    let about = format!("inner product: {m}x{inputs} -> {m}x{outputs}");
    finish(b, node, &conv, source, &about)
}

/// Whether products with the zeros beyond a map's last channel, and their weights, cost
/// more than it takes to put its pixels in a row.
fn worth_packing(maps: &Maps, inputs: usize, outputs: usize) -> bool {
    let zeros = maps.c.next_multiple_of(BLOCK) * maps.h * maps.w - inputs;
    !maps.is_pixel() && zeros * outputs > 16 * inputs
}

/// A blob as a dense `m × k` matrix of pixels with `k` channels.
fn matrix(b: &mut Builder, src: BlobId, m: usize, k: usize) -> Result<Blocked> {
    let plain = b.plain(src)?;
    if k.is_multiple_of(BLOCK) {
        return Ok(pixels(plain, m, k));
    }
    let name = format!("{} matrix", b.graph[src].name);
    let view = b.new_blocked(&name, [m, k, 1, 1], Halo::default())?;
    let regions = b.to_blocked(plain, &view);
    let layers = vec![b.graph[src].name.clone()];
    b.step(layers, "plain to blocked", regions, 0, 8 * (m * k) as u64);
    Ok(view)
}
