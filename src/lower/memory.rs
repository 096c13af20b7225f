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
    let mut placed = Timeline::new(program.steps.len());
    for i in order {
        let Some(life) = live[i] else { continue };
        let len = program.buffers[i].len.next_multiple_of(BLOCK);
        let start = lowest_gap(&placed.during(life), len);
        program.buffers[i].place = Place::Arena(start);
        program.arena_len = program.arena_len.max(start + len);
        placed.add(life, (start, start + len));
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

/// Where `len` elements fit first between the `taken` places, which are in order.
fn lowest_gap(taken: &[Span], len: usize) -> usize {
    let mut start = 0;
    for &(from, to) in taken {
        if from >= start + len {
            break;
        }
        start = start.max(to);
    }
    start
}

/// First and last step, both included.
type Life = (usize, usize);
type Live = Option<Life>;

/// First address and the one past the last.
type Span = (usize, usize);

/// What is where in the arena at each step: a binary tree over the steps, so that a
/// buffer's neighbours are found without a look at all others.
struct Timeline {
    steps: usize,
    /// By node, the root at 1, the children of n at 2n and 2n + 1: places taken during
    /// all steps of the node, and those taken during some steps below it.
    whole: Vec<Vec<Span>>,
    part: Vec<Vec<Span>>,
}

impl Timeline {
    fn new(steps: usize) -> Timeline {
        let steps = steps.next_power_of_two();
        Timeline {
            steps,
            whole: vec![Vec::new(); 2 * steps],
            part: vec![Vec::new(); 2 * steps],
        }
    }

    fn add(&mut self, life: Life, place: Span) {
        let (whole, part) = (&mut self.whole, &mut self.part);
        visit(
            1,
            (0, self.steps - 1),
            life,
            &mut |node, covered| match covered {
                true => whole[node].push(place),
                false => part[node].push(place),
            },
        );
    }

    /// All places that are taken at some step of `life`, in order.
    fn during(&self, life: Life) -> Vec<Span> {
        let mut taken = Vec::new();
        visit(1, (0, self.steps - 1), life, &mut |node, covered| {
            taken.extend(&self.whole[node]);
            if covered {
                taken.extend(&self.part[node]);
            }
        });
        taken.sort_unstable();
        taken
    }
}

/// Calls `f` on the nodes that `life` covers, largest ones only, and on those above
/// them; tells which it is.
fn visit(node: usize, (first, last): Life, life: Life, f: &mut impl FnMut(usize, bool)) {
    let covered = life.0 <= first && last <= life.1;
    f(node, covered);
    if covered {
        return;
    }
    let middle = first.midpoint(last);
    if life.0 <= middle {
        visit(2 * node, (first, middle), life, f);
    }
    if life.1 > middle {
        visit(2 * node + 1, (middle + 1, last), life, f);
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
    fn gaps_between_neighbours_are_used() {
        let taken = [(0, 16), (16, 32), (64, 80)];
        assert_eq!(lowest_gap(&taken, 32), 32);
        assert_eq!(lowest_gap(&taken, 48), 80);
        assert_eq!(lowest_gap(&taken[1..], 16), 0);
    }

    /// All lives over seven steps, against a look at each of them.
    #[test]
    fn neighbours_in_time_are_found() {
        let all = || (0..7).flat_map(|first| (first..7).map(move |last| (first, last)));
        let mut timeline = Timeline::new(7);
        for (i, life) in all().enumerate() {
            timeline.add(life, (i, i + 1));
        }
        for life in all() {
            let together = |other: &Life| other.0 <= life.1 && life.0 <= other.1;
            let want = all().enumerate().filter(|(_, other)| together(other));
            let want: Vec<Span> = want.map(|(i, _)| (i, i + 1)).collect();
            let mut got = timeline.during(life);
            got.dedup();
            assert_eq!(got, want, "{life:?}");
        }
    }
}
