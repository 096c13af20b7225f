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
//!   first is written first, scratch buffers of a region do not share addresses.
//!
//! Proved in debug builds ([`Checked::check_independence`]): no task writes an
//! element that another task of the same step reads or writes. All tasks are
//! enumerated, so this is exact up to the leaves' own description of what they touch.

mod tasks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use super::{Addr, Arg, Buffer, BufferId, Expr, Place, Program, Region, Step, Stmt, Var};
use crate::leaf::{ArgInfo, Leaf, Param};

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
            check_step(&self, i, step, &mut live).map_err(|b| in_step(i, step, b))?;
        }
        verify_plan(&self, &live)?;
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
        Place::Arena(_) => Some(p.arena_len),
        Place::Weights(_) => Some(p.weights_len),
        Place::Scratch(_) => Some(p.scratch_len),
    }
}

fn place_start(place: Place) -> usize {
    match place {
        Place::Input(_) | Place::Output(_) => 0,
        Place::Arena(at) | Place::Weights(at) | Place::Scratch(at) => at,
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
            Place::Arena(_) => Space::Arena,
            Place::Weights(_) => Space::Weights,
            Place::Scratch(_) => Space::Scratch,
        };
        (space, place_start(self))
    }
}

// ---- what statements touch -----------------------------------------------------

/// The elements that one argument or load touches: for each value of the variables
/// in scope, `len` consecutive ones for each point of `own`.
#[derive(Clone, Debug)]
struct Access {
    buffer: BufferId,
    space: Space,
    write: bool,
    /// Position in the space when all variables are zero.
    base: i128,
    /// Variables in scope and their coefficients.
    terms: Vec<(Var, i64)>,
    /// Strides and extents of window variables and rows.
    own: Vec<(i64, u64)>,
    len: u64,
}

/// Extents of the variables in scope.
type Scope = Vec<(Var, u32)>;

fn extent(scope: &Scope, var: Var) -> Option<u32> {
    scope.iter().find(|(v, _)| *v == var).map(|&(_, n)| n)
}

/// Adds `coefficient · [0, extent)` to an interval.
fn widen((lo, hi): (i128, i128), coefficient: i128, extent: i128) -> (i128, i128) {
    let far = coefficient * (extent - 1);
    (lo + far.min(0), hi + far.max(0))
}

impl Access {
    /// First and one past the last element over all values of the variables.
    fn hull(&self, scope: &Scope) -> (i128, i128) {
        let mut range = (self.base, self.base);
        for &(var, c) in &self.terms {
            let n = extent(scope, var).expect("terms were checked against the scope");
            range = widen(range, c.into(), n.into());
        }
        for &(c, n) in &self.own {
            range = widen(range, c.into(), n.into());
        }
        (range.0, range.1 + i128::from(self.len))
    }

    /// Whether the two never touch the same element for the same values of the
    /// variables in scope. May say no where rows interleave.
    fn disjoint(&self, other: &Access, scope: &Scope) -> bool {
        if self.space != other.space {
            return true;
        }
        let mut apart = (self.base - other.base, self.base - other.base);
        for &(var, n) in scope {
            let c = self.coefficient(var) - other.coefficient(var);
            apart = widen(apart, c, n.into());
        }
        for &(c, n) in &self.own {
            apart = widen(apart, c.into(), n.into());
        }
        for &(c, n) in &other.own {
            apart = widen(apart, -i128::from(c), n.into());
        }
        apart.0 >= other.len.into() || apart.1 <= -i128::from(self.len)
    }

    fn coefficient(&self, var: Var) -> i128 {
        let term = self.terms.iter().find(|(v, _)| *v == var);
        term.map_or(0, |&(_, c)| c.into())
    }

    /// Whether both touch the same elements in the same order.
    fn coincides(&self, other: &Access) -> bool {
        let sorted = |a: &Access| {
            let mut terms = a.terms.clone();
            terms.sort_unstable();
            terms
        };
        (self.space, self.base, self.len, &self.own)
            == (other.space, other.base, other.len, &other.own)
            && sorted(self) == sorted(other)
    }
}

/// Reports each access of a body together with the loops around it, statement by
/// statement, checking the statements on the way.
struct Walk<'a, F: FnMut(&Scope, &[Access]) -> Result> {
    program: &'a Program,
    scope: Scope,
    depth: usize,
    report: F,
}

fn walk_region<F>(program: &Program, region: &Region, report: F) -> Result
where
    F: FnMut(&Scope, &[Access]) -> Result,
{
    let mut walk = Walk {
        program,
        scope: Vec::new(),
        depth: 0,
        report,
    };
    for &(var, extent) in &region.tasks {
        walk.bind(var, extent)?;
    }
    walk.body(&region.body)
}

