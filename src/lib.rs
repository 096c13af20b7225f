//! caffec compiles legacy Caffe models: prototxt and caffemodel in, machine code or one
//! self-contained Rust source file out.
//!
//! # The map
//!
//! The listing is the pipeline; data flows downwards.
//!
//! | room | in → out |
//! |---|---|
//! | [`frontend`] | files of any Caffe format → a net in the current one, with the place of each field; weights files |
//! | [`ir`], [`layers`] | the net → [`ir::Valid`]: a graph with one definition for each blob, all shapes known. A layer type is one file of `layers` |
//! | [`passes`] | graph → graph: folds, epilogues, chains. Whether a fusion is legal |
//! | [`lower`] | graph → [`kernel::Program`]: tiles, layouts, memory. Whether a fusion pays |
//! | [`kernel`] | loops, fused expressions and leaf calls; the checker and the interpreter |
//! | [`leaf`] | the micro-kernels that a program calls, for each instruction set |
//! | [`backend`] | a checked program → machine code, or Rust source |
//! | [`runtime`] | memory, threads, running; files of tensors and pictures |
//! | [`summary`] | a graph's figures |
//! | `cli` (of the program) | arguments in, exit code out |
//!
//! # Invariants
//!
//! * What a user's file, picture or option can cause is a [`diag::Diagnostic`]; a panic
//!   is a bug of ours.
//! * Only `frontend` knows protobuf. Between it and `cli` nobody reads or writes files.
//! * A blob is written once; an in-place layer makes a new one of the same name.
//! * Being checked is a type: passes take [`ir::Valid`], back ends [`kernel::Checked`].
//! * `backend` sees `kernel` and `leaf`, never `ir` or `layers`. `leaf` and the thread
//!   pool use nothing but `core` and `std`: they are pasted into emitted source.
//! * Fused and unfused are two settings of one lowering, with the same leaves.
//!
//! Start reading at [`compile`].

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

use diag::{Diagnostic, Result};
use ir::Valid;
use kernel::Checked;
use leaf::Isa;
use lower::{Chains, Lowered, Pack};
use passes::Fuse;
use runtime::arena::Block;

/// What the compiler may choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub isa: Isa,
    pub fuse: Fuse,
    pub chains: Chains,
}

impl Options {
    /// Everything that helps.
    pub fn fused(isa: Isa) -> Options {
        Options {
            isa,
            fuse: Fuse::All,
            chains: Chains::WhereItPays,
        }
    }

    /// One layer at a time.
    pub fn unfused(isa: Isa) -> Options {
        Options {
            isa,
            fuse: Fuse::None,
            chains: Chains::Never,
        }
    }
}

/// A compiled net: what the back ends take.
pub struct Compiled {
    /// After the passes.
    pub graph: Valid,
    pub program: Checked,
    packs: Vec<Pack>,
}

/// Compiles a graph whose parameters have data.
///
/// Errors: `Unsupported` for what has no lowering, all of it at once.
pub fn compile(graph: Valid, options: &Options) -> Result<Compiled> {
    let graph = passes::run(graph, options.fuse);
    let target = lower::Options {
        isa: options.isa,
        chains: options.chains,
    };
    let Lowered { program, packs } = lower::lower(&graph, &target)?;
    let program = program.check().map_err(our_fault)?;
    Ok(Compiled {
        graph,
        program,
        packs,
    })
}

impl Compiled {
    /// The program's weights block: the parameters, packed. Errors: `Io` if the system
    /// refuses the memory.
    pub fn weights(&self) -> Result<Block> {
        let mut block = Block::zeroed(self.program.weights_len)?;
        lower::pack(&self.graph, &self.packs, &mut block);
        Ok(block)
    }
}

fn our_fault(bug: kernel::Bug) -> Diagnostic {
    Diagnostic::unsupported(format!("this net, because of a bug of caffec: {bug}"))
        .help("please report it with the prototxt")
}
