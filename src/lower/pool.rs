//! Pooling as expressions over windows.
//!
//! Windows at a border are cut, so outputs fall into classes of equal windows along
//! each axis; every pair of classes becomes loops around one `Map`.

use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::{BlobId, Node};
use crate::kernel::{Addr, Affine, BinaryOp, Expr, Region, Stmt};
use crate::leaf::BLOCK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    Max,
    Average,
}

/// Two-dimensional pooling; the outputs' number is the top's shape.
#[derive(Clone, Debug)]
pub struct Pool {
    pub src: BlobId,
    pub dst: BlobId,
    pub kind: PoolKind,
    /// Height, then width.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
}

/// Consecutive outputs along one axis whose windows have the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    first: usize,
    count: usize,
    /// First input of the first window; the next one starts a stride later.
    start: usize,
    len: usize,
    /// The window's length for the divisor of an average: padding counts, what lies
    /// beyond the padding does not.
    extent: i64,
}

fn classes(size: usize, outputs: usize, kernel: usize, stride: usize, pad: usize) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for output in 0..outputs {
        let from = (output * stride) as i64 - pad as i64;
        let to = (from + kernel as i64).min((size + pad) as i64);
        let (start, end) = (from.max(0).min(size as i64), to.min(size as i64));
        let (start, len) = (start as usize, (end - start).max(0) as usize);
        let extent = to - from;
        if let Some(last) = classes.last_mut() {
            let next = last.start + last.count * stride;
            if (last.len, last.extent) == (len, extent) && (next == start || len == 0) {
                last.count += 1;
                continue;
            }
        }
        classes.push(Class { first: output, count: 1, start, len, extent });
    }
    classes
}

/// Lowers MAX and AVE pooling of a blob of 2 to 4 axes.
pub fn pool(b: &mut Builder, node: &Node, pool: &Pool) -> Result<()> {
    let src = b.blocked(pool.src)?;
    let dst = b.alloc_blocked(pool.dst)?;
    let axis = |i: usize, size, outputs| classes(size, outputs, pool.kernel[i], pool.stride[i], pool.pad[i]);
    let (rows, columns) = (axis(0, src.h, dst.h), axis(1, src.w, dst.w));
    let empty = |c: &Class| c.len == 0;
    let has_empty = rows.iter().any(empty) || columns.iter().any(empty);
    let (image, block) = (b.var(), b.var());
    let mut body = Vec::new();
    for row in &rows {
        for column in &columns {
            let (y, x) = (b.var(), b.var());
            let from = src
                .plane(image, block)
                .offset(row.start as i64 * src.row + (column.start * BLOCK) as i64)
                .plus(y, pool.stride[0] as i64 * src.row)
                .plus(x, (pool.stride[1] * BLOCK) as i64);
            let to = dst
                .plane(image, block)
                .offset(row.first as i64 * dst.row + (column.first * BLOCK) as i64)
                .plus(y, dst.row)
                .plus(x, BLOCK as i64);
            let map = Stmt::Map {
                lanes: BLOCK as u32,
                dst: Addr { buffer: dst.buffer, offset: to },
                value: window(b, pool.kind, Addr { buffer: src.buffer, offset: from }, src.row, row, column),
            };
            let line = for_loop(x, column.count, vec![map]);
            body.extend(for_loop(y, row.count, line));
        }
    }
    let region = Region {
        tasks: vec![(image, dst.n as u32), (block, dst.blocks() as u32)],
        body,
        cost: (dst.h * dst.w * pool.kernel[0] * pool.kernel[1]) as u64 + 1,
    };
    let [kh, kw] = pool.kernel;
    let kind = if pool.kind == PoolKind::Max { "max" } else { "average" };
    let about = format!("{kind} pooling {kh}x{kw}: {}x{} -> {}x{}", src.h, src.w, dst.h, dst.w);
    b.step(node.layers.clone(), about, vec![region], 0, b.traffic(node));
    if has_empty {
        if let Some(region) = b.tail_fill(&dst) {
            b.step(node.layers.clone(), "zero lanes", vec![region], 0, 0);
        }
    }
    Ok(())
}

fn window(b: &mut Builder, kind: PoolKind, from: Addr, row: i64, rows: &Class, columns: &Class) -> Expr {
    let (op, init) = match kind {
        PoolKind::Max => (BinaryOp::Max, -f32::MAX),
        PoolKind::Average => (BinaryOp::Add, 0.0),
    };
    let value = if rows.len * columns.len == 0 {
        Expr::Const(init)
    } else {
        let (y, x) = (b.var(), b.var());
        let offset: Affine = from.offset.plus(y, row).plus(x, BLOCK as i64);
        Expr::Reduce {
            op,
            init,
            window: vec![(y, rows.len as u32), (x, columns.len as u32)],
            value: Box::new(Expr::Load(Addr { buffer: from.buffer, offset })),
        }
    };
    match kind {
        PoolKind::Max => value,
        PoolKind::Average => {
            let area = (rows.extent * columns.extent) as f32;
            Expr::Binary(BinaryOp::Div, Box::new(value), Box::new(Expr::Const(area)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fall_into_classes() {
        // 3/2 pooling of 6 with Caffe's rounding: 3 outputs, the last one cut.
        let c = classes(6, 3, 3, 2, 0);
        assert_eq!(c.len(), 2);
        assert_eq!((c[0].first, c[0].count, c[0].start, c[0].len), (0, 2, 0, 3));
        assert_eq!((c[1].first, c[1].start, c[1].len, c[1].extent), (2, 4, 2, 2));
        // 3/2 pad 1 of 5: the first and the last window reach into the padding.
        let c = classes(5, 3, 3, 2, 1);
        let lens: Vec<_> = c.iter().map(|c| (c.start, c.len, c.extent)).collect();
        assert_eq!(lens, [(0, 2, 3), (1, 3, 3), (3, 2, 3)]);
    }

    #[test]
    fn a_window_outside_is_empty() {
        // Stride 3, kernel 1, size 5: 3 outputs without padding; the last is outside.
        let c = classes(5, 3, 1, 3, 0);
        assert_eq!(c.last().unwrap().len, 0);
        assert_eq!(c.last().unwrap().extent, -1);
    }
}
