//! One step of a program as a function in Cranelift's IR.
//!
//! The function gets the base pointers and a range of tasks, counted through the
//! regions of the step: for each region a loop over its part of the range, task
//! variables by division at the start of each task. Cranelift is asked for no
//! optimisation, so three things are done here: the part of an address that a loop does
//! not change is computed before it, constants and weights that it does not change are
//! loaded before it (if it has no calls: they use all vector registers), and within a
//! `Map` no value is computed twice.
//!
//! A `Map` of 16 lanes is four vectors of four. They are computed one after the other,
//! which takes few registers, unless a window is a loop: then together.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, BlockArg, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::JITModule;
use cranelift_module::Module;

use super::jit::Imports;
use crate::kernel::check::Space;
use crate::kernel::{
    Addr, Arg, BinaryOp, Expr, Program, Region, RoutineCall, Step, Stmt, TableId, UnaryOp, Var,
};
use crate::leaf::{Isa, Leaf};

/// Windows are unrolled up to this many points and operations.
const UNROLL_POINTS: u64 = 16;
const UNROLL_OPERATIONS: u64 = 128;

const F32_BYTES: i64 = 4;

/// Fills `func`, whose signature is three 64-bit integers.
pub(super) fn define_step(
    program: &Program,
    step: &Step,
    module: &mut JITModule,
    imports: &Imports,
    func: &mut ir::Function,
    scratch: &mut FunctionBuilderContext,
) {
    let config = module.target_config();
    let mut b = FunctionBuilder::new(func, scratch);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let params = b.block_params(entry).to_vec();
    let mut emitter = Emitter {
        program,
        module,
        imports,
        b,
        scope: Scope::default(),
        leaves: HashMap::new(),
    };
    emitter.load_bases(step, params[0]);
    let mut first = 0;
    for region in &step.regions {
        emitter.region(
            region,
            first,
            (params[1], params[2]),
            step.regions.len() > 1,
        );
        first += region.task_count() as i64;
    }
    emitter.b.ins().return_(&[]);
    emitter.b.seal_all_blocks();
    emitter.b.finalize(config);
}

struct Emitter<'a, 'f> {
    program: &'a Program,
    module: &'a mut JITModule,
    imports: &'a Imports,
    b: FunctionBuilder<'f>,
    scope: Scope,
    leaves: HashMap<Leaf, ir::FuncRef>,
}

/// What is known at a point of the function. Loops run at least once, so that what is
/// computed in one stays valid behind it; what depends on its variable is dropped by
/// restoring the scope from before.
#[derive(Clone, Default)]
struct Scope {
    /// Variables of loops, outermost first.
    vars: Vec<(Var, Value)>,
    /// Variables of unrolled windows and of loops that run once.
    fixed: Vec<(Var, i64)>,
    bases: HashMap<Space, Value>,
    /// A variable times a number of bytes.
    scaled: HashMap<(Var, i64), Value>,
    /// Byte addresses of `base + Σ terms`.
    pointers: HashMap<(Space, Terms), Value>,
    values: HashMap<Key, Value>,
}

/// Variables in the order of their loops, and coefficients in elements.
type Terms = Vec<(Var, i64)>;

/// A place in memory with fixed variables folded into the constant.
struct Position {
    space: Space,
    terms: Terms,
    base: i64,
}

/// A value of a `Map` by what it is computed from.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Load(Space, Terms, i64, Type),
    Splat(Space, Terms, i64, Type),
    Const(u32, Type),
    Unary(UnaryOp, Value),
    Binary(BinaryOp, Value, Value),
    Fma([Value; 3]),
    Less([Value; 4]),
}

/// The vectors of a `Map`, or some of them.
struct Chunks {
    ty: Type,
    /// First lane of each.
    starts: Vec<i64>,
}

impl Chunks {
    fn of(lanes: u32) -> Chunks {
        match lanes {
            1 => Chunks {
                ty: types::F32,
                starts: vec![0],
            },
            _ => Chunks {
                ty: types::F32X4,
                starts: (0..i64::from(lanes)).step_by(4).collect(),
            },
        }
    }

    /// The same lanes, as groups that are to be computed together.
    fn groups(self, together: bool) -> Vec<Chunks> {
        if together {
            return vec![self];
        }
        let ty = self.ty;
        let single = |start| Chunks {
            ty,
            starts: vec![start],
        };
        self.starts.into_iter().map(single).collect()
    }
}

