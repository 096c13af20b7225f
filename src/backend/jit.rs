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
use crate::kernel::{Checked, Program, RoutineCall, Stmt, TableId};
use crate::leaf::{Isa, Leaf, Param};

/// Runs tasks `begin..end` of a step, counted through its regions. The first argument
/// points to the base pointers: arena, weights, scratch, inputs, outputs.
pub type StepFn = unsafe extern "C" fn(bases: *const *mut f32, begin: u64, end: u64);

/// The machine code of a program, one function for each step.
pub struct Compiled {
    steps: Vec<StepFn>,
    /// What the code refers to.
    _data: Data,
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
    let data = Data::of(program);
    let mut unit = Unit::new(program, &data)?;
    match unit.define_all(program) {
        Ok(steps) => Ok(Compiled {
            steps,
            _data: data,
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
    let data = Data::of(program);
    let mut unit = Unit::new(program, &data)?;
    let mut text = String::new();
    for (i, step) in program.steps.iter().enumerate() {
        let func = unit.build(program, i);
        let layers: Vec<_> = step.layers.iter().map(|l| crate::diag::clean(l)).collect();
        text += &format!("; step {i}: {}\n{}\n", layers.join(", "), func.display());
    }
    Ok(text)
}

/// Constants that machine code refers to by address.
struct Data {
    tables: Vec<Vec<i32>>,
    /// In the order of [`routines`].
    #[allow(clippy::vec_box)] // their addresses are in the code
    routines: Vec<Box<RoutineCall>>,
}

impl Data {
    fn of(program: &Program) -> Data {
        Data {
            tables: program.tables.clone(),
            routines: routines(program)
                .into_iter()
                .cloned()
                .map(Box::new)
                .collect(),
        }
    }
}

/// What machine code calls for a routine: the operands' addresses are in the order of
/// [`RoutineCall::operands`]. A panic ends the process.
///
/// # Safety
/// As [`Routine::call`](crate::leaf::routine::Routine::call).
pub(super) unsafe extern "C" fn run_routine(call: *const RoutineCall, pointers: *const *mut f32) {
    // SAFETY: the code passes a call of its `Data`, and as many addresses as it has
    // operands.
    let call = unsafe { &*call };
    let lens: Vec<usize> = call.operands().map(|(_, len)| *len).collect();
    let pointers = unsafe { std::slice::from_raw_parts(pointers, lens.len()) };
    // SAFETY: the caller vouches for it.
    unsafe {
        let reads = call.reads.len();
        call.routine
            .call(pointers, &lens, reads, &call.sizes, &call.values);
    }
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
    /// By the address of the call in the program that is compiled.
    pub routines: HashMap<*const RoutineCall, DataId>,
    pub run_routine: Option<FuncId>,
}

impl Unit {
    fn new(program: &Program, data: &Data) -> Result<Unit> {
        let isa = target(program.isa)?;
        let mut builder = JITBuilder::with_isa(isa, default_libcall_names());
        for leaf in leaves(program) {
            let function = leaf
                .function(program.isa)
                .expect("a checked program calls leaves that exist");
            builder.symbol(leaf.name(program.isa), function.cast());
        }
        for (i, table) in data.tables.iter().enumerate() {
            builder.symbol(table_name(i), table.as_ptr().cast());
        }
        for (i, call) in data.routines.iter().enumerate() {
            builder.symbol(routine_name(i), std::ptr::from_ref(&**call).cast());
        }
        builder.symbol(RUN_ROUTINE, (run_routine as *const ()).cast());
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
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(types::I64); 2];
        let run = self
            .module
            .declare_function(RUN_ROUTINE, Linkage::Import, &signature)?;
        self.imports.run_routine = Some(run);
        for (i, call) in routines(program).into_iter().enumerate() {
            let name = routine_name(i);
            let id = self
                .module
                .declare_data(&name, Linkage::Import, false, false)?;
            self.imports.routines.insert(std::ptr::from_ref(call), id);
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

/// Calls of routines in the order of the program.
fn routines(program: &Program) -> Vec<&RoutineCall> {
    let mut found = Vec::new();
    let bodies = program.steps.iter().flat_map(|s| &s.regions);
    for stmt in bodies.flat_map(|r| &r.body) {
        stmt.visit(&mut |stmt| {
            if let Stmt::Routine(call) = stmt {
                found.push(&**call);
            }
        });
    }
    found
}

const RUN_ROUTINE: &str = "run_routine";

fn routine_name(index: usize) -> String {
    format!("routine{index}")
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
        Param::Src | Param::Dst | Param::Ahead | Param::Table | Param::Len => {
            AbiParam::new(types::I64)
        }
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
