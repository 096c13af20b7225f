//! Runs a checked program: an [`Executable`] is what a net is compiled to, a
//! [`Context`] is the memory and the threads for one forward pass at a time.
//!
//! An `Executable` is never changed by running, so one serves any number of threads,
//! each with a context of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::arena::Block;
use super::block;
use super::pool::{Pool, Ranges, divide};
use crate::backend::jit::{self, Compiled};
use crate::diag::{Diagnostic, Errors, Result};
use crate::kernel::interp::{self, UNWRITTEN};
use crate::kernel::{Checked, Place, Port};

/// How a program's steps are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Machine code made by Cranelift.
    Jit,
    /// The slow meaning of the IR. Memory that nothing has written reads as NaN.
    Interpreter,
}

enum Code {
    Jit(Box<Compiled>),
    Interpreter,
}

/// A program ready to run, with its weights.
pub struct Executable {
    program: Checked,
    weights: Block,
    code: Code,
    id: u64,
}

impl Executable {
    /// Compiles `program`. `weights` is what its weight buffers refer to.
    ///
    /// Errors: the CPU lacks the program's ISA; the system refuses memory for code.
    ///
    /// # Panics
    /// If `weights` has not the length that the program states.
    pub fn new(program: Checked, weights: Block, engine: Engine) -> Result<Executable> {
        assert_eq!(weights.len(), program.weights_len, "packed weights");
        if !program.isa.available() {
            let message = format!("this CPU cannot run code for {}", program.isa);
            return Err(Diagnostic::unsupported(message).into());
        }
        let code = match engine {
            Engine::Jit => Code::Jit(Box::new(jit::compile(&program)?)),
            Engine::Interpreter => Code::Interpreter,
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Executable {
            program,
            weights,
            code,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    pub fn program(&self) -> &Checked {
        &self.program
    }

    /// Memory and `threads` threads for one forward pass at a time. Errors: the system
    /// refuses the memory.
    pub fn context(&self, threads: usize) -> Result<Context> {
        let pool = Pool::new(threads.max(1));
        let threads = pool.threads();
        let scratch = (0..threads).map(|_| block(self.program.scratch_len));
        let splits = self.program.steps.iter().map(|step| {
            let regions: Vec<_> = step
                .regions
                .iter()
                .map(|r| (r.task_count(), r.cost))
                .collect();
            Split::new(divide(&regions, threads))
        });
        Ok(Context {
            executable: self.id,
            arena: block(self.program.arena_len)?,
            scratch: scratch.collect::<Result<_>>()?,
            splits: splits.collect(),
            bases: vec![Bases(Vec::new()); threads],
            pool,
        })
    }

    /// One forward pass. Inputs and outputs are plain row-major f32, in the order of
    /// the program's ports; outputs are fully written.
    ///
    /// Errors: number or length of inputs or outputs is wrong; `context` was made by
    /// another executable: nothing is run then. A layer finds that values of its bottoms
    /// make no sense, such as a number of an image that does not exist.
    pub fn run(
        &self,
        context: &mut Context,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) -> Result<()> {
        self.run_steps(context, inputs, outputs, || {})
    }

    /// As [`Executable::run`]; tells how long each step took.
    pub fn run_timed(
        &self,
        context: &mut Context,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.program.steps.len());
        let mut last = Instant::now();
        self.run_steps(context, inputs, outputs, || {
            let now = Instant::now();
            times.push(now - last);
            last = now;
        })?;
        Ok(times)
    }

    fn run_steps(
        &self,
        context: &mut Context,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
        mut after_step: impl FnMut(),
    ) -> Result<()> {
        self.admit(context, inputs, outputs)?;
        context.set_bases(&self.weights, inputs, outputs);
        if let Code::Interpreter = self.code {
            outputs.iter_mut().for_each(|o| o.fill(UNWRITTEN));
            // The fill went through the slices: pointers are taken anew.
            context.set_bases(&self.weights, inputs, outputs);
        }
        let Context {
            bases,
            pool,
            splits,
            ..
        } = context;
        for (step, split) in splits.iter().enumerate() {
            self.forget_dead(step, &bases[0]);
            match split {
                Split::Caller(ranges) => self.run_tasks(step, &bases[0], ranges),
                Split::All(ranges) => pool.run(&|t| self.run_tasks(step, &bases[t], &ranges[t])),
            }
            after_step();
        }
        self.look_for_faults(&bases[0])
    }

    /// Errors: `Invalid`, if a layer found values that make no sense.
    fn look_for_faults(&self, bases: &Bases) -> Result<()> {
        let mut faults = Vec::new();
        for fault in &self.program.faults {
            let (_, at) = self.program.buffers[fault.buffer.0 as usize]
                .place
                .resolve();
            // SAFETY: the checker found the buffer in the arena, which no thread uses now.
            let number = unsafe { *bases.0[0].add(at) };
            if let Some(message) = fault.messages.get((number as usize).wrapping_sub(1)) {
                faults.push(Diagnostic::invalid(*message).layer(&fault.layer));
            }
        }
        Errors::none_or(faults, ())
    }

    fn admit(&self, context: &Context, inputs: &[&[f32]], outputs: &[&mut [f32]]) -> Result<()> {
        if context.executable != self.id {
            return Err(Diagnostic::invalid("this context belongs to another executable").into());
        }
        let inputs = inputs.iter().map(|s| s.len());
        lengths_match("input", &self.program.inputs, inputs)?;
        let outputs = outputs.iter().map(|s| s.len());
        lengths_match("output", &self.program.outputs, outputs)
    }

    fn run_tasks(&self, step: usize, bases: &Bases, ranges: &Ranges) {
        let bases = bases.0.as_ptr();
        for &(begin, end) in ranges {
            // SAFETY: `bases` points to memory of the lengths that the program states:
            // ports by `admit`, weights by `new`, arena and scratch by `context`. The
            // program is checked, so that code stays inside these; tasks of a step are
            // independent, each thread has its own ranges of them and its own scratch, and
            // steps are separated by the end of `pool.run`.
            unsafe {
                match &self.code {
                    Code::Jit(compiled) => (compiled.step(step))(bases, begin, end),
                    Code::Interpreter => interp::run(&self.program, step, bases, begin, end),
                }
            }
        }
    }

    /// For the interpreter: makes buffers unwritten whose life begins with `step`.
    fn forget_dead(&self, step: usize, bases: &Bases) {
        let Code::Interpreter = self.code else { return };
        for (buffer, live) in self.program.buffers_with_life() {
            if let (Place::Arena(at), Some(live)) = (buffer.place, live)
                && live.first == step
            {
                for i in at..at + buffer.len {
                    // SAFETY: the buffer lies in the arena, which no thread uses now.
                    unsafe { bases.0[0].add(i).write(UNWRITTEN) };
                }
            }
        }
    }
}

fn lengths_match(
    kind: &str,
    ports: &[Port],
    lengths: impl ExactSizeIterator<Item = usize>,
) -> Result<()> {
    if ports.len() != lengths.len() {
        let (n, m) = (ports.len(), lengths.len());
        let message = format!("the net has {n} {kind}s, but {m} are given");
        return Err(Diagnostic::invalid(message).into());
    }
    for (port, len) in ports.iter().zip(lengths) {
        if port.len() != len {
            let message = format!(
                "{kind} `{}` of shape {:?} has {} elements, but {len} are given",
                port.name,
                port.shape,
                port.len()
            );
            return Err(Diagnostic::invalid(message).into());
        }
    }
    Ok(())
}

/// Memory and threads of one forward pass at a time, for one [`Executable`].
pub struct Context {
    /// The id of the executable that it was made for.
    executable: u64,
    arena: Block,
    /// One for each thread.
    scratch: Vec<Block>,
    splits: Vec<Split>,
    bases: Vec<Bases>,
    pool: Pool,
}

/// Which thread runs which tasks of a step.
enum Split {
    /// The calling thread runs all.
    Caller(Ranges),
    All(Vec<Ranges>),
}

impl Split {
    fn new(mut ranges: Vec<Ranges>) -> Split {
        if ranges[1..].iter().all(Vec::is_empty) {
            Split::Caller(ranges.swap_remove(0))
        } else {
            Split::All(ranges)
        }
    }
}

/// The base pointers that a step's code gets: arena, weights, scratch, inputs, outputs.
#[derive(Clone)]
struct Bases(Vec<*mut f32>);

// SAFETY: the pointers are only used inside `run_steps`, which borrows all that they
// point to, and there as its `run_tasks` argues.
unsafe impl Send for Bases {}
unsafe impl Sync for Bases {}

impl Context {
    /// Number of threads, the caller of `run` included.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Points all base pointers to the memory of this run.
    fn set_bases(&mut self, weights: &Block, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
        let arena = self.arena.as_mut_ptr();
        for (Bases(bases), scratch) in self.bases.iter_mut().zip(&mut self.scratch) {
            bases.clear();
            bases.extend([arena, weights.as_ptr().cast_mut(), scratch.as_mut_ptr()]);
            // Programs do not write to inputs or weights: the checker saw to that.
            bases.extend(inputs.iter().map(|s| s.as_ptr().cast_mut()));
        }
        for output in outputs {
            let output = output.as_mut_ptr();
            self.bases.iter_mut().for_each(|b| b.0.push(output));
        }
    }
}

#[cfg(test)]
mod tests;
