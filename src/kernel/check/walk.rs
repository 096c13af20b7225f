//! All that the statements of a region touch, with the rules for each statement.

use super::access::{Access, Scope, extent};
use super::{Bug, MAX_DEPTH, MAX_VARS, Result, place_start};
use crate::kernel::{Addr, Arg, Buffer, BufferId, Expr, Program, Region, RoutineCall, Stmt, Var};
use crate::leaf::{ArgInfo, Leaf, Param};

/// Reports each access of a body together with the loops around it, statement by
/// statement, checking the statements on the way.
struct Walk<'a, F: FnMut(&Scope, &[Access]) -> Result> {
    program: &'a Program,
    scope: Scope,
    depth: usize,
    report: F,
}

pub(super) fn walk_region<F>(program: &Program, region: &Region, report: F) -> Result
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
                Stmt::Routine(call) => self.routine(call)?,
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
        let access = Access {
            write,
            len,
            ..self.affine(addr, outer)?
        };
        self.in_bounds(&access, self.buffer(addr.buffer)?)?;
        Ok(access)
    }

    /// No element at `addr`, whose variables are bound.
    fn affine(&self, addr: &Addr, outer: usize) -> Result<Access> {
        let (space, start) = self.buffer(addr.buffer)?.place.resolve();
        let mut access = Access {
            buffer: addr.buffer,
            space,
            write: false,
            base: start as i128 + i128::from(addr.offset.base),
            terms: Vec::new(),
            own: Vec::new(),
            len: 0,
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

    fn routine(&mut self, call: &RoutineCall) -> Result {
        let name = call.routine.name;
        let mut accesses = Vec::new();
        for (i, (addr, len)) in call.operands().enumerate() {
            let write = i >= call.reads.len();
            accesses.push(self.access(addr, write, *len as u64, self.scope.len())?);
        }
        for (i, a) in accesses.iter().enumerate().filter(|(_, a)| a.write) {
            for (j, b) in accesses.iter().enumerate().filter(|(j, _)| *j != i) {
                ensure!(
                    a.disjoint(b, &self.scope),
                    "routine {name}: operands {i} and {j} overlap"
                );
            }
        }
        (self.report)(&self.scope, &accesses)
    }

    fn info<'b>(&'b self, leaf: Leaf, name: &str, param: Param, arg: &Arg) -> Result<ArgInfo<'b>> {
        match (param, arg) {
            (Param::Src | Param::Dst, Arg::Addr(_)) => Ok(ArgInfo::Ptr),
            (Param::Src | Param::Dst | Param::Ahead, Arg::Null) => Ok(ArgInfo::Null),
            (Param::Ahead, Arg::Ahead(addr)) => {
                self.affine(addr, self.scope.len())?;
                Ok(ArgInfo::Ptr)
            }
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
        Leaf::Tile { .. }
            | Leaf::Depthwise { .. }
            | Leaf::FromPoints { .. }
            | Leaf::Unary(_)
            | Leaf::Lrn
            | Leaf::Softmax
    )
}