// ---- regions and loops ---------------------------------------------------------

impl Emitter<'_, '_> {
    fn load_bases(&mut self, step: &Step, bases: Value) {
        for region in &step.regions {
            for addr in addresses(&region.body) {
                let space = self.space(addr);
                if !self.scope.bases.contains_key(&space) {
                    let offset = 8 * space.index(self.program) as i32;
                    let flags = MemFlagsData::trusted().with_readonly().with_can_move();
                    let base = self.b.ins().load(types::I64, flags, bases, offset);
                    self.scope.bases.insert(space, base);
                }
            }
        }
    }

    /// The tasks of `begin..end` that are this region's, which start with `first`.
    fn region(&mut self, region: &Region, first: i64, range: (Value, Value), clip: bool) {
        let (begin, end) = if clip {
            self.clip(range, first, region.task_count() as i64)
        } else {
            range
        };
        let before = self.scope.clone();
        let (body, exit) = (self.b.create_block(), self.b.create_block());
        let task = self.b.append_block_param(body, types::I64);
        let any = self.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
        self.b.ins().brif(any, body, &[begin.into()], exit, &[]);

        self.b.switch_to_block(body);
        self.bind_tasks(&region.tasks, task);
        self.body(&region.body);
        let next = self.add(task, 1);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, body, &[next.into()], exit, &[]);

        self.b.switch_to_block(exit);
        self.scope = before;
    }

    /// A range of the step's tasks as a range of those of one region.
    fn clip(&mut self, (begin, end): (Value, Value), first: i64, count: i64) -> (Value, Value) {
        let low = self.int(first);
        let high = self.int(first + count);
        let after = self.b.ins().icmp(IntCC::UnsignedLessThan, low, begin);
        let begin = self.b.ins().select(after, begin, low);
        let before = self.b.ins().icmp(IntCC::UnsignedLessThan, end, high);
        let end = self.b.ins().select(before, end, high);
        // `end` may lie before the region: the difference must not wrap.
        let some = self.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
        let end = self.b.ins().select(some, end, begin);
        (self.b.ins().isub(begin, low), self.b.ins().isub(end, low))
    }

    /// Splits the number of a task into its variables.
    fn bind_tasks(&mut self, tasks: &[(Var, u32)], task: Value) {
        let mut rest = task;
        let mut vars = Vec::new();
        let mut outer: u64 = tasks.iter().map(|&(_, n)| u64::from(n)).product();
        for &(var, n) in tasks.iter().rev() {
            outer /= u64::from(n);
            if n == 1 {
                self.scope.fixed.push((var, 0));
            } else if outer == 1 {
                vars.push((var, rest));
            } else {
                let n = self.int(n.into());
                let quotient = self.b.ins().udiv(rest, n);
                let whole = self.b.ins().imul(quotient, n);
                vars.push((var, self.b.ins().isub(rest, whole)));
                rest = quotient;
            }
        }
        self.scope.vars.extend(vars.into_iter().rev());
    }

    fn body(&mut self, body: &[Stmt]) {
        self.prepare_pointers(body);
        for stmt in body {
            match stmt {
                Stmt::For { var, extent, body } => self.for_loop(*var, *extent, stmt, body),
                Stmt::Map { lanes, dst, value } => self.map(*lanes, dst, value),
                Stmt::Call { leaf, args } => self.call(*leaf, args),
                Stmt::Routine(call) => self.routine(call),
            }
        }
    }

    fn for_loop(&mut self, var: Var, extent: u32, stmt: &Stmt, body: &[Stmt]) {
        let before = self.scope.clone();
        if !has_calls(stmt) {
            self.hoist(body);
        }
        if extent == 1 {
            self.scope.fixed.push((var, 0));
            self.body(body);
        } else {
            self.counted_loop(var, extent, &[], |this, _| {
                this.body(body);
                vec![]
            });
        }
        self.scope = before;
    }

    /// `for var in 0..extent`, with values carried from turn to turn; returns the last.
    fn counted_loop(
        &mut self,
        var: Var,
        extent: u32,
        carried: &[Value],
        body: impl FnOnce(&mut Self, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        let head = self.b.create_block();
        let exit = self.b.create_block();
        let index = self.b.append_block_param(head, types::I64);
        let params: Vec<_> = carried
            .iter()
            .map(|&v| {
                let ty = self.b.func.dfg.value_type(v);
                self.b.append_block_param(head, ty)
            })
            .collect();
        let zero = self.int(0);
        let args = block_args(zero, carried);
        self.b.ins().jump(head, &args);

        self.b.switch_to_block(head);
        self.scope.vars.push((var, index));
        let results = body(self, params);
        let next = self.add(index, 1);
        let extent = self.int(extent.into());
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, extent);
        let args = block_args(next, &results);
        self.b.ins().brif(more, head, &args, exit, &[]);

        self.b.switch_to_block(exit);
        results
    }
}

