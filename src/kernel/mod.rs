//! The kernel IR: what a lowered net does, step by step, in terms of loops, fused
//! element-wise expressions and leaf calls on flat f32 buffers.
//!
//! In: what `lower` builds. Out: a [`Checked`] program, the only thing that
//! the back ends and the interpreter take. Start with [`Program`].
//!
//! A program is a list of [`Step`]s, run one after the other. A step is a list of
//! [`Region`]s that do not depend on each other; a region is a number of tasks that
//! do not depend on each other either. So the tasks of a step, counted through all
//! its regions, may be divided among threads in any way, with one barrier after it,
//! and results cannot depend on the number of threads.
//!
//! Bits are part of the IR: `fma` is fused (on [`Isa::Portable`] it is `mul` then
//! `add`), other operations are never contracted or reordered; `max(a, b)` is
//! `if a < b { b } else { a }`, `min(a, b)` is `if b < a { b } else { a }`; a reduction
//! goes through its window row by row.

pub mod check;
pub mod dump;
pub mod interp;
#[cfg(test)]
pub(crate) mod testing;

pub use check::{Bug, Checked};

use crate::leaf::routine::Routine;
use crate::leaf::{Isa, Leaf};
use std::collections::BTreeSet;

macro_rules! id {
    ($name:ident, $letter:literal) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}
id!(Var, "i");
id!(BufferId, "b");
id!(TableId, "t");

/// A lowered net for one ISA, with fixed shapes.
///
/// Variables are numbered from 0, anew in each region if wanted; one that is visible
/// is not bound again.
#[derive(Clone, Debug)]
pub struct Program {
    /// The net's name, as the user wrote it.
    pub name: String,
    pub isa: Isa,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub buffers: Vec<Buffer>,
    /// Constant tables of element offsets (segments of convolutions).
    pub tables: Vec<Vec<i32>>,
    pub steps: Vec<Step>,
    /// Where steps say that the values of the inputs make no sense.
    pub faults: Vec<Fault>,
    /// Sizes in elements of what the runtime provides: one arena for each
    /// context, one weights block for the net, one scratch for each thread.
    pub arena_len: usize,
    pub weights_len: usize,
    pub scratch_len: usize,
}

/// A place that a layer writes 0 to, or the number of what is wrong with its bottoms'
/// values.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Kept, of one element.
    pub buffer: BufferId,
    /// The Caffe layer's name.
    pub layer: String,
    /// Text number n − 1 is what n says.
    pub messages: &'static [&'static str],
}

/// An input or output blob: plain row-major f32, of the user's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub shape: Vec<usize>,
    /// For an output whose extent along an axis depends on the data, and of which `shape`
    /// tells the most there can be.
    pub count: Option<Count>,
}

/// How many elements there are along an axis of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub axis: usize,
    /// The output, of one element, that holds the number.
    pub output: usize,
}

impl Port {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A named range of memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// What it holds, for dumps: usually a blob's name.
    pub name: String,
    pub place: Place,
    /// Length in elements.
    pub len: usize,
}

/// Where a buffer lies. Offsets are in elements from the start of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The user's input number n; read only.
    Input(usize),
    /// The user's output number n.
    Output(usize),
    /// Lives from the first step that touches it, which must write it, to the last;
    /// shares memory with others that do not live then.
    Arena(usize),
    /// In the arena, but alone there: what a forward pass leaves is what the next one
    /// finds, at first zeros.
    Kept(usize),
    /// Packed weights; read only.
    Weights(usize),
    /// Private to a thread and, in content, to a task, whose first use writes it. The
    /// scratch buffers of one region do not share memory.
    Scratch(usize),
}

/// One layer or fused group; a barrier follows.
#[derive(Clone, Debug)]
pub struct Step {
    /// Names of the Caffe layers that it computes, for dumps, profiles and the
    /// names of emitted functions.
    pub layers: Vec<String>,
    /// What it does and on which shapes, in one line: a comment in emitted source.
    pub about: String,
    pub regions: Vec<Region>,
    /// Multiply-adds of the direct algorithm, for reports.
    pub macs: u64,
    /// Bytes of activations read and written, for reports.
    pub traffic: u64,
}

