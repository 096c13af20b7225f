//! The memory plan: a place in the arena for every buffer, shared by buffers that
//! are never live at the same time.
//!
//! Live means from the first step that uses a buffer to the last one. Largest first,
//! each buffer takes the lowest gap among those that live with it; the kernel checker
//! proves the result.

use crate::diag::{Diagnostic, Result};
use crate::kernel::{Addr, Arg, Expr, Place, Program, Stmt};
use crate::leaf::BLOCK;

/// Sets the offset of every arena buffer, and the arena's length.
///
/// Errors: `Unsupported` when the plan needs more than half a terabyte.
pub fn plan(program: &mut Program) -> Result<()> {
    let live = live_ranges(program);
    let mut order: Vec<usize> = (0..program.buffers.len())
        .filter(|&i| matches!(program.buffers[i].place, Place::Arena(_)) && live[i].is_some())
        .collect();
    order.sort_by_key(|&i| std::cmp::Reverse(program.buffers[i].len));
    let mut placed: Vec<(usize, usize, usize)> = Vec::new(); // buffer, start, end
    for i in order {
        let len = program.buffers[i].len.next_multiple_of(BLOCK);
        let start = lowest_gap(&placed, len, |j| overlap(live[i], live[j]));
        program.buffers[i].place = Place::Arena(start);
        program.arena_len = program.arena_len.max(start + len);
        placed.push((i, start, start + len));
        placed.sort_by_key(|p| p.1);
    }
    if program.arena_len > 1 << 37 {
        let gib = program.arena_len >> 28;
        let message = format!("the net's activations need {gib} GiB");
        return Err(Diagnostic::unsupported(message).into());
    }
    for (buffer, live) in program.buffers.iter_mut().zip(&live) {
        if live.is_none() && matches!(buffer.place, Place::Arena(_)) {
            (buffer.place, buffer.len) = (Place::Arena(0), 0);
        }
    }
    Ok(())
}

fn lowest_gap(
    placed: &[(usize, usize, usize)],
    len: usize,
    lives_together: impl Fn(usize) -> bool,
) -> usize {
    let mut start = 0;
    for &(j, from, to) in placed {
        if !lives_together(j) {
            continue;
        }
        if from >= start + len {
            break;
        }
        start = start.max(to);
    }
    start
}

type Live = Option<(usize, usize)>;

fn overlap(a: Live, b: Live) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
        _ => false,
    }
}

/// First and last step that uses each buffer.
fn live_ranges(program: &Program) -> Vec<Live> {
    let mut live: Vec<Live> = vec![None; program.buffers.len()];
    for (s, step) in program.steps.iter().enumerate() {
        let mut touch = |addr: &Addr| {
            let range = &mut live[addr.buffer.0 as usize];
            *range = Some((range.map_or(s, |r| r.0), s));
        };
        for stmt in step.regions.iter().flat_map(|region| &region.body) {
            stmt.visit(&mut |stmt| addresses(stmt, &mut touch));
        }
    }
    live
}

/// Calls `touch` for the addresses of a statement itself, not of those inside it.
fn addresses(stmt: &Stmt, touch: &mut impl FnMut(&Addr)) {
    match stmt {
        Stmt::For { .. } => {}
        Stmt::Map { dst, value, .. } => {
            touch(dst);
            value.visit(&mut |expr| {
                if let Expr::Load(addr) | Expr::Splat(addr) = expr {
                    touch(addr);
                }
            });
        }
        Stmt::Call { args, .. } => args.iter().for_each(|arg| {
            if let Arg::Addr(addr) = arg {
                touch(addr);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_between_neighbours_in_time_are_used() {
        let placed = [(0, 0, 16), (1, 16, 32), (2, 64, 80)];
        assert_eq!(lowest_gap(&placed, 32, |_| true), 32);
        assert_eq!(lowest_gap(&placed, 48, |_| true), 80);
        assert_eq!(lowest_gap(&placed, 16, |j| j != 0), 0);
    }
}