fn block_args(first: Value, rest: &[Value]) -> Vec<BlockArg> {
    std::iter::once(first)
        .chain(rest.iter().copied())
        .map(BlockArg::from)
        .collect()
}

fn has_calls(stmt: &Stmt) -> bool {
    let mut found = false;
    stmt.visit(&mut |s| found |= matches!(s, Stmt::Call { .. } | Stmt::Routine(_)));
    found
}

/// All addresses in a body.
fn addresses(body: &[Stmt]) -> Vec<&Addr> {
    let mut found = Vec::new();
    for stmt in body {
        stmt.visit(&mut |stmt| match stmt {
            Stmt::For { .. } => {}
            Stmt::Map { dst, value, .. } => {
                found.push(dst);
                value.visit(&mut |e| {
                    if let Expr::Load(addr) | Expr::Splat(addr) = e {
                        found.push(addr);
                    }
                });
            }
            Stmt::Routine(call) => found.extend(call.operands().map(|(addr, _)| addr)),
            Stmt::Call { args, .. } => found.extend(args.iter().filter_map(|arg| match arg {
                Arg::Addr(addr) | Arg::Ahead(addr) => Some(addr),
                _ => None,
            })),
        });
    }
    found
}

// ---- addresses -----------------------------------------------------------------

impl Emitter<'_, '_> {
    fn int(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    fn add(&mut self, a: Value, constant: i64) -> Value {
        let constant = self.int(constant);
        self.b.ins().iadd(a, constant)
    }

    fn space(&self, addr: &Addr) -> Space {
        self.program.buffers[addr.buffer.0 as usize]
            .place
            .resolve()
            .0
    }

    /// Where `addr` is, as far as its variables are bound here.
    fn position(&self, addr: &Addr) -> Position {
        let (space, start) = self.program.buffers[addr.buffer.0 as usize].place.resolve();
        let coefficient = |var| {
            let term = addr.offset.terms.iter().find(|(v, _)| *v == var);
            term.map_or(0, |&(_, c)| c)
        };
        let fixed = self.scope.fixed.iter().map(|&(v, x)| coefficient(v) * x);
        let terms = self.scope.vars.iter().map(|&(v, _)| (v, coefficient(v)));
        Position {
            space,
            terms: terms.filter(|&(_, c)| c != 0).collect(),
            base: start as i64 + addr.offset.base + fixed.sum::<i64>(),
        }
    }

    fn is_bound(&self, var: Var) -> bool {
        let vars = self.scope.vars.iter().map(|&(v, _)| v);
        let mut bound = vars.chain(self.scope.fixed.iter().map(|&(v, _)| v));
        bound.any(|v| v == var)
    }

    /// Computes, at the start of a loop's body, what all addresses in it share.
    fn prepare_pointers(&mut self, body: &[Stmt]) {
        for addr in addresses(body) {
            let position = self.position(addr);
            self.pointer(position.space, &position.terms);
        }
    }

    fn pointer(&mut self, space: Space, terms: &[(Var, i64)]) -> Value {
        let Some((&(var, c), outer)) = terms.split_last() else {
            return self.scope.bases[&space];
        };
        let key = (space, terms.to_vec());
        if let Some(&pointer) = self.scope.pointers.get(&key) {
            return pointer;
        }
        let outer = self.pointer(space, outer);
        let offset = self.scaled(var, c * F32_BYTES);
        let pointer = self.b.ins().iadd(outer, offset);
        self.scope.pointers.insert(key, pointer);
        pointer
    }

    fn scaled(&mut self, var: Var, bytes: i64) -> Value {
        if let Some(&scaled) = self.scope.scaled.get(&(var, bytes)) {
            return scaled;
        }
        let bound = self.scope.vars.iter().find(|(v, _)| *v == var);
        let value = bound.expect("a checked program binds what it uses").1;
        let scaled = if bytes > 0 && bytes.count_ones() == 1 {
            let shift = self.int(bytes.trailing_zeros().into());
            self.b.ins().ishl(value, shift)
        } else {
            let bytes = self.int(bytes);
            self.b.ins().imul(value, bytes)
        };
        self.scope.scaled.insert((var, bytes), scaled);
        scaled
    }

    /// A pointer and the constant to add to it, in elements `lane` further on.
    fn operand(&mut self, position: &Position, lane: i64) -> (Value, i32) {
        let pointer = self.pointer(position.space, &position.terms);
        let bytes = (position.base + lane) * F32_BYTES;
        match i32::try_from(bytes) {
            Ok(bytes) => (pointer, bytes),
            Err(_) => (self.add(pointer, bytes), 0),
        }
    }
}

// ---- maps ----------------------------------------------------------------------

impl Emitter<'_, '_> {
    fn map(&mut self, lanes: u32, dst: &Addr, value: &Expr) {
        let before = self.scope.clone();
        let dst = self.position(dst);
        for chunks in Chunks::of(lanes).groups(has_window_loop(value)) {
            let values = self.eval(value, &chunks);
            for (value, &lane) in values.into_iter().zip(&chunks.starts) {
                let (pointer, offset) = self.operand(&dst, lane);
                let flags = MemFlagsData::new().with_notrap();
                self.b.ins().store(flags, value, pointer, offset);
            }
        }
        self.scope = before;
    }

