//! The memory plan: when buffers are live, and that those which are live at the same
//! time lie apart.

use super::access::Access;
use super::walk::walk_region;
use super::{Bug, Live, Result, Space, place_start};
use crate::kernel::{BufferId, Place, Program, Step};
use std::collections::BTreeMap;

/// Checks a step's statements and extends the live ranges by it.
pub(super) fn check_step(
    p: &Program,
    index: usize,
    step: &Step,
    live: &mut [Option<Live>],
) -> Result {
    let mut written: BTreeMap<BufferId, bool> = BTreeMap::new();
    let mut tasks = Some(0u64);
    for region in &step.regions {
        let count = region
            .tasks
            .iter()
            .try_fold(1u64, |n, &(_, extent)| n.checked_mul(extent.into()));
        tasks = tasks
            .zip(count)
            .and_then(|(a, b)| a.checked_add(b))
            .filter(|&n| n <= i64::MAX as u64);
        ensure!(tasks.is_some(), "too many tasks");
        let mut scratch = Vec::new();
        walk_region(p, region, |_, accesses| {
            for access in accesses {
                *written.entry(access.buffer).or_default() |= access.write;
            }
            first_scratch_use(accesses, &mut scratch)
        })?;
        scratch_apart(p, &scratch)?;
    }
    for (buffer, written) in written {
        let place = p.buffers[buffer.0 as usize].place;
        let must_write = matches!(place, Place::Arena(_) | Place::Output(_));
        match &mut live[buffer.0 as usize] {
            Some(range) => range.last = index,
            empty => {
                ensure!(
                    written || !must_write,
                    "{buffer} is read before anything is written to it"
                );
                *empty = Some(Live {
                    first: index,
                    last: index,
                });
            }
        }
    }
    Ok(())
}

/// Kept buffers live through all steps.
pub(super) fn keep(p: &Program, live: &mut [Option<Live>]) {
    for (buffer, live) in p.buffers.iter().zip(live) {
        if let Place::Kept(_) = buffer.place {
            *live = p
                .steps
                .len()
                .checked_sub(1)
                .map(|last| Live { first: 0, last });
        }
    }
}

/// Notes scratch buffers at their first use in a region, which must write them.
fn first_scratch_use(accesses: &[Access], seen: &mut Vec<BufferId>) -> Result {
    for access in accesses.iter().filter(|a| a.space == Space::Scratch) {
        let id = access.buffer;
        if !seen.contains(&id) {
            let writes = accesses.iter().any(|a| a.buffer == id && a.write);
            ensure!(writes, "scratch {id} is read before it is written");
            seen.push(id);
        }
    }
    Ok(())
}

fn scratch_apart(p: &Program, ids: &[BufferId]) -> Result {
    let mut ranges: Vec<_> = ids.iter().map(|&id| (range(p, id), id)).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((_, end), a) = pair[0];
        let ((start, _), b) = pair[1];
        ensure!(end <= start, "scratch {a} and {b} of one region overlap");
    }
    Ok(())
}

/// The addresses of a buffer in its space.
fn range(p: &Program, id: BufferId) -> (usize, usize) {
    let buffer = &p.buffers[id.0 as usize];
    let start = place_start(buffer.place);
    (start, start + buffer.len)
}

/// That buffers of the arena that share an address are not live at the same time,
/// and that each output is written.
///
/// Goes through the steps with the buffers that are live, ordered by address; as
/// they are disjoint, a new one can only overlap its two neighbours.
pub(super) fn verify_plan(p: &Program, live: &[Option<Live>]) -> Result {
    let mut starts: BTreeMap<usize, Vec<BufferId>> = BTreeMap::new();
    let mut ends: BTreeMap<usize, Vec<BufferId>> = BTreeMap::new();
    for (i, buffer) in p.buffers.iter().enumerate() {
        if let (Place::Arena(_) | Place::Kept(_), Some(l), 1..) =
            (buffer.place, live[i], buffer.len)
        {
            starts.entry(l.first).or_default().push(BufferId(i as u32));
            ends.entry(l.last).or_default().push(BufferId(i as u32));
        }
    }
    let mut active: BTreeMap<usize, BufferId> = BTreeMap::new();
    for (step, ids) in starts {
        while let Some(entry) = ends.first_entry().filter(|e| *e.key() < step) {
            for id in entry.remove() {
                active.remove(&range(p, id).0);
            }
        }
        for id in ids {
            let (start, end) = range(p, id);
            let below = active.range(..=start).next_back();
            let above = active.range(start..).next();
            for (_, &other) in below.into_iter().chain(above) {
                let (s, e) = range(p, other);
                ensure!(
                    e <= start || end <= s,
                    "memory plan: {id} `{}` and {other} `{}` overlap while both are live in step {step}",
                    p.buffers[id.0 as usize].name,
                    p.buffers[other.0 as usize].name
                );
            }
            active.insert(start, id);
        }
    }
    outputs_written(p, live)
}

fn outputs_written(p: &Program, live: &[Option<Live>]) -> Result {
    for (n, port) in p.outputs.iter().enumerate() {
        let written = p
            .buffers
            .iter()
            .zip(live)
            .any(|(b, l)| b.place == Place::Output(n) && l.is_some());
        ensure!(
            written || port.is_empty(),
            "nothing writes the output `{}`",
            port.name
        );
    }
    Ok(())
}
