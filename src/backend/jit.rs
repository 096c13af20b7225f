//! Machine code of a program in this process's memory.
//!
//! Memory is writable while code is put there and executable afterwards, never both;
//! it is given back when [`Compiled`] is dropped.

use std::collections::HashMap;
use std::sync::Mutex;

use cranelift_codegen::ir::{AbiParam, Signature, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, ir};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{DataId, FuncId, Linkage, Module, ModuleError, default_libcall_names};

use super::cranelift::define_step;
use crate::diag::{Diagnostic, Errors, Kind, Result};
use crate::kernel::{Checked, Program, Stmt, TableId};
use crate::leaf::{Isa, Leaf, Param};

/// Runs tasks `begin..end` of a step, counted through its regions. The first argument
/// points to the base pointers: arena, weights, scratch, inputs, outputs.
pub type StepFn = unsafe extern "C" fn(bases: *const *mut f32, begin: u64, end: u64);

/// The machine code of a program, one function for each step.
pub struct Compiled {
    steps: Vec<StepFn>,
    /// What the code reads tables from.
    _tables: Vec<Vec<i32>>,
    /// Holds the code until it is dropped; taken then.
    module: Mutex<Option<JITModule>>,
}

impl Compiled {
    pub fn step(&self, index: usize) -> StepFn {
        self.steps[index]
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let module = self.module.get_mut().ok().and_then(Option::take);
        if let Some(module) = module {
            // SAFETY: the functions are only reachable through `self`.
            unsafe { module.free_memory() };
        }
    }
}

/// Makes machine code of all steps. Errors: the system refuses memory for code.
pub fn compile(program: &Checked) -> Result<Compiled> {
    let tables = program.tables.clone();
    let mut unit = Unit::new(program, &tables)?;
    match unit.define_all(program) {
        Ok(steps) => Ok(Compiled {
            steps,
            _tables: tables,
            module: Mutex::new(Some(unit.module)),
        }),
        Err(error) => {
            // SAFETY: no pointer to the code was given away.
            unsafe { unit.module.free_memory() };
            Err(refused(&error))
        }
    }
}

/// The program in Cranelift's text form, before it is compiled.
pub fn clif(program: &Checked) -> Result<String> {
    let mut unit = Unit::new(program, &program.tables)?;
    let mut text = String::new();
    for (i, step) in program.steps.iter().enumerate() {
        let func = unit.build(program, i);
        let layers: Vec<_> = step.layers.iter().map(|l| crate::diag::clean(l)).collect();
        text += &format!("; step {i}: {}\n{}\n", layers.join(", "), func.display());
    }
    Ok(text)
}

/// What Cranelift's modules fail with; large, so boxed.
type Failure = Box<ModuleError>;

fn refused(error: &ModuleError) -> Errors {
    let message = format!("cannot make machine code: {error}");
    Diagnostic::new(Kind::Io, message)
        .help("emit Rust source instead")
        .into()
}

/// A module under construction and what its functions import.
struct Unit {
    module: JITModule,
    imports: Imports,
    scratch: FunctionBuilderContext,
}

/// Declared symbols outside of the code: leaves and tables.
#[derive(Default)]
pub(super) struct Imports {
    pub leaves: HashMap<Leaf, FuncId>,
    pub tables: HashMap<TableId, DataId>,
}

impl Unit {
    fn new(program: &Program, tables: &[Vec<i32>]) -> Result<Unit> {
        let isa = target(program.isa)?;
        let mut builder = JITBuilder::with_isa(isa, default_libcall_names());
        for leaf in leaves(program) {
            let function = leaf
                .function(program.isa)
                .expect("a checked program calls leaves that exist");
            builder.symbol(leaf.name(program.isa), function.cast());
        }
        for (i, table) in tables.iter().enumerate() {
            builder.symbol(table_name(i), table.as_ptr().cast());
        }
        let mut unit = Unit {
            module: JITModule::new(builder),
            imports: Imports::default(),
            scratch: FunctionBuilderContext::new(),
        };
        unit.declare(program).map_err(|e| refused(&e))?;
        Ok(unit)
    }