    /// Loads constants and weights that the loops of `body` do not change.
    fn hoist(&mut self, body: &[Stmt]) {
        for stmt in body {
            stmt.visit(&mut |stmt| {
                if let Stmt::Map { lanes, value, .. } = stmt {
                    value.visit(&mut |e| {
                        if self.is_invariant(e) {
                            self.eval(e, &Chunks::of(*lanes));
                        }
                    });
                }
            });
        }
    }

    fn is_invariant(&self, e: &Expr) -> bool {
        match e {
            Expr::Const(_) => true,
            Expr::Load(addr) | Expr::Splat(addr) => {
                self.space(addr).is_constant()
                    && addr.offset.terms.iter().all(|&(v, _)| self.is_bound(v))
            }
            _ => false,
        }
    }

    /// The value of `e` in each vector.
    fn eval(&mut self, e: &Expr, chunks: &Chunks) -> Vec<Value> {
        match e {
            Expr::Load(addr) => {
                let at = self.position(addr);
                let load = |&lane| self.load(&at, lane, chunks.ty);
                chunks.starts.iter().map(load).collect()
            }
            Expr::Splat(addr) => {
                let at = self.position(addr);
                vec![self.splat(&at, chunks.ty); chunks.starts.len()]
            }
            Expr::Const(x) => vec![self.constant(*x, chunks.ty); chunks.starts.len()],
            Expr::Unary(op, a) => {
                let a = self.eval(a, chunks);
                a.into_iter()
                    .map(|a| self.pure(Key::Unary(*op, a)))
                    .collect()
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.eval(a, chunks), self.eval(b, chunks));
                self.binary(*op, &a, &b)
            }
            Expr::Fma(a, b, c) => {
                let operands = [a, b, c].map(|e| self.eval(e, chunks));
                let key = |i| Key::Fma(std::array::from_fn(|k| operands[k][i]));
                (0..operands[0].len()).map(|i| self.pure(key(i))).collect()
            }
            Expr::Less { a, b, x, y } => {
                let operands = [a, b, x, y].map(|e| self.eval(e, chunks));
                let key = |i| Key::Less(std::array::from_fn(|k| operands[k][i]));
                (0..operands[0].len()).map(|i| self.pure(key(i))).collect()
            }
            Expr::Reduce {
                op,
                init,
                window,
                value,
            } => {
                let acc = vec![self.constant(*init, chunks.ty); chunks.starts.len()];
                self.reduce(*op, window, value, chunks, acc)
            }
        }
    }

    fn binary(&mut self, op: BinaryOp, a: &[Value], b: &[Value]) -> Vec<Value> {
        let pairs = a.iter().zip(b);
        pairs
            .map(|(&a, &b)| self.pure(Key::Binary(op, a, b)))
            .collect()
    }

