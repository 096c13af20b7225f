//! The checker between lowering and the back ends.
//!
//! In: a [`Program`]. Out: a [`Checked`] program, or a [`Bug`] of ours (never the
//! user's fault). Start with [`Program::check`].
//!
//! Proved for every program:
//! - buffers lie inside their block, ports have a size, tables are not empty;
//! - each variable is bound when used and not bound twice, extents are not zero;
//! - each address, and each element that a leaf touches, lies inside its buffer for
//!   all values of all variables (interval arithmetic on affine forms is exact for
//!   boxes of independent variables);
//! - inputs and weights are never written, leaves exist on the ISA and get the
//!   arguments that they list, a statement's destination does not overlap its
//!   sources other than in place;
//! - the memory plan: two arena buffers that share an address are never live at the
//!   same time (from the first step that touches one to the last), what is touched
//!   first is written first (kept buffers are always live and hold zeros at first),
//!   scratch buffers of a region do not share addresses.
//!
//! Proved in debug builds ([`Checked::check_independence`]): no task writes an
//! element that another task of the same step reads or writes. All tasks are
//! enumerated, so this is exact up to the leaves' own description of what they touch.

use std::fmt;
use std::ops::Deref;

use super::{Buffer, BufferId, Expr, Place, Program, Region, Step, Stmt, Var};

/// Deepest nesting of statements and of expressions: back ends recurse.
pub const MAX_DEPTH: usize = 256;

/// Variables are numbered below this: they index tables.
pub const MAX_VARS: u32 = 1 << 24;

/// A mistake of lowering, with the step and layers concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bug(pub String);

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Bug {}

type Result<T = ()> = std::result::Result<T, Bug>;

macro_rules! bug {
    ($($arg:tt)*) => { Err(Bug(format!($($arg)*))) };
}

macro_rules! ensure {
    ($holds:expr, $($arg:tt)*) => { if !$holds { return bug!($($arg)*); } };
}

// After the macros, which they use.
mod access;
mod plan;
mod tasks;
#[cfg(test)]
mod tests;
mod walk;

/// A program that passed [`Program::check`]: what back ends rely on holds.
#[derive(Clone, Debug)]
pub struct Checked {
    program: Program,
    live: Vec<Option<Live>>,
    vars: usize,
}

/// First and last step that touch a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub first: usize,
    pub last: usize,
}

impl Deref for Checked {
    type Target = Program;
    fn deref(&self) -> &Program {
        &self.program
    }
}

impl Checked {
    /// When a buffer is live; `None` if no step touches it.
    pub fn live(&self, buffer: BufferId) -> Option<Live> {
        self.live[buffer.0 as usize]
    }

    /// All buffers, with their live ranges.
    pub fn buffers_with_life(&self) -> impl Iterator<Item = (&Buffer, Option<Live>)> {
        self.buffers.iter().zip(self.live.iter().copied())
    }

    /// Elements of the arena that steps need at the same time, at the step that needs most:
    /// no plan can do with less.
    pub fn most_live(&self) -> usize {
        let mut changes = vec![0isize; self.steps.len() + 1];
        for (buffer, live) in self.buffers_with_life() {
            if let (Place::Arena(_) | Place::Kept(_), Some(live)) = (buffer.place, live) {
                changes[live.first] += buffer.len as isize;
                changes[live.last + 1] -= buffer.len as isize;
            }
        }
        let sums = changes.iter().scan(0, |sum, change| {
            *sum += change;
            Some(*sum as usize)
        });
        sums.max().unwrap_or(0)
    }

    /// Number of variables, i.e. one more than the largest.
    pub fn var_count(&self) -> usize {
        self.vars
    }

    /// That no task writes what another task of the same step reads or writes.
    ///
    /// Lists the elements that each task touches as intervals of addresses and
    /// sweeps over them: time and memory grow with their number, so that release
    /// builds leave it out.
    pub fn check_independence(&self) -> Result {
        for (i, step) in self.steps.iter().enumerate() {
            tasks::independent(&self.program, step).map_err(|b| in_step(i, step, b))?;
        }
        Ok(())
    }
}

