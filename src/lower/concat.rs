//! Concat and Slice: by placing blobs inside each other where channel blocks allow it,
//! else by copies.

use super::view::Plain;
use super::{Builder, conv::addr};
use crate::diag::Result;
use crate::ir::{BlobId, Graph, Node, Shape};
use crate::kernel::{Arg, Region, Stmt};
use crate::layers::Op;
use crate::leaf::{BLOCK, Leaf};

/// For each blob, the blob whose memory it should be part of, and at which channel:
/// bottoms of a Concat of whole channel blocks.
pub fn placements(graph: &Graph) -> Vec<Option<(BlobId, usize)>> {
    let mut inside = vec![None; graph.blobs.len()];
    for node in &graph.nodes {
        let Op::Concat(concat) = &node.op else {
            continue;
        };
        if node.counts > 0 {
            continue;
        }
        let top = node.tops[0];
        let Some(starts) = block_starts(graph, node, concat.axis) else {
            continue;
        };
        for (&bottom, start) in node.bottoms.iter().zip(starts) {
            let slot: &mut Option<(BlobId, usize)> = &mut inside[bottom.0 as usize];
            if slot.is_none() && !graph.inputs.contains(&bottom) {
                *slot = Some((top, start));
            }
        }
    }
    inside
}

/// First channels of the bottoms, if the join is along the channels and each but the
/// last bottom is made of whole channel blocks.
fn block_starts(graph: &Graph, node: &Node, axis: i32) -> Option<Vec<usize>> {
    let shapes = graph.bottom_shapes(node);
    let on_channels = shapes[0].axis(axis) == Ok(1);
    if !on_channels || shapes.iter().any(|s| s.count() == 0) {
        return None;
    }
    starts(&shapes)
}

fn starts(shapes: &[Shape]) -> Option<Vec<usize>> {
    let mut at = 0;
    let mut starts = Vec::new();
    for shape in shapes {
        if at % BLOCK != 0 {
            return None;
        }
        starts.push(at);
        at += shape[1];
    }
    Some(starts)
}

/// Joins the bottoms along `axis`.
pub fn concat(b: &mut Builder, node: &Node, axis: usize) -> Result<()> {
    let top = node.tops[0];
    let blocked = block_starts(b.graph, node, axis as i32);
    match blocked {
        Some(starts) if node.bottoms.iter().any(|&bottom| b.has_blocked(bottom)) => {
            concat_blocked(b, node, top, &starts)
        }
        _ => concat_plain(b, node, top, axis),
    }
}

fn concat_blocked(b: &mut Builder, node: &Node, top: BlobId, starts: &[usize]) -> Result<()> {
    let bottoms: Result<Vec<_>> = node
        .bottoms
        .iter()
        .map(|&bottom| b.blocked(bottom))
        .collect();
    let bottoms = bottoms?;
    let parent = match b.has_blocked(top) {
        true => b.blocked(top)?,
        false => b.alloc_blocked(top)?,
    };
    let mut regions = Vec::new();
    let mut bytes = 0;
    for (view, start) in bottoms.iter().zip(starts) {
        let mut place = parent;
        place.base += (start / BLOCK) as i64 * parent.block;
        place.c = view.c;
        if (view.buffer, view.base) != (place.buffer, place.base) {
            regions.push(b.copy_blocked(view, &place));
            bytes += 8 * (view.n * view.c * view.h * view.w) as u64;
        }
    }
    if !regions.is_empty() {
        b.step(node.layers.clone(), "concat: copies", regions, 0, bytes);
    }
    Ok(())
}

fn concat_plain(b: &mut Builder, node: &Node, top: BlobId, axis: usize) -> Result<()> {
    let mut parts = Vec::new();
    for &bottom in &node.bottoms {
        if b.graph.shape(bottom).count() > 0 {
            parts.push((b.plain(bottom)?, b.graph.shape(bottom).clone()));
        }
    }
    let dst = b.alloc_plain(top)?;
    let shape = b.graph.shape(top).clone();
    let row = shape.count_of(axis..shape.len());
    let mut at = 0;
    let mut regions = Vec::new();
    for (src, shape) in parts {
        let len = shape.count_of(axis..shape.len());
        let rows = shape.count_of(0..axis);
        regions.push(copy_rows(src, dst, (at, row), (0, len), rows, len));
        at += len;
    }
    b.step(
        node.layers.clone(),
        "concat: copies",
        regions,
        0,
        b.traffic(node),
    );
    Ok(())
}

/// `rows` rows of `len` elements, each side with its start and row stride.
fn copy_rows(
    src: Plain,
    dst: Plain,
    (to, dst_stride): (usize, usize),
    (from, src_stride): (usize, usize),
    rows: usize,
    len: usize,
) -> Region {
    let call = Stmt::Call {
        leaf: Leaf::Copy,
        args: vec![
            Arg::Addr(addr(src.buffer, src.base + from as i64)),
            Arg::Addr(addr(dst.buffer, dst.base + to as i64)),
            Arg::Len(rows),
            Arg::Len(len),
            Arg::Len(src_stride),
            Arg::Len(dst_stride),
        ],
    };
    Region {
        tasks: Vec::new(),
        body: vec![call],
        cost: (rows * len) as u64 / 8 + 1,
    }
}

/// Cuts the bottom along `axis` at the tops' sizes.
pub fn slice(b: &mut Builder, node: &Node, axis: usize) -> Result<()> {
    let bottom = node.bottoms[0];
    let shapes: Vec<Shape> = node
        .tops
        .iter()
        .map(|&t| b.graph.shape(t).clone())
        .collect();
    let on_channels = axis == 1 && b.has_blocked(bottom);
    if let Some(starts) = on_channels.then(|| starts(&shapes)).flatten() {
        let whole = b.blocked(bottom)?;
        for ((&top, start), shape) in node.tops.iter().zip(starts).zip(&shapes) {
            let base = whole.base + (start / BLOCK) as i64 * whole.block;
            b.set_blocked(
                top,
                super::Blocked {
                    base,
                    c: shape[1],
                    ..whole
                },
            );
        }
        return Ok(());
    }
    let src = b.plain(bottom)?;
    let shape = b.graph.shape(bottom).clone();
    let (rows, row) = (shape.count_of(0..axis), shape.count_of(axis..shape.len()));
    let mut at = 0;
    let mut regions = Vec::new();
    for (&top, shape) in node.tops.iter().zip(&shapes) {
        let len = shape.count_of(axis..shape.len());
        if rows == 1 {
            let base = src.base + at as i64;
            b.set_plain(top, Plain { base, ..src });
        } else if len > 0 {
            let dst = b.alloc_plain(top)?;
            regions.push(copy_rows(src, dst, (0, len), (at, row), rows, len));
        }
        at += len;
    }
    if !regions.is_empty() {
        b.step(
            node.layers.clone(),
            "slice: copies",
            regions,
            0,
            b.traffic(node),
        );
    }
    Ok(())
}