impl<F: FnMut(&Scope, &[Access]) -> Result> Walk<'_, F> {
    fn bind(&mut self, var: Var, n: u32) -> Result {
        ensure!(n > 0, "{var} has no values");
        ensure!(var.0 < MAX_VARS, "{var} is numbered too high");
        ensure!(extent(&self.scope, var).is_none(), "{var} is bound twice");
        self.scope.push((var, n));
        Ok(())
    }

    fn body(&mut self, body: &[Stmt]) -> Result {
        self.depth += 1;
        ensure!(self.depth <= MAX_DEPTH, "loops are nested too deep");
        for stmt in body {
            match stmt {
                Stmt::For { var, extent, body } => {
                    self.bind(*var, *extent)?;
                    self.body(body)?;
                    self.scope.pop();
                }
                Stmt::Map { lanes, dst, value } => self.map(*lanes, dst, value)?,
                Stmt::Call { leaf, args } => self.call(*leaf, args)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn map(&mut self, lanes: u32, dst: &Addr, value: &Expr) -> Result {
        ensure!(matches!(lanes, 1 | 4 | 8 | 16), "a map of {lanes} lanes");
        let dst = self.access(dst, true, lanes.into(), self.scope.len())?;
        let mut accesses = vec![dst];
        self.expr(value, lanes, self.scope.len(), 0, &mut accesses)?;
        for source in &accesses[1..] {
            ensure!(
                source.coincides(&accesses[0]) || source.disjoint(&accesses[0], &self.scope),
                "a map overwrites its source {}",
                source.buffer
            );
        }
        (self.report)(&self.scope, &accesses)
    }

    /// Gathers the loads of `e`. Variables beyond the first `outer` in scope are of
    /// windows.
    fn expr(
        &mut self,
        e: &Expr,
        lanes: u32,
        outer: usize,
        depth: usize,
        into: &mut Vec<Access>,
    ) -> Result {
        ensure!(depth < MAX_DEPTH, "an expression is nested too deep");
        match e {
            Expr::Load(addr) => into.push(self.access(addr, false, lanes.into(), outer)?),
            Expr::Splat(addr) => into.push(self.access(addr, false, 1, outer)?),
            Expr::Reduce { window, value, .. } => {
                let bound = self.scope.len();
                for &(var, n) in window {
                    self.bind(var, n)?;
                }
                self.expr(value, lanes, outer, depth + 1, into)?;
                self.scope.truncate(bound);
            }
            _ => {
                for operand in e.operands() {
                    self.expr(operand, lanes, outer, depth + 1, into)?;
                }
            }
        }
        Ok(())
    }

    /// `len` elements from `addr` on, inside the buffer for all values of variables.
    fn access(&self, addr: &Addr, write: bool, len: u64, outer: usize) -> Result<Access> {
        let buffer = self.buffer(addr.buffer)?;
        let (space, start) = buffer.place.resolve();
        let mut access = Access {
            buffer: addr.buffer,
            space,
            write,
            base: start as i128 + i128::from(addr.offset.base),
            terms: Vec::new(),
            own: Vec::new(),
            len,
        };
        for &(var, c) in &addr.offset.terms {
            let Some(at) = self.scope.iter().position(|(v, _)| *v == var) else {
                return bug!("{var} is not bound where {} is used", addr.buffer);
            };
            ensure!(c != 0, "{var} has the coefficient 0 in {}", addr.buffer);
            let twice = addr.offset.terms.iter().filter(|(v, _)| *v == var).count() > 1;
            ensure!(
                !twice,
                "{var} appears twice in an address of {}",
                addr.buffer
            );
            if at < outer {
                access.terms.push((var, c));
            } else {
                access.own.push((c, self.scope[at].1.into()));
            }
        }
        self.in_bounds(&access, buffer)?;
        Ok(access)
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer> {
        match self.program.buffers.get(id.0 as usize) {
            Some(buffer) => Ok(buffer),
            None => bug!("no buffer {id}"),
        }
    }

    fn in_bounds(&self, access: &Access, buffer: &Buffer) -> Result {
        let start = place_start(buffer.place) as i128;
        let (lo, hi) = access.hull(&self.scope);
        ensure!(
            lo >= start && hi <= start + buffer.len as i128,
            "touches elements {}..{} of {} `{}`, which has {}",
            lo - start,
            hi - start,
            access.buffer,
            buffer.name,
            buffer.len
        );
        ensure!(
            !(access.write && access.space.is_constant()),
            "writes to {} `{}`",
            access.buffer,
            buffer.name
        );
        Ok(())
    }

    fn call(&mut self, leaf: Leaf, args: &[Arg]) -> Result {
        let isa = self.program.isa;
        ensure!(leaf.exists(isa), "{leaf:?} does not exist on {isa:?}");
        let params = leaf.params();
        ensure!(
            params.len() == args.len(),
            "{leaf:?} takes {} arguments, not {}",
            params.len(),
            args.len()
        );
        let infos = args
            .iter()
            .zip(params)
            .map(|(arg, &(name, param))| self.info(leaf, name, param, arg))
            .collect::<Result<Vec<_>>>()?;
        let touches = leaf
            .touches(&infos)
            .map_err(|why| Bug(format!("{leaf:?}: {why}")))?;
        let mut accesses = Vec::new();
        for touch in &touches {
            let Some(Arg::Addr(addr)) = args.get(touch.arg) else {
                return bug!("{leaf:?} touches argument {}, no address", touch.arg);
            };
            if touch.rows == 0 || touch.row_len == 0 {
                continue;
            }
            let mut access = self.access(addr, false, 0, self.scope.len())?;
            access.write = touch.write;
            access.base += i128::from(touch.offset);
            access.len = touch.row_len;
            if touch.rows > 1 {
                access.own.push((touch.row_stride, touch.rows));
            }
            self.in_bounds(&access, self.buffer(addr.buffer)?)
                .map_err(|b| Bug(format!("{leaf:?}: `{}` {}", params[touch.arg].0, b.0)))?;
            accesses.push((touch.arg, access));
        }
        self.operands_apart(leaf, &accesses)?;
        let accesses: Vec<_> = accesses.into_iter().map(|(_, a)| a).collect();
        (self.report)(&self.scope, &accesses)
    }

    fn info<'b>(&'b self, leaf: Leaf, name: &str, param: Param, arg: &Arg) -> Result<ArgInfo<'b>> {
        match (param, arg) {
            (Param::Src | Param::Dst, Arg::Addr(_)) => Ok(ArgInfo::Ptr),
            (Param::Src | Param::Dst, Arg::Null) => Ok(ArgInfo::Null),
            (Param::Table, Arg::Table(id)) => match self.program.tables.get(id.0 as usize) {
                Some(table) => Ok(ArgInfo::Table(table)),
                None => bug!("no table {id}"),
            },
            (Param::Len, Arg::Len(n)) => Ok(ArgInfo::Len(*n)),
            (Param::F32, Arg::F32(x)) => Ok(ArgInfo::F32(*x)),
            _ => bug!("{leaf:?} takes a {param:?} as `{name}`, not {arg:?}"),
        }
    }

    /// That what a leaf writes is apart from what its other arguments touch, or the
    /// same where the leaf may work in place.
    fn operands_apart(&self, leaf: Leaf, accesses: &[(usize, Access)]) -> Result {
        for (i, a) in accesses.iter().filter(|(_, a)| a.write) {
            for (j, b) in accesses.iter().filter(|(j, _)| j != i) {
                let in_place = !b.write && in_place(leaf) && a.coincides(b);
                ensure!(
                    in_place || a.disjoint(b, &self.scope),
                    "{leaf:?}: `{}` overlaps `{}`",
                    leaf.params()[*i].0,
                    leaf.params()[*j].0
                );
            }
        }
        Ok(())
    }
}

/// Leaves that have read an element, for the last time, when they write it.
fn in_place(leaf: Leaf) -> bool {
    matches!(
        leaf,
        Leaf::Tile { .. } | Leaf::Depthwise { .. } | Leaf::Unary(_) | Leaf::Lrn | Leaf::Softmax
    )
}

// ---- the memory plan -----------------------------------------------------------

/// Checks a step's statements and extends the live ranges by it.
fn check_step(p: &Program, index: usize, step: &Step, live: &mut [Option<Live>]) -> Result {
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
fn verify_plan(p: &Program, live: &[Option<Live>]) -> Result {
    let mut starts: BTreeMap<usize, Vec<BufferId>> = BTreeMap::new();
    let mut ends: BTreeMap<usize, Vec<BufferId>> = BTreeMap::new();
    for (i, buffer) in p.buffers.iter().enumerate() {
        if let (Place::Arena(_), Some(l), 1..) = (buffer.place, live[i], buffer.len) {
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
            Stmt::Call { .. } => {}
        });
    }
}
