//! The memory plan: a place in the arena for every buffer, shared by buffers that
//! are never live at the same time.
//!
//! Live means from the first step that uses a buffer to the last one. One after another,
//! buffers take the lowest gap among those that live with them. Which order packs them
//! closest depends on the net: the largest first leaves gaps where sizes change slowly
//! from layer to layer, which the order of steps, or its reverse, may fill; where some
//! live long, those come first. The kernel checker proves the result.

use crate::diag::{Diagnostic, Result};
use crate::kernel::{Addr, Place, Program};
use crate::leaf::BLOCK;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Sets the offset of every arena buffer, and the arena's length.
///
/// Errors: `Unsupported` when the plan needs more than half a terabyte.
pub fn plan(program: &mut Program) -> Result<()> {
    for buffer in &mut program.buffers {
        if let Place::Kept(at) = &mut buffer.place {
            *at = program.arena_len;
            program.arena_len += buffer.len.next_multiple_of(BLOCK);
        }
    }
    let lives = live_ranges(program);
    let mut items = Vec::new();
    for (index, (buffer, live)) in program.buffers.iter_mut().zip(&lives).enumerate() {
        match (buffer.place, live) {
            (Place::Arena(_), Some(life)) => items.push(Item {
                buffer: index,
                len: buffer.len.next_multiple_of(BLOCK),
                life: *life,
            }),
            (Place::Arena(_), None) => (buffer.place, buffer.len) = (Place::Arena(0), 0),
            _ => {}
        }
    }
    let (kept, steps) = (program.arena_len, program.steps.len());
    let layouts = Order::ALL.map(|order| {
        items.sort_by_key(|item| order.key(item));
        Layout::new(kept, steps, &items)
    });
    let best = layouts.into_iter().min_by_key(|layout| layout.len);
    let best = best.expect("there are orders");
    for (buffer, start) in best.starts {
        program.buffers[buffer].place = Place::Arena(start);
    }
    program.arena_len = best.len;
    if program.arena_len > 1 << 37 {
        let gib = program.arena_len >> 28;
        let message = format!("the net's activations need {gib} GiB");
        return Err(Diagnostic::unsupported(message).into());
    }
    Ok(())
}

/// A buffer that needs a place.
struct Item {
    buffer: usize,
    len: usize,
    life: Life,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Order {
    Largest,
    /// The first to begin its life.
    First,
    /// The last to end it.
    Last,
    Longest,
    /// Length times life.
    Area,
}

impl Order {
    const ALL: [Order; 5] = [
        Order::Largest,
        Order::First,
        Order::Last,
        Order::Longest,
        Order::Area,
    ];

    fn key(self, item: &Item) -> Reverse<(usize, usize)> {
        let (first, last) = item.life;
        Reverse(match self {
            Order::Largest => (item.len, 0),
            Order::First => (usize::MAX - first, item.len),
            Order::Last => (last, item.len),
            Order::Longest => (last - first, item.len),
            Order::Area => ((last + 1 - first).saturating_mul(item.len), 0),
        })
    }
}

/// A place for every buffer.
struct Layout {
    /// Buffer and first element.
    starts: Vec<(usize, usize)>,
    len: usize,
}

impl Layout {
    /// Places the items in their order, above `kept` elements that are always taken.
    fn new(kept: usize, steps: usize, items: &[Item]) -> Layout {
        let mut placed = Timeline::new(steps);
        if kept > 0 {
            placed.add((0, steps - 1), (0, kept));
        }
        let mut layout = Layout {
            starts: Vec::new(),
            len: kept,
        };
        for item in items {
            let start = lowest_gap(&placed.during(item.life), item.len);
            layout.starts.push((item.buffer, start));
            layout.len = layout.len.max(start + item.len);
            placed.add(item.life, (start, start + item.len));
        }
        layout
    }
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
pub fn live_ranges(program: &Program) -> Vec<Live> {
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

    /// Of a chain, each blob lives with the one before it and the one after it.
    #[test]
    fn one_order_finds_what_another_does_not() {
        let chain = |sizes: &[usize]| -> Vec<Item> {
            let item = |(i, &len): (usize, &usize)| Item {
                buffer: i,
                len,
                life: (i, i + 1),
            };
            sizes.iter().enumerate().map(item).collect()
        };
        let len = |mut items: Vec<Item>, order: Order| {
            items.sort_by_key(|item| order.key(item));
            Layout::new(0, items.len() + 1, &items).len
        };
        // Placed together at 0, the outer ones leave the inner ones no room.
        let sizes = [32, 30, 30, 32];
        assert_eq!(len(chain(&sizes), Order::Largest), 92);
        assert_eq!(len(chain(&sizes), Order::First), 62);
        assert_eq!(len(chain(&sizes), Order::Last), 62);
        let growing = [16, 64, 80];
        assert_eq!(len(chain(&growing), Order::Largest), 144);
        assert_eq!(len(chain(&growing), Order::First), 160);
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