    fn reduce(
        &mut self,
        op: BinaryOp,
        window: &[(Var, u32)],
        value: &Expr,
        chunks: &Chunks,
        acc: Vec<Value>,
    ) -> Vec<Value> {
        let Some((&(var, extent), inner)) = window.split_first() else {
            let value = self.eval(value, chunks);
            return self.binary(op, &acc, &value);
        };
        if !unrolls(window, value) {
            let before = self.scope.clone();
            let acc = self.counted_loop(var, extent, &acc, |this, acc| {
                this.reduce(op, inner, value, chunks, acc)
            });
            self.scope = before;
            return acc;
        }
        (0..i64::from(extent)).fold(acc, |acc, i| {
            self.scope.fixed.push((var, i));
            let acc = self.reduce(op, inner, value, chunks, acc);
            self.scope.fixed.pop();
            acc
        })
    }

    fn load(&mut self, at: &Position, lane: i64, ty: Type) -> Value {
        let key = Key::Load(at.space, at.terms.clone(), at.base + lane, ty);
        self.memoize(key, |this| {
            let (pointer, offset) = this.operand(at, lane);
            let flags = load_flags(at.space);
            if ty == types::F32X4 && this.program.isa == Isa::Portable {
                this.load_apart(flags, pointer, offset)
            } else {
                this.b.ins().load(ty, flags, pointer, offset)
            }
        })
    }

    /// A vector load that is not folded into the instruction that uses it. Without AVX,
    /// memory operands must be aligned; Cranelift knows that, except for `cmpps`.
    fn load_apart(&mut self, flags: MemFlagsData, pointer: Value, offset: i32) -> Value {
        let vector = self.b.ins().load(types::I32X4, flags, pointer, offset);
        let same = MemFlagsData::new();
        self.b.ins().bitcast(types::F32X4, same, vector)
    }

    fn splat(&mut self, at: &Position, ty: Type) -> Value {
        let key = Key::Splat(at.space, at.terms.clone(), at.base, ty);
        self.memoize(key, |this| {
            let scalar = this.load(at, 0, types::F32);
            this.widen(scalar, ty)
        })
    }

    fn constant(&mut self, x: f32, ty: Type) -> Value {
        self.memoize(Key::Const(x.to_bits(), ty), |this| {
            let scalar = this.b.ins().f32const(x);
            this.widen(scalar, ty)
        })
    }

    fn widen(&mut self, scalar: Value, ty: Type) -> Value {
        if ty == types::F32 {
            scalar
        } else {
            self.b.ins().splat(ty, scalar)
        }
    }

    fn memoize(&mut self, key: Key, make: impl FnOnce(&mut Self) -> Value) -> Value {
        if let Some(&value) = self.scope.values.get(&key) {
            return value;
        }
        let value = make(self);
        self.scope.values.insert(key, value);
        value
    }

    /// An operation on values.
    fn pure(&mut self, key: Key) -> Value {
        self.memoize(key.clone(), |this| match key {
            Key::Unary(op, a) => this.unary_op(op, a),
            Key::Binary(op, a, b) => this.binary_op(op, a, b),
            Key::Fma([a, b, c]) if this.program.isa == Isa::Portable => {
                let product = this.b.ins().fmul(a, b);
                this.b.ins().fadd(product, c)
            }
            Key::Fma([a, b, c]) => this.b.ins().fma(a, b, c),
            Key::Less([a, b, x, y]) => this.less(a, b, x, y),
            Key::Load(..) | Key::Splat(..) | Key::Const(..) => unreachable!("not an operation"),
        })
    }

    fn unary_op(&mut self, op: UnaryOp, a: Value) -> Value {
        match op {
            UnaryOp::Neg => self.b.ins().fneg(a),
            UnaryOp::Abs => self.b.ins().fabs(a),
            UnaryOp::Sqrt => self.b.ins().sqrt(a),
        }
    }

    fn binary_op(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        match op {
            BinaryOp::Add => self.b.ins().fadd(a, b),
            BinaryOp::Sub => self.b.ins().fsub(a, b),
            BinaryOp::Mul => self.b.ins().fmul(a, b),
            BinaryOp::Div => self.b.ins().fdiv(a, b),
            BinaryOp::Max => self.less(a, b, b, a),
            BinaryOp::Min => self.less(b, a, b, a),
        }
    }

