//! caffec: the compiler for legacy Caffe models.
//!
//! The listing of this folder is the pipeline:
//!
//! | room | takes | gives |
//! |---|---|---|
//! | [`frontend`] | prototxt and caffemodel files of any age | V2 messages with the places of every field; blobs, still in their file |
//! | [`ir`] | the net's messages | a [`ir::Valid`] graph: every blob written once, every shape known |
//! | [`layers`] | | one file for each layer type: parameters, shapes, meaning, lowering |
//! | [`weights`] | a graph, weights files, fillers or a seed | the same graph with data in every parameter |
//! | [`passes`] | a graph | a smaller graph of the same meaning |
//! | [`lower`] | a graph | a [`kernel::Program`] for one ISA, and what its weights block holds |
//! | [`kernel`] | a program | a [`kernel::Checked`] program, the only kind that runs |
//! | [`leaf`] | | micro-kernels that programs call, as Rust source |
//! | [`backend`] | a checked program | machine code, or one Rust source file |
//! | [`runtime`] | machine code, weights | an [`runtime::exec::Executable`] that runs; also files of tensors and pictures |
//! | [`tune`] | a graph | the fastest ways to compute its convolutions, by measuring |
//! | [`summary`] | a graph | its figures |
//! | `cli` (of the program) | arguments | an exit code; the only printing |
//!
//! Invariants: only `frontend` knows protobuf's formats; `backend` sees `kernel` and
//! `leaf`, never `ir` or `layers`; leaves, memory blocks and the thread pool use nothing
//! but `std`; files are read and written by `frontend` (caffemodels, what nets name),
//! `runtime` (tensors) and the command line, and by nothing in between; only the command
//! line prints. How the rooms work together is told in `docs/DESIGN.md`.

pub mod backend;
pub mod diag;
pub mod frontend;
pub mod ir;
pub mod kernel;
pub mod layers;
pub mod leaf;
pub mod lower;
pub mod passes;
pub mod runtime;
pub mod summary;
pub mod tune;
pub mod weights;

use diag::{Diagnostic, Result};
use ir::Valid;
use kernel::Checked;
use leaf::Isa;
use lower::{Chains, Convolutions, Pack, Tuning};
use passes::Fuse;
use runtime::arena::Block;
use runtime::exec::{Engine, Executable};
use std::sync::Arc;

/// What a compilation may choose.
#[derive(Clone, Debug)]
pub struct Options {
    pub isa: Isa,
    pub fuse: Fuse,
    /// Which of the chains that [`Fuse::All`] finds become one loop nest.
    pub chains: Chains,
    /// How convolutions are computed for which there are several ways.
    pub convolutions: Convolutions,
    /// What [`tune::tune`] has found.
    pub tuning: Arc<Tuning>,
    pub engine: Engine,
}

impl Default for Options {
    /// The best that this CPU can do.
    fn default() -> Self {
        Options {
            isa: Isa::detect(),
            fuse: Fuse::All,
            chains: Chains::WhereItPays,
            convolutions: Convolutions::WhereItPays,
            tuning: Arc::default(),
            engine: Engine::Jit,
        }
    }
}

impl Options {
    /// What lowering may choose.
    pub fn lowering(&self) -> lower::Options {
        lower::Options {
            isa: self.isa,
            chains: self.chains,
            convolutions: self.convolutions,
            tuning: self.tuning.clone(),
        }
    }
}

/// A net lowered for one ISA, before its weights are packed.
#[derive(Debug)]
pub struct Plan {
    /// The graph after the passes, which the packs refer to.
    pub graph: Valid,
    pub program: Checked,
    pub packs: Vec<Pack>,
    /// How each of the graph's chains was cut, and why.
    pub chains: Vec<String>,
}

/// From a valid graph, whose parameters have data, to a program that can run or be
/// printed.
///
/// Errors: `Unsupported`, naming every layer that has no lowering; `Bug`, if the
/// checker finds the program wrong.
pub fn plan(graph: Valid, options: &Options) -> Result<Plan> {
    let graph = passes::run(graph, options.fuse);
    let lowered = lower::lower(&graph, &options.lowering())?;
    let wrong = |bug| Diagnostic::bug(format!("the kernel program is wrong: {bug}"));
    Ok(Plan {
        program: lowered.program.check().map_err(wrong)?,
        graph,
        packs: lowered.packs,
        chains: lowered.chains,
    })
}

impl Plan {
    /// The weights block, packed on all cores.
    ///
    /// Errors: the system refuses the memory.
    pub fn pack(&self) -> Result<Block> {
        let mut block = runtime::block(self.program.weights_len)?;
        lower::pack(&self.graph, &self.packs, &mut block);
        Ok(block)
    }
}

/// From a valid graph, whose parameters have data, to something that runs.
///
/// Errors: those of [`plan`]; the system refuses memory.
pub fn compile(graph: Valid, options: &Options) -> Result<Executable> {
    let plan = plan(graph, options)?;
    let weights = plan.pack()?;
    Executable::new(plan.program, weights, options.engine)
}
