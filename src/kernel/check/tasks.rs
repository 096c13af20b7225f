//! That the tasks of a step are independent: a sweep over all that they touch.

use std::collections::BTreeMap;

use super::access::{Access, Scope};
use super::walk::walk_region;
use super::{Bug, Space};
use crate::kernel::{Program, Region, Step};

/// Elements `start..end` of a space that task `task` of a step touches.
#[derive(Clone, Copy)]
struct Interval {
    start: i64,
    end: i64,
    task: u64,
    write: bool,
}

/// An access with the extents of its region's tasks and of the loops around it.
struct Spread {
    first_task: u64,
    /// Coefficient and extent of each task variable, in order.
    tasks: Vec<(i64, u64)>,
    /// Stride and extent of what varies inside a task, strides positive and
    /// growing; what is contiguous is merged into `len`.
    dims: Vec<(i64, u64)>,
    base: i64,
    len: i64,
    write: bool,
    hull: (i128, i128),
}

impl Spread {
    fn new(access: &Access, region: &Region, scope: &Scope, first_task: u64) -> Self {
        let coefficient = |var| access.coefficient(var) as i64;
        let tasks = region
            .tasks
            .iter()
            .map(|&(var, n)| (coefficient(var), n.into()))
            .collect();
        let loops = scope[region.tasks.len()..]
            .iter()
            .map(|&(var, n)| (coefficient(var), u64::from(n)));
        let mut base = access.base as i64;
        let mut dims = Vec::new();
        for (stride, n) in loops.chain(access.own.iter().copied()) {
            if stride < 0 {
                base += stride * (n as i64 - 1);
            }
            if stride != 0 && n > 1 {
                dims.push((stride.abs(), n));
            }
        }
        dims.sort_unstable();
        let mut len = access.len as i64;
        dims.retain(|&(stride, n)| {
            let gap = stride > len;
            if !gap {
                len += stride * (n as i64 - 1);
            }
            gap
        });
        Spread {
            first_task,
            tasks,
            dims,
            base,
            len,
            write: access.write,
            hull: access.hull(scope),
        }
    }

    fn list(&self, into: &mut Vec<Interval>) {
        let count: u64 = self.tasks.iter().map(|&(_, n)| n).product();
        for task in 0..count {
            let mut rest = task;
            let mut start = self.base;
            for &(c, n) in self.tasks.iter().rev() {
                start += c * (rest % n) as i64;
                rest /= n;
            }
            self.list_dims(&self.dims, start, self.first_task + task, into);
        }
    }

    fn list_dims(&self, dims: &[(i64, u64)], start: i64, task: u64, into: &mut Vec<Interval>) {
        match dims.split_last() {
            Some((&(stride, n), rest)) => {
                for i in 0..n as i64 {
                    self.list_dims(rest, start + i * stride, task, into);
                }
            }
            None => into.push(Interval {
                start,
                end: start + self.len,
                task,
                write: self.write,
            }),
        }
    }
}

pub(super) fn independent(p: &Program, step: &Step) -> Result<(), Bug> {
    let mut spaces: BTreeMap<Space, Vec<Spread>> = BTreeMap::new();
    let mut first_task = 0;
    for region in &step.regions {
        walk_region(p, region, |scope, accesses| {
            for access in accesses {
                if access.space != Space::Scratch && !access.space.is_constant() {
                    let spread = Spread::new(access, region, scope, first_task);
                    spaces.entry(access.space).or_default().push(spread);
                }
            }
            Ok(())
        })?;
        first_task += region.task_count();
    }
    for (space, spreads) in spaces {
        let mut intervals = Vec::new();
        for spread in relevant(&spreads) {
            spread.list(&mut intervals);
        }
        sweep(intervals).map_err(|at| {
            Bug(format!(
                "tasks {} and {} race for element {} of {space:?}",
                at.0, at.1, at.2
            ))
        })?;
    }
    Ok(())
}

/// Writes, and those reads that come near one.
fn relevant(spreads: &[Spread]) -> impl Iterator<Item = &Spread> {
    let writes: Vec<_> = spreads.iter().filter(|s| s.write).map(|s| s.hull).collect();
    spreads
        .iter()
        .filter(move |s| s.write || writes.iter().any(|w| w.0 < s.hull.1 && s.hull.0 < w.1))
}

/// The two tasks whose intervals reach furthest so far.
#[derive(Default)]
struct Reach([Option<(i64, u64)>; 2]);

impl Reach {
    /// A task other than `task` that reaches beyond `start`.
    fn other(&self, task: u64, start: i64) -> Option<u64> {
        let mut reaching = self.0.iter().flatten();
        reaching
            .find(|(end, t)| *t != task && *end > start)
            .map(|&(_, t)| t)
    }

    fn add(&mut self, end: i64, task: u64) {
        let furthest = |a: Option<(i64, u64)>| a.is_none_or(|(e, _)| end > e);
        if self.0[0].is_some_and(|(_, t)| t == task) {
            if furthest(self.0[0]) {
                self.0[0] = Some((end, task));
            }
        } else if furthest(self.0[0]) {
            self.0[1] = self.0[0];
            self.0[0] = Some((end, task));
        } else if furthest(self.0[1]) {
            self.0[1] = Some((end, task));
        }
    }
}

/// Two tasks and an element that both touch and at least one writes, if any.
fn sweep(mut intervals: Vec<Interval>) -> Result<(), (u64, u64, i64)> {
    intervals.sort_unstable_by_key(|i| i.start);
    let (mut reads, mut writes) = (Reach::default(), Reach::default());
    for i in &intervals {
        let mut racing = writes.other(i.task, i.start);
        if i.write {
            racing = racing.or_else(|| reads.other(i.task, i.start));
            writes.add(i.end, i.task);
        } else {
            reads.add(i.end, i.task);
        }
        if let Some(other) = racing {
            return Err((other, i.task, i.start));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_write_is_seen_behind_shorter_ones() {
        let interval = |start, end, task, write| Interval {
            start,
            end,
            task,
            write,
        };
        let long = interval(0, 100, 0, true);
        let short = interval(1, 2, 0, true);
        assert_eq!(
            sweep(vec![long, short, interval(50, 51, 1, false)]),
            Err((0, 1, 50))
        );
        assert_eq!(
            sweep(vec![long, short, interval(100, 101, 1, false)]),
            Ok(())
        );
        let read = interval(0, 100, 0, false);
        assert_eq!(
            sweep(vec![read, interval(99, 100, 1, true)]),
            Err((0, 1, 99))
        );
        assert_eq!(sweep(vec![read, interval(5, 9, 1, false)]), Ok(()));
        let other = interval(3, 60, 1, false);
        assert_eq!(
            sweep(vec![read, other, interval(70, 71, 1, true)]),
            Err((0, 1, 70))
        );
        assert_eq!(
            sweep(vec![read, other, interval(50, 51, 0, true)]),
            Err((1, 0, 50))
        );
    }
}
