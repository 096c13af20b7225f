//! Results that take the memory of what they are made from.
//!
//! Where a step reads a buffer for the last time, each of its elements just before the
//! same element of a new buffer is written, one buffer does for both: sums with a
//! residual, element-wise layers, LRN. Their lines are in cache then when they are written.

use super::memory::live_ranges;
use crate::kernel::{Addr, Arg, BufferId, Expr, Place, Program, Region, Step, Stmt};
use crate::leaf::Leaf;
use std::collections::{BTreeMap, BTreeSet};

/// Lets such results and what they replace be one buffer, which lives on.
pub fn merge(program: &mut Program) {
    let mut lives = live_ranges(program);
    let mut homes: Vec<BufferId> = (0..program.buffers.len() as u32).map(BufferId).collect();
    for (s, step) in program.steps.iter().enumerate() {
        for (old, new) in replaced_in(step) {
            let home = homes[old.0 as usize];
            let [from, to] = [home, new].map(|id| &program.buffers[id.0 as usize]);
            let in_arena = |place: Place| matches!(place, Place::Arena(_));
            let alike = in_arena(from.place) && in_arena(to.place) && from.len == to.len;
            let (Some((first, last)), Some((begin, end))) =
                (lives[home.0 as usize], lives[new.0 as usize])
            else {
                continue;
            };
            if alike && first < s && last == s && begin == s {
                homes[new.0 as usize] = home;
                lives[home.0 as usize] = Some((first, end));
                lives[new.0 as usize] = None;
            }
        }
    }
    let regions = program.steps.iter_mut().flat_map(|step| &mut step.regions);
    for stmt in regions.flat_map(|region| &mut region.body) {
        stmt.visit_addresses_mut(&mut |addr| addr.buffer = homes[addr.buffer.0 as usize]);
    }
}

/// Buffers that a step reads only where it writes the same element of another one at
/// once, with that other one.
fn replaced_in(step: &Step) -> BTreeMap<BufferId, BufferId> {
    let mut pairs = BTreeMap::new();
    let mut spoiled = BTreeSet::new();
    for region in &step.regions {
        let (replaced, otherwise) = uses(region);
        for (old, new) in replaced {
            // Nothing else may write there before what is there is read.
            if otherwise.contains(&new) || *pairs.entry(old).or_insert(new) != new {
                spoiled.insert(old);
            }
        }
        spoiled.extend(otherwise);
    }
    pairs.retain(|old, _| !spoiled.contains(old));
    let mut taken = BTreeSet::new();
    pairs.retain(|_, new| taken.insert(*new));
    pairs
}

/// The pairs (read, written) of a region's statements, and the buffers that statements
/// touch which are not of their pair.
fn uses(region: &Region) -> (BTreeSet<(BufferId, BufferId)>, BTreeSet<BufferId>) {
    let mut pairs = BTreeSet::new();
    let mut otherwise = BTreeSet::new();
    for stmt in &region.body {
        stmt.visit(&mut |stmt| {
            let pair = replaced_by(stmt);
            stmt.addresses(&mut |addr| {
                if pair.is_none_or(|(old, new)| addr.buffer != old && addr.buffer != new) {
                    otherwise.insert(addr.buffer);
                }
            });
            pairs.extend(pair);
        });
    }
    (pairs, otherwise)
}

/// The buffer that a statement reads only where it then writes the same element of
/// another one, and that other one.
fn replaced_by(stmt: &Stmt) -> Option<(BufferId, BufferId)> {
    let (old, new) = match stmt {
        Stmt::Map { dst, value, .. } => (same_element(value, dst)?, dst),
        Stmt::Call { leaf, args } => source(*leaf, args)?,
        Stmt::For { .. } | Stmt::Routine(_) => return None,
    };
    let mut only = old.buffer != new.buffer && old.offset == new.offset;
    stmt.addresses(&mut |addr| only &= addr.buffer != old.buffer || addr == old);
    only.then_some((old.buffer, new.buffer))
}

