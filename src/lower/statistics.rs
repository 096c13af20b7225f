//! BatchNorm by the statistics of the batch itself.

use super::conv::addr;
use super::view::Blocked;
use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::Node;
use crate::kernel::{Addr, BinaryOp, BufferId, Expr, Region, Stmt, UnaryOp, Var};
use crate::leaf::BLOCK;

/// `(x − mean) / sqrt(variance + eps)` with mean and biased variance of each channel
/// over images, rows and columns: one step for the statistics, one for the top.
pub fn batch_norm(b: &mut Builder, node: &Node, eps: f32) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let channels = src.blocks() * BLOCK;
    let mean = b.arena(&format!("{} mean", node.name), Some(channels))?;
    let deviation = b.arena(&format!("{} deviation", node.name), Some(channels))?;
    let block = b.var();
    let at = |buffer| channel(buffer, block);
    let average = mean_of(b, &src, block, |x| x);
    let distance = |x| binary(BinaryOp::Sub, x, Expr::Load(at(mean)));
    let variance = mean_of(b, &src, block, |x| {
        let distance = distance(x);
        binary(BinaryOp::Mul, distance.clone(), distance)
    });
    let shifted = binary(BinaryOp::Add, variance, Expr::Const(eps));
    let root = Expr::Unary(UnaryOp::Sqrt, Box::new(shifted));
    let statistics = Region {
        tasks: vec![(block, src.blocks() as u32)],
        body: vec![map(at(mean), average), map(at(deviation), root)],
        cost: (src.n * src.h * src.w) as u64 * 2 + 1,
    };
    let bytes = 4 * (src.n * src.c * src.h * src.w) as u64;
    b.step(
        node.layers.clone(),
        "mean and deviation of each channel",
        vec![statistics],
        0,
        2 * bytes,
    );
    normalize(b, node, &src, (mean, deviation))?;
    // Without eps the lanes beyond the last channel are 0 / 0.
    let dst = b.blocked(node.tops[0])?;
    if let Some(region) = b.tail_fill(&dst).filter(|_| eps == 0.0) {
        b.step(node.layers.clone(), "zero lanes", vec![region], 0, 0);
    }
    Ok(())
}

fn normalize(
    b: &mut Builder,
    node: &Node,
    src: &Blocked,
    (mean, deviation): (BufferId, BufferId),
) -> Result<()> {
    let dst = b.alloc_blocked(node.tops[0])?;
    let (image, block, row, pixel) = (b.var(), b.var(), b.var(), b.var());
    let at = |v: &Blocked| Addr {
        buffer: v.buffer,
        offset: v
            .plane(image, block)
            .plus(row, v.row)
            .plus(pixel, BLOCK as i64),
    };
    let constant = |buffer| Expr::Load(channel(buffer, block));
    let distance = binary(BinaryOp::Sub, Expr::Load(at(src)), constant(mean));
    let value = binary(BinaryOp::Div, distance, constant(deviation));
    let line = for_loop(pixel, dst.w, vec![map(at(&dst), value)]);
    let region = Region {
        tasks: vec![(image, dst.n as u32), (block, dst.blocks() as u32)],
        body: for_loop(row, dst.h, line),
        cost: (dst.h * dst.w) as u64 + 1,
    };
    let traffic = b.traffic(node);
    b.step(
        node.layers.clone(),
        "normalized by the batch",
        vec![region],
        0,
        traffic,
    );
    Ok(())
}

/// The mean over images, rows and columns of `f` of a channel block's elements. Rows are
/// summed one by one and then added, which keeps long sums exact enough.
fn mean_of(b: &mut Builder, src: &Blocked, block: Var, f: impl Fn(Expr) -> Expr) -> Expr {
    let (image, row, pixel) = (b.var(), b.var(), b.var());
    let offset = src
        .plane(image, block)
        .plus(row, src.row)
        .plus(pixel, BLOCK as i64);
    let load = Expr::Load(Addr {
        buffer: src.buffer,
        offset,
    });
    let sum = |window, value| Expr::Reduce {
        op: BinaryOp::Add,
        init: 0.0,
        window,
        value: Box::new(value),
    };
    let line = sum(vec![(pixel, src.w as u32)], f(load));
    let all = sum(vec![(image, src.n as u32), (row, src.h as u32)], line);
    let count = (src.n * src.h * src.w) as f32;
    binary(BinaryOp::Div, all, Expr::Const(count))
}

fn channel(buffer: BufferId, block: Var) -> Addr {
    let start = addr(buffer, 0);
    Addr {
        buffer,
        offset: start.offset.plus(block, BLOCK as i64),
    }
}

fn binary(op: BinaryOp, a: Expr, b: Expr) -> Expr {
    Expr::Binary(op, Box::new(a), Box::new(b))
}

fn map(dst: Addr, value: Expr) -> Stmt {
    Stmt::Map {
        lanes: BLOCK as u32,
        dst,
        value,
    }
}