    /// `if a < b { x } else { y }`. On x64, `less(a, b, b, a)` and `less(b, a, b, a)`
    /// become one `maxps` and one `minps`.
    fn less(&mut self, a: Value, b: Value, x: Value, y: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let less = self.b.ins().fcmp(FloatCC::LessThan, a, b);
        if ty == types::F32 {
            return self.b.ins().select(less, x, y);
        }
        let mask = self.b.ins().bitcast(ty, MemFlagsData::new(), less);
        self.b.ins().bitselect(mask, x, y)
    }
}

fn load_flags(space: Space) -> MemFlagsData {
    let flags = MemFlagsData::new().with_notrap();
    if space.is_constant() {
        flags.with_readonly().with_can_move()
    } else {
        flags
    }
}

fn points(window: &[(Var, u32)]) -> u64 {
    window
        .iter()
        .fold(1, |n, &(_, extent)| n.saturating_mul(extent.into()))
}

fn unrolls(window: &[(Var, u32)], value: &Expr) -> bool {
    let points = points(window);
    points <= UNROLL_POINTS && points.saturating_mul(operations(value)) <= UNROLL_OPERATIONS
}

/// Operations that an expression becomes, with windows inside it unrolled.
fn operations(e: &Expr) -> u64 {
    let inside = e
        .operands()
        .into_iter()
        .map(operations)
        .fold(0, u64::saturating_add);
    match e {
        Expr::Reduce { window, .. } => points(window).saturating_mul(inside),
        _ => inside.saturating_add(1),
    }
}

fn has_window_loop(value: &Expr) -> bool {
    let mut found = false;
    value.visit(&mut |e| {
        found |= matches!(e, Expr::Reduce { window, value, .. } if !unrolls(window, value));
    });
    found
}

// ---- calls ---------------------------------------------------------------------

impl Emitter<'_, '_> {
    fn call(&mut self, leaf: Leaf, args: &[Arg]) {
        let args: Vec<_> = args.iter().map(|arg| self.argument(arg)).collect();
        let function = self.function(leaf);
        self.b.ins().call(function, &args);
    }

    fn function(&mut self, leaf: Leaf) -> ir::FuncRef {
        *self.leaves.entry(leaf).or_insert_with(|| {
            let id = self.imports.leaves[&leaf];
            self.module.declare_func_in_func(id, self.b.func)
        })
    }

    /// Puts the addresses of the operands on the stack and calls
    /// [`run_routine`](super::jit::run_routine).
    fn routine(&mut self, call: &RoutineCall) {
        let count = call.operands().count() as u32;
        let slot = ir::StackSlotData::new(ir::StackSlotKind::ExplicitSlot, 8 * count, 3);
        let slot = self.b.create_sized_stack_slot(slot);
        for (i, (addr, _)) in call.operands().enumerate() {
            let at = self.address(addr);
            self.b.ins().stack_store(types::I64, at, slot, 8 * i as i32);
        }
        let pointers = self.b.ins().stack_addr(types::I64, slot, 0);
        let data = self.imports.routines[&std::ptr::from_ref(call)];
        let global = self.module.declare_data_in_func(data, self.b.func);
        let call = self.b.ins().symbol_value(types::I64, global);
        let run = self
            .imports
            .run_routine
            .expect("declared with the routines");
        let run = self.module.declare_func_in_func(run, self.b.func);
        self.b.ins().call(run, &[call, pointers]);
    }

    fn address(&mut self, addr: &Addr) -> Value {
        let at = self.position(addr);
        let pointer = self.pointer(at.space, &at.terms);
        self.add(pointer, at.base * F32_BYTES)
    }

    fn argument(&mut self, arg: &Arg) -> Value {
        match arg {
            Arg::Addr(addr) | Arg::Ahead(addr) => self.address(addr),
            Arg::Null => self.int(0),
            Arg::Table(id) => self.table(*id),
            Arg::Len(n) => self.int(*n as i64),
            Arg::F32(x) => self.b.ins().f32const(*x),
        }
    }

    fn table(&mut self, id: TableId) -> Value {
        let data = self.imports.tables[&id];
        let global = self.module.declare_data_in_func(data, self.b.func);
        self.b.ins().symbol_value(types::I64, global)
    }
}