/// `Π extents` independent tasks; the last variable runs fastest.
#[derive(Clone, Debug)]
pub struct Region {
    pub tasks: Vec<(Var, u32)>,
    pub body: Vec<Stmt>,
    /// Estimated cost of one task in nanoseconds or any unit that is the same for
    /// all regions of a step: how threads divide them.
    pub cost: u64,
}

impl Region {
    pub fn task_count(&self) -> u64 {
        self.tasks.iter().map(|&(_, n)| u64::from(n)).product()
    }
}

#[derive(Clone, Debug)]
pub enum Stmt {
    /// `for var in 0..extent`.
    For {
        var: Var,
        extent: u32,
        body: Vec<Stmt>,
    },
    /// `dst[l] = value(l)` for `l` in `0..lanes` (1, 4, 8 or 16). The destination may be
    /// a `Load` of the value at exactly the same address, else it does not overlap what
    /// is loaded.
    Map { lanes: u32, dst: Addr, value: Expr },
    /// Runs a leaf with arguments as listed by [`Leaf::params`]. What it writes does not
    /// overlap its other arguments, or is the same where the leaf works in place.
    Call { leaf: Leaf, args: Vec<Arg> },
    /// Runs a routine on dense pieces of buffers. None that it writes overlaps another.
    Routine(Box<RoutineCall>),
}

#[derive(Clone, Debug)]
pub struct RoutineCall {
    pub routine: Routine,
    /// First element and length of each operand that is read: bottoms, parameters.
    pub reads: Vec<(Addr, usize)>,
    /// Of each that is written in full: tops, state (which is read, too).
    pub writes: Vec<(Addr, usize)>,
    pub sizes: Vec<usize>,
    pub values: Vec<f32>,
}

impl RoutineCall {
    /// All operands: what is read, then what is written.
    pub fn operands(&self) -> impl Iterator<Item = &(Addr, usize)> {
        self.reads.iter().chain(&self.writes)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// For `Src` and `Dst` parameters.
    Addr(Addr),
    /// For `Src` and `Dst` parameters that may be absent, and for `Ahead`.
    Null,
    /// For `Ahead` parameters.
    Ahead(Addr),
    Table(TableId),
    Len(usize),
    F32(f32),
}

/// An element of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addr {
    pub buffer: BufferId,
    pub offset: Affine,
}

/// `base + Σ coefficient · variable`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Affine {
    pub base: i64,
    /// Each variable at most once, coefficients not zero.
    pub terms: Vec<(Var, i64)>,
}

impl Affine {
    pub fn constant(base: i64) -> Self {
        Affine {
            base,
            terms: Vec::new(),
        }
    }

    /// `self + coefficient · var`.
    #[must_use]
    pub fn plus(mut self, var: Var, coefficient: i64) -> Self {
        match self.terms.iter().position(|&(v, _)| v == var) {
            Some(i) => {
                self.terms[i].1 += coefficient;
                if self.terms[i].1 == 0 {
                    self.terms.remove(i);
                }
            }
            None if coefficient != 0 => self.terms.push((var, coefficient)),
            None => {}
        }
        self
    }

    /// `self + constant`.
    #[must_use]
    pub fn offset(mut self, constant: i64) -> Self {
        self.base += constant;
        self
    }
}

