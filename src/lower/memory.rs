//! The memory plan: a place in the arena for every buffer, shared by buffers that
//! are never live at the same time.
//!
//! Live means from the first step that uses a buffer to the last one. Largest first,
//! each buffer takes the lowest gap among those that live with it; the kernel checker
//! proves the result.

use crate::diag::{Diagnostic, Result};
use crate::kernel::{Addr, Place, Program};
use crate::leaf::BLOCK;
use std::collections::BTreeMap;

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
    for buffer in &mut program.buffers {
        if let Place::Kept(at) = &mut buffer.place {
            *at = program.arena_len;
            program.arena_len += buffer.len.next_multiple_of(BLOCK);
        }
    }
    if program.arena_len > 0 {
        let whole = (0, program.steps.len() - 1);
        placed.add(whole, (0, program.arena_len));
    }
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

/// What is where in the arena at each step, kept so that a buffer's neighbours are
/// found without a look at all others.
///
/// Two lives meet if the second begins during the first or goes on when it begins.
struct Timeline {
    leaves: usize,
    /// A binary tree over the steps, the root at 1, the children of n at 2n and 2n + 1,
    /// step s at leaves + s. A place stands at the largest nodes that its life covers.
    tree: Vec<Vec<Span>>,
    /// By first step and a number of its own.
    by_start: BTreeMap<(usize, usize), Span>,
}

impl Timeline {
    fn new(steps: usize) -> Timeline {
        Timeline {
            leaves: steps,
            tree: vec![Vec::new(); 2 * steps],
            by_start: BTreeMap::new(),
        }
    }

    fn add(&mut self, (first, last): Life, place: Span) {
        self.by_start.insert((first, self.by_start.len()), place);
        let (mut from, mut to) = (first + self.leaves, last + self.leaves + 1);
        while from < to {
            if from % 2 == 1 {
                self.tree[from].push(place);
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                self.tree[to].push(place);
            }
            (from, to) = (from / 2, to / 2);
        }
    }

    /// All places that are taken at some step of a life, in order.
    fn during(&self, (first, last): Life) -> Vec<Span> {
        let mut node = first + self.leaves;
        let mut taken = Vec::new();
        while node > 0 {
            taken.extend(&self.tree[node]);
            node /= 2;
        }
        let later = self.by_start.range((first + 1, 0)..(last + 1, 0));
        taken.extend(later.map(|(_, place)| place));
        // Stable, because that is fast where much is in order already.
        taken.sort();
        taken
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
            stmt.visit(&mut |stmt| stmt.addresses(&mut touch));
        }
    }
    live
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
            assert_eq!(timeline.during(life), want, "{life:?}");
        }
    }
}