    fn declare(&mut self, program: &Program) -> Result<(), Failure> {
        for leaf in leaves(program) {
            let signature = leaf_signature(&self.module, leaf);
            let name = leaf.name(program.isa);
            let id = self
                .module
                .declare_function(&name, Linkage::Import, &signature)?;
            self.imports.leaves.insert(leaf, id);
        }
        for i in 0..program.tables.len() {
            let id = self
                .module
                .declare_data(&table_name(i), Linkage::Import, false, false)?;
            self.imports.tables.insert(TableId(i as u32), id);
        }
        Ok(())
    }

    /// Cranelift's IR of one step.
    fn build(&mut self, program: &Program, step: usize) -> ir::Function {
        let mut func = ir::Function::new();
        func.signature = step_signature(&self.module);
        define_step(
            program,
            &program.steps[step],
            &mut self.module,
            &self.imports,
            &mut func,
            &mut self.scratch,
        );
        func
    }

    fn define_all(&mut self, program: &Program) -> Result<Vec<StepFn>, Failure> {
        let signature = step_signature(&self.module);
        let mut ids = Vec::with_capacity(program.steps.len());
        let mut context = Context::new();
        for step in 0..program.steps.len() {
            let id =
                self.module
                    .declare_function(&format!("step{step}"), Linkage::Local, &signature)?;
            context.func = self.build(program, step);
            self.module.define_function(id, &mut context)?;
            self.module.clear_context(&mut context);
            ids.push(id);
        }
        self.module.finalize_definitions()?;
        let function = |id| {
            let code = self.module.get_finalized_function(id);
            // SAFETY: `define_step` gave the function this signature, in the calling
            // convention of `extern "C"` on this machine.
            unsafe { std::mem::transmute::<*const u8, StepFn>(code) }
        };
        Ok(ids.into_iter().map(function).collect())
    }
}

/// Leaves in the order of their first call.
fn leaves(program: &Program) -> Vec<Leaf> {
    let mut found = Vec::new();
    let bodies = program.steps.iter().flat_map(|s| &s.regions);
    for stmt in bodies.flat_map(|r| &r.body) {
        stmt.visit(&mut |stmt| {
            if let Stmt::Call { leaf, .. } = stmt
                && !found.contains(leaf)
            {
                found.push(*leaf);
            }
        });
    }
    found
}

fn table_name(index: usize) -> String {
    format!("table{index}")
}

fn step_signature(module: &JITModule) -> Signature {
    let mut signature = module.make_signature();
    signature.params = vec![AbiParam::new(types::I64); 3];
    signature
}

fn leaf_signature(module: &JITModule, leaf: Leaf) -> Signature {
    let mut signature = module.make_signature();
    let param = |&(_, param): &(&str, Param)| match param {
        Param::Src | Param::Dst | Param::Table | Param::Len => AbiParam::new(types::I64),
        Param::F32 => AbiParam::new(types::F32),
    };
    signature.params = leaf.params().iter().map(param).collect();
    signature
}

/// This machine, with no more of its instructions than the program's ISA has.
fn target(isa: Isa) -> Result<OwnedTargetIsa> {
    let unsupported = |why: &str| Diagnostic::unsupported(format!("machine code here: {why}"));
    let mut builder = cranelift_native::builder().map_err(unsupported)?;
    if isa == Isa::Portable && cfg!(target_arch = "x86_64") {
        for feature in ["has_fma", "has_avx2", "has_avx"] {
            builder
                .set(feature, "false")
                .map_err(|e| unsupported(&e.to_string()))?;
        }
    }
    builder
        .finish(settings::Flags::new(
            flags().map_err(|e| unsupported(&e.to_string()))?,
        ))
        .map_err(|e| unsupported(&e.to_string()).into())
}

fn flags() -> std::result::Result<settings::Builder, settings::SetError> {
    let mut flags = settings::builder();
    // Addresses are folded and invariants hoisted here already; Cranelift's own
    // optimiser would take longer and place values worse.
    flags.set("opt_level", "none")?;
    flags.set("regalloc_algorithm", "backtracking")?;
    let verify = if cfg!(debug_assertions) {
        "true"
    } else {
        "false"
    };
    flags.set("enable_verifier", verify)?;
    // Nothing unwinds through steps: a panic in a leaf aborts.
    flags.set("unwind_info", "false")?;
    flags.set("use_colocated_libcalls", "false")?;
    flags.set("is_pic", "false")?;
    Ok(flags)
}