/// A value for each lane. All f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `buffer[offset + lane]`.
    Load(Addr),
    /// `buffer[offset]`, the same for all lanes.
    Splat(Addr),
    Const(f32),
    Unary(UnaryOp, Box<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a · b + c`, rounded once (on `Portable` twice).
    Fma(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `if a < b { x } else { y }`, lane by lane.
    Less {
        a: Box<Expr>,
        b: Box<Expr>,
        x: Box<Expr>,
        y: Box<Expr>,
    },
    /// `init`, then for each point of the window, the last variable fastest:
    /// `acc = op(acc, value)`. The variables are visible in `value` only.
    Reduce {
        op: BinaryOp,
        init: f32,
        window: Vec<(Var, u32)>,
        value: Box<Expr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    Neg,
    Abs,
    /// Correctly rounded.
    Sqrt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Correctly rounded.
    Div,
    Max,
    Min,
}

impl Expr {
    /// Direct operands, in order; of a `Reduce`, its value.
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Load(_) | Expr::Splat(_) | Expr::Const(_) => vec![],
            Expr::Unary(_, a) => vec![a],
            Expr::Binary(_, a, b) => vec![a, b],
            Expr::Fma(a, b, c) => vec![a, b, c],
            Expr::Less { a, b, x, y } => vec![a, b, x, y],
            Expr::Reduce { value, .. } => vec![value],
        }
    }

    /// Calls `f` on this expression and all below it.
    pub fn visit<'a>(&'a self, f: &mut impl FnMut(&'a Expr)) {
        f(self);
        for operand in self.operands() {
            operand.visit(f);
        }
    }
}

impl Stmt {
    /// Calls `f` on this statement and all inside it.
    pub fn visit<'a>(&'a self, f: &mut impl FnMut(&'a Stmt)) {
        f(self);
        if let Stmt::For { body, .. } = self {
            for stmt in body {
                stmt.visit(f);
            }
        }
    }

    /// Calls `touch` for the addresses of this statement itself, not of those inside it.
    pub fn addresses(&self, touch: &mut impl FnMut(&Addr)) {
        match self {
            Stmt::For { .. } => {}
            Stmt::Map { dst, value, .. } => {
                touch(dst);
                value.visit(&mut |expr| {
                    if let Expr::Load(addr) | Expr::Splat(addr) = expr {
                        touch(addr);
                    }
                });
            }
            Stmt::Routine(call) => call.operands().for_each(|(addr, _)| touch(addr)),
            Stmt::Call { args, .. } => args.iter().for_each(|arg| {
                if let Arg::Addr(addr) = arg {
                    touch(addr);
                }
            }),
        }
    }

    /// Calls `f` on the addresses of this statement and all inside it.
    pub fn visit_addresses_mut(&mut self, f: &mut impl FnMut(&mut Addr)) {
        match self {
            Stmt::For { body, .. } => body.iter_mut().for_each(|s| s.visit_addresses_mut(f)),
            Stmt::Map { dst, value, .. } => {
                f(dst);
                value.visit_addresses_mut(f);
            }
            Stmt::Routine(call) => {
                let operands = call.reads.iter_mut().chain(&mut call.writes);
                operands.for_each(|(addr, _)| f(addr));
            }
            Stmt::Call { args, .. } => args.iter_mut().for_each(|arg| {
                if let Arg::Addr(addr) | Arg::Ahead(addr) = arg {
                    f(addr);
                }
            }),
        }
    }
}

impl Expr {
    /// Calls `f` on the addresses of this expression and all below it.
    fn visit_addresses_mut(&mut self, f: &mut impl FnMut(&mut Addr)) {
        match self {
            Expr::Load(addr) | Expr::Splat(addr) => f(addr),
            Expr::Const(_) => {}
            Expr::Unary(_, a) | Expr::Reduce { value: a, .. } => a.visit_addresses_mut(f),
            Expr::Binary(_, a, b) => [a, b].into_iter().for_each(|e| e.visit_addresses_mut(f)),
            Expr::Fma(a, b, c) => [a, b, c].into_iter().for_each(|e| e.visit_addresses_mut(f)),
            Expr::Less { a, b, x, y } => {
                [a, b, x, y]
                    .into_iter()
                    .for_each(|e| e.visit_addresses_mut(f));
            }
        }
    }
}

impl Program {
    /// Bytes of packed weights that a step reads, each counted once.
    pub fn weight_bytes(&self, step: &Step) -> u64 {
        let mut read = BTreeSet::new();
        for stmt in step.regions.iter().flat_map(|region| &region.body) {
            stmt.visit(&mut |stmt| {
                stmt.addresses(&mut |addr| {
                    read.insert(addr.buffer);
                });
            });
        }
        let buffers = read.iter().map(|id| &self.buffers[id.0 as usize]);
        let weights = buffers.filter(|buffer| matches!(buffer.place, Place::Weights(_)));
        weights.map(|buffer| 4 * buffer.len as u64).sum()
    }
}

impl UnaryOp {
    /// The operation on one lane.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            UnaryOp::Neg => -x,
            UnaryOp::Abs => x.abs(),
            UnaryOp::Sqrt => x.sqrt(),
        }
    }
}

impl BinaryOp {
    /// The operation on one lane.
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Max => {
                if a < b {
                    b
                } else {
                    a
                }
            }
            BinaryOp::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
        }
    }
}