/// A load at the offset of `dst`.
fn same_element<'a>(value: &'a Expr, dst: &Addr) -> Option<&'a Addr> {
    let mut found = None;
    value.visit(&mut |expr| match expr {
        Expr::Load(addr) if addr.offset == dst.offset => found = Some(addr),
        _ => {}
    });
    found
}

/// A leaf's source or residual and its destination, if it may work in place and they have
/// the same strides.
fn source(leaf: Leaf, args: &[Arg]) -> Option<(&Addr, &Addr)> {
    let arg = |name: &str| {
        let params = leaf.params().iter();
        let (_, arg) = params.zip(args).find(|((param, _), _)| *param == name)?;
        Some(arg)
    };
    let (source, strides) = match leaf {
        Leaf::Tile { nb: 1, .. } | Leaf::Depthwise { .. } => ("residual", None),
        Leaf::Tile { .. } => ("residual", Some(("residual_stride", "dst_stride"))),
        Leaf::FromPoints { .. } => {
            let strides = ("residual_row_stride", "dst_row_stride");
            ("residual", Some(strides))
        }
        Leaf::Lrn => ("src", Some(("src_block_stride", "dst_block_stride"))),
        Leaf::Unary(_) => ("src", None),
        _ => return None,
    };
    let same = strides.is_none_or(|(a, b)| arg(a) == arg(b));
    match (arg(source)?, arg("dst")?) {
        (Arg::Addr(source), Arg::Addr(dst)) if same => Some((source, dst)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{at, binary, load, map};
    use crate::kernel::{BinaryOp, Var};
    use crate::leaf::Isa;

    const I: Var = Var(0);

    /// `a = in; c = a + 1; out = c`, with `change` applied to the statements of the second
    /// step; `later` is read once more at the end. Whether `a` and `c` became one.
    fn merged(
        change: impl FnOnce(&mut Vec<Stmt>, &Addr, &Addr),
        later: impl FnOnce(&Addr, &Addr) -> Addr,
    ) -> bool {
        let mut p = Program::empty(Isa::Portable);
        let (input, output, again) = (p.input(64), p.output(64), p.output(64));
        let (a, c) = (p.arena(64), p.arena(64));
        let [input, output, again, a, c] =
            [input, output, again, a, c].map(|buffer| at(buffer, 0, &[(I, 16)]));
        let tasks = [(I, 4)];
        p.step(&tasks, vec![map(16, a.clone(), load(&input))]);
        let sum = binary(BinaryOp::Add, load(&a), Expr::Const(1.0));
        let mut body = vec![map(16, c.clone(), sum)];
        change(&mut body, &a, &c);
        p.step(&tasks, body);
        p.step(&tasks, vec![map(16, output, load(&c))]);
        p.step(&tasks, vec![map(16, again, load(&later(&a, &c)))]);
        merge(&mut p);
        let written = |step: usize| match p.steps[step].regions[0].body.last() {
            Some(Stmt::Map { dst, .. }) => dst.buffer,
            other => panic!("{other:?}"),
        };
        let merged = written(0) == written(1);
        p.check().unwrap();
        merged
    }

    #[test]
    fn a_last_use_gives_its_memory() {
        assert!(merged(|_, _, _| {}, |_, c| c.clone()));
    }

    #[test]
    fn what_is_read_later_stays() {
        assert!(!merged(|_, _, _| {}, |a, _| a.clone()));
    }

    #[test]
    fn what_is_read_elsewhere_too_stays() {
        let turned = |body: &mut Vec<Stmt>, a: &Addr, c: &Addr| {
            let other = at(a.buffer, 48, &[(I, -16)]);
            body[0] = map(16, c.clone(), binary(BinaryOp::Add, load(a), load(&other)));
        };
        assert!(!merged(turned, |_, c| c.clone()));
    }

    #[test]
    fn what_would_be_overwritten_before_it_is_read_stays() {
        let zeros = |body: &mut Vec<Stmt>, _: &Addr, c: &Addr| {
            body.insert(0, map(16, c.clone(), Expr::Const(0.0)));
        };
        assert!(!merged(zeros, |_, c| c.clone()));
    }
}
