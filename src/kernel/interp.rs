//! Interprets a checked program: what the IR means, statement by statement.
//!
//! Slow and plain; the other engines are tested against it bit for bit. Leaves are
//! called as they are, since they have tests of their own.

use super::check::{Checked, Space};
use super::{Addr, Affine, Arg, BinaryOp, BufferId, Expr, Place, Region, RoutineCall, Stmt, Var};
use crate::leaf::{Isa, Leaf, Value};

/// What the engines fill memory with that nothing has been written to: a signalling
/// NaN, so that a value computed from it is NaN.
pub const UNWRITTEN: f32 = f32::from_bits(0x7fa0_dead);

/// Values of the lanes of a `Map`; those beyond its lanes are not looked at.
type Lanes = [f32; 16];

/// Runs tasks `begin..end` of step number `step`, counted through its regions.
///
/// Scratch memory is filled with [`UNWRITTEN`] before each task.
///
/// # Safety
/// `bases` points to the base pointers of [`Bases`](crate::runtime::exec), with the
/// lengths that the program states; no other thread runs the same tasks or one that
/// they depend on, nor uses the same scratch block.
pub unsafe fn run(program: &Checked, step: usize, bases: *const *mut f32, begin: u64, end: u64) {
    let mut machine = Machine {
        program,
        bases,
        vars: vec![0; program.var_count()],
    };
    let mut first = 0;
    for region in &program.steps[step].regions {
        let count = region.task_count();
        for task in begin.max(first)..end.min(first + count) {
            machine.task(region, task - first);
        }
        first += count;
    }
}

struct Machine<'a> {
    program: &'a Checked,
    bases: *const *mut f32,
    vars: Vec<i64>,
}

impl Machine<'_> {
    fn task(&mut self, region: &Region, index: u64) {
        let scratch = self.base(Space::Scratch);
        for i in 0..self.program.scratch_len {
            // SAFETY: the scratch block has this length and is this thread's own.
            unsafe { scratch.add(i).write(UNWRITTEN) };
        }
        let mut rest = index;
        for &(var, extent) in region.tasks.iter().rev() {
            self.vars[var.0 as usize] = (rest % u64::from(extent)) as i64;
            rest /= u64::from(extent);
        }
        self.body(&region.body);
    }

    fn body(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { var, extent, body } => {
                    for i in 0..*extent {
                        self.vars[var.0 as usize] = i.into();
                        self.body(body);
                    }
                }
                Stmt::Map { lanes, dst, value } => self.map(*lanes as usize, dst, value),
                Stmt::Call { leaf, args } => self.call(*leaf, args),
                Stmt::Routine(call) => self.routine(call),
            }
        }
    }

    fn map(&mut self, lanes: usize, dst: &Addr, value: &Expr) {
        let value = self.eval(value, lanes);
        let dst = self.pointer(dst);
        for (l, x) in value[..lanes].iter().enumerate() {
            // SAFETY: the checker found all lanes inside the buffer.
            unsafe { dst.add(l).write(*x) };
        }
    }

    fn call(&mut self, leaf: Leaf, args: &[Arg]) {
        let args: Vec<_> = args.iter().map(|arg| self.argument(arg)).collect();
        // SAFETY: the checker found that the leaf exists, gets the arguments that it
        // lists and touches only elements of the buffers; the CPU has the ISA, since
        // an `Executable` is only made if it has.
        unsafe { leaf.call(self.program.isa, &args) };
    }

    fn routine(&self, call: &RoutineCall) {
        let pointers: Vec<_> = call
            .operands()
            .map(|(addr, _)| self.pointer(addr))
            .collect();
        let lens: Vec<usize> = call.operands().map(|(_, len)| *len).collect();
        // SAFETY: the checker found that all operands lie in their buffers and that what
        // is written overlaps nothing else; no other task touches it.
        unsafe {
            call.routine.call(
                &pointers,
                &lens,
                call.reads.len(),
                &call.sizes,
                &call.values,
            )
        };
    }

    fn argument(&self, arg: &Arg) -> Value {
        match arg {
            Arg::Addr(addr) | Arg::Ahead(addr) => Value::Ptr(self.pointer(addr)),
            Arg::Null => Value::Ptr(std::ptr::null_mut()),
            Arg::Table(id) => Value::Table(self.program.tables[id.0 as usize].as_ptr()),
            Arg::Len(n) => Value::Len(*n),
            Arg::F32(x) => Value::F32(*x),
        }
    }

    fn base(&self, space: Space) -> *mut f32 {
        // SAFETY: `run` was given as many base pointers as the program has spaces.
        unsafe { *self.bases.add(space.index(self.program)) }
    }

    fn pointer(&self, addr: &Addr) -> *mut f32 {
        let (space, start) = self.place(addr.buffer).resolve();
        let offset = start as i64 + self.affine(&addr.offset);
        self.base(space).wrapping_offset(offset as isize)
    }

    fn place(&self, id: BufferId) -> Place {
        self.program.buffers[id.0 as usize].place
    }

    fn affine(&self, a: &Affine) -> i64 {
        let terms = a.terms.iter().map(|&(v, c)| self.vars[v.0 as usize] * c);
        a.base + terms.sum::<i64>()
    }

    fn eval(&mut self, e: &Expr, lanes: usize) -> Lanes {
        match e {
            Expr::Load(addr) => {
                let src = self.pointer(addr);
                // SAFETY: the checker found all lanes inside the buffer.
                std::array::from_fn(|l| {
                    if l < lanes {
                        unsafe { *src.add(l) }
                    } else {
                        0.0
                    }
                })
            }
            // SAFETY: as above.
            Expr::Splat(addr) => [unsafe { *self.pointer(addr) }; 16],
            Expr::Const(x) => [*x; 16],
            Expr::Unary(op, a) => self.eval(a, lanes).map(|a| op.apply(a)),
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.eval(a, lanes), self.eval(b, lanes));
                std::array::from_fn(|l| op.apply(a[l], b[l]))
            }
            Expr::Fma(a, b, c) => {
                let (a, b) = (self.eval(a, lanes), self.eval(b, lanes));
                let c = self.eval(c, lanes);
                let isa = self.program.isa;
                std::array::from_fn(|l| fma(isa, a[l], b[l], c[l]))
            }
            Expr::Less { a, b, x, y } => {
                let (a, b) = (self.eval(a, lanes), self.eval(b, lanes));
                let (x, y) = (self.eval(x, lanes), self.eval(y, lanes));
                std::array::from_fn(|l| if a[l] < b[l] { x[l] } else { y[l] })
            }
            Expr::Reduce {
                op,
                init,
                window,
                value,
            } => {
                let mut acc = [*init; 16];
                self.reduce(*op, window, value, lanes, &mut acc);
                acc
            }
        }
    }

    fn reduce(
        &mut self,
        op: BinaryOp,
        window: &[(Var, u32)],
        value: &Expr,
        lanes: usize,
        acc: &mut Lanes,
    ) {
        let Some((&(var, extent), inner)) = window.split_first() else {
            let value = self.eval(value, lanes);
            *acc = std::array::from_fn(|l| op.apply(acc[l], value[l]));
            return;
        };
        for i in 0..extent {
            self.vars[var.0 as usize] = i.into();
            self.reduce(op, inner, value, lanes, acc);
        }
    }
}

fn fma(isa: Isa, a: f32, b: f32, c: f32) -> f32 {
    match isa {
        Isa::Portable => a * b + c,
        Isa::Avx2 | Isa::Avx512 => a.mul_add(b, c),
    }
}
