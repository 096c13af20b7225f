//! Layers that only put a blob's elements into another order.

use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::Node;
use crate::kernel::{Addr, Affine, Arg, Expr, Region, Stmt, Var};
use crate::layers::Moves;
use crate::leaf::Leaf;

/// As many tasks are enough.
const TASKS: usize = 16;

/// One step: loops over the axes, runs of neighbours copied at once.
pub fn moves(b: &mut Builder, node: &Node, moves: &Moves) -> Result<()> {
    let src = b.plain(node.bottoms[0])?;
    let dst = b.alloc_plain(node.tops[0])?;
    let mut axes = moves.merged().axes;
    let run = match axes.last() {
        Some(&(extent, 1)) => {
            axes.pop();
            extent
        }
        _ => 1,
    };
    let mut from = Affine::constant(src.base + moves.base);
    let mut to = Affine::constant(dst.base);
    let mut loops: Vec<(Var, usize)> = Vec::new();
    let mut inner = run;
    for &(extent, stride) in axes.iter().rev() {
        let var = b.var();
        from = from.plus(var, stride);
        to = to.plus(var, inner as i64);
        loops.push((var, extent));
        inner *= extent;
    }
    loops.reverse();
    let (from, to) = (
        Addr {
            buffer: src.buffer,
            offset: from,
        },
        Addr {
            buffer: dst.buffer,
            offset: to,
        },
    );
    let mut body = vec![match run {
        1 => Stmt::Map {
            lanes: 1,
            dst: to,
            value: Expr::Load(from),
        },
        _ => Stmt::Call {
            leaf: Leaf::Copy,
            args: vec![
                Arg::Addr(from),
                Arg::Addr(to),
                Arg::Len(1),
                Arg::Len(run),
                Arg::Len(run),
                Arg::Len(run),
            ],
        },
    }];
    let mut tasks = Vec::new();
    let mut count = 1;
    for &(var, extent) in &loops {
        if count >= TASKS {
            break;
        }
        tasks.push((var, extent as u32));
        count *= extent;
    }
    for &(var, extent) in loops[tasks.len()..].iter().rev() {
        body = for_loop(var, extent, body);
    }
    let region = Region {
        tasks,
        body,
        cost: (inner / count) as u64 + 1,
    };
    let traffic = b.traffic(node);
    b.step(
        node.layers.clone(),
        "elements moved",
        vec![region],
        0,
        traffic,
    );
    Ok(())
}
