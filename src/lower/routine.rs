//! Layers that are one routine on plain blobs.

use super::Builder;
use super::view::Plain;
use crate::diag::Result;
use crate::ir::{Node, Shape};
use crate::kernel::{Addr, Affine, BufferId, Region, RoutineCall, Stmt};
use crate::leaf::routine::Call;

/// One step: a task for each piece.
pub fn routine(b: &mut Builder, node: &Node, call: Call, state: &[Shape]) -> Result<()> {
    let piece = b.var();
    let whole = |buffer: BufferId, base: i64, len: usize| {
        let offset = Affine::constant(base);
        (Addr { buffer, offset }, len)
    };
    let cut = |buffer: BufferId, base: i64, len: usize| {
        let len = call.piece_len(len);
        let offset = Affine::constant(base).plus(piece, len as i64);
        (Addr { buffer, offset }, len)
    };
    let mut reads = Vec::new();
    for (i, &bottom) in node.bottoms.iter().enumerate() {
        let Plain { buffer, base } = b.plain(bottom)?;
        let len = b.graph.shape(bottom).count();
        let uncut = call.whole.contains(&i) || call.pieces == 1;
        reads.push(if uncut {
            whole(buffer, base, len)
        } else {
            cut(buffer, base, len)
        });
    }
    for &param in &node.params {
        let buffer = b.param(param);
        reads.push(whole(buffer, 0, b.graph[param].spec.shape.count()));
    }
    let mut writes = Vec::new();
    for &top in &node.tops {
        let Plain { buffer, base } = b.alloc_plain(top)?;
        writes.push(cut(buffer, base, b.graph.shape(top).count()));
    }
    for shape in state {
        let buffer = b.kept(&format!("{} state", node.name), shape.count())?;
        writes.push(cut(buffer, 0, shape.count()));
    }
    if !call.faults.is_empty() {
        let buffer = b.fault(&node.name, call.faults)?;
        writes.push(whole(buffer, 0, 1));
    }
    let about = format!("routine {}", call.routine.name);
    let cost = reads
        .iter()
        .chain(&writes)
        .map(|(_, len)| *len as u64)
        .sum();
    let body = RoutineCall {
        routine: call.routine,
        reads,
        writes,
        sizes: call.sizes,
        values: call.values,
    };
    let region = Region {
        tasks: vec![(piece, call.pieces as u32)],
        body: vec![Stmt::Routine(Box::new(body))],
        cost,
    };
    let traffic = b.traffic(node);
    b.step(node.layers.clone(), about, vec![region], 0, traffic);
    Ok(())
}