impl Program {
    /// Checks everything that the module's documentation lists.
    pub fn check(self) -> Result<Checked> {
        blocks(&self)?;
        let mut live = vec![None; self.buffers.len()];
        for (i, step) in self.steps.iter().enumerate() {
            plan::check_step(&self, i, step, &mut live).map_err(|b| in_step(i, step, b))?;
        }
        plan::keep(&self, &mut live);
        plan::verify_plan(&self, &live)?;
        for fault in &self.faults {
            let buffer = self.buffers.get(fault.buffer.0 as usize);
            let fits = buffer.is_some_and(|b| matches!(b.place, Place::Kept(_)) && b.len == 1);
            ensure!(fits, "the fault of {} has no place", fault.layer);
        }
        let checked = Checked {
            vars: count_vars(&self),
            program: self,
            live,
        };
        if cfg!(debug_assertions) {
            checked.check_independence()?;
        }
        Ok(checked)
    }
}

fn in_step(index: usize, step: &Step, bug: Bug) -> Bug {
    Bug(format!(
        "step {index} ({}): {}",
        step.layers.join(", "),
        bug.0
    ))
}

// ---- blocks, buffers, ports, tables -------------------------------------------

fn blocks(p: &Program) -> Result {
    for port in p.inputs.iter().chain(&p.outputs) {
        let len = port.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        ensure!(len.is_some(), "port `{}` is too large", port.name);
    }
    for (i, table) in p.tables.iter().enumerate() {
        ensure!(!table.is_empty(), "table t{i} is empty");
    }
    for (i, buffer) in p.buffers.iter().enumerate() {
        let inside = space_len(p, buffer.place)
            .zip(place_start(buffer.place).checked_add(buffer.len))
            .is_some_and(|(len, end)| end <= len && len <= i64::MAX as usize / 8);
        ensure!(
            inside,
            "buffer b{i} `{}` is not inside its block",
            buffer.name
        );
    }
    Ok(())
}

fn space_len(p: &Program, place: Place) -> Option<usize> {
    match place {
        Place::Input(n) => p.inputs.get(n).map(super::Port::len),
        Place::Output(n) => p.outputs.get(n).map(super::Port::len),
        Place::Arena(_) | Place::Kept(_) => Some(p.arena_len),
        Place::Weights(_) => Some(p.weights_len),
        Place::Scratch(_) => Some(p.scratch_len),
    }
}

fn place_start(place: Place) -> usize {
    match place {
        Place::Input(_) | Place::Output(_) => 0,
        Place::Arena(at) | Place::Kept(at) | Place::Weights(at) | Place::Scratch(at) => at,
    }
}

/// A block of memory, in which addresses are comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Space {
    Arena,
    Weights,
    Scratch,
    Input(usize),
    Output(usize),
}

impl Space {
    pub(crate) fn is_constant(self) -> bool {
        matches!(self, Space::Weights | Space::Input(_))
    }

    /// Its place among the base pointers that a step's function gets: arena, weights,
    /// scratch, then inputs, then outputs.
    pub(crate) fn index(self, p: &Program) -> usize {
        match self {
            Space::Arena => 0,
            Space::Weights => 1,
            Space::Scratch => 2,
            Space::Input(n) => 3 + n,
            Space::Output(n) => 3 + p.inputs.len() + n,
        }
    }
}

impl Place {
    /// The block and the position in it.
    pub(crate) fn resolve(self) -> (Space, usize) {
        let space = match self {
            Place::Input(n) => Space::Input(n),
            Place::Output(n) => Space::Output(n),
            Place::Arena(_) | Place::Kept(_) => Space::Arena,
            Place::Weights(_) => Space::Weights,
            Place::Scratch(_) => Space::Scratch,
        };
        (space, place_start(self))
    }
}

/// One more than the largest variable.
fn count_vars(p: &Program) -> usize {
    let mut count = 0;
    for region in p.steps.iter().flat_map(|s| &s.regions) {
        visit_vars(region, &mut |v| count = count.max(v.0 as usize + 1));
    }
    count
}

/// Calls `f` on each variable that a region binds.
fn visit_vars(region: &Region, f: &mut impl FnMut(Var)) {
    region.tasks.iter().for_each(|&(var, _)| f(var));
    for stmt in &region.body {
        stmt.visit(&mut |stmt| match stmt {
            Stmt::For { var, .. } => f(*var),
            Stmt::Map { value, .. } => value.visit(&mut |e| {
                if let Expr::Reduce { window, .. } = e {
                    window.iter().for_each(|&(var, _)| f(var));
                }
            }),
            Stmt::Call { .. } | Stmt::Routine(_) => {}
        });
    }
}
