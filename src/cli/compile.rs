//! `caffec compile`: the net as one Rust source file, and its weights beside it.

use super::Outcome;
use super::args::{CompileArgs, NetArgs, PlanArgs, WeightArgs};
use super::model::{self, Model};
use super::talk::{self, Progress};
use super::tuning::tuned;
use caffec::backend::rust::{Emit, Weights, write_weights};
use caffec::diag::{Result, Sources};
use caffec::ir::Valid;
use caffec::kernel::Checked;
use caffec::leaf::Isa;
use caffec::runtime::exec::Engine;
use caffec::runtime::tensor_file::Staged;
use caffec::summary::human_bytes;
use caffec::{Options, Plan, plan};
use std::collections::BTreeSet;
use std::path::Path;

pub fn run(args: &CompileArgs, sources: &mut Sources) -> Outcome {
    let weights_path = args.output.with_extension("weights");
    if weights_path == args.output {
        let message = "-o: the Rust file cannot be called .weights, the weights go there";
        return Err(super::Failure::Usage(message.into()));
    }
    for output in [&args.output, &weights_path] {
        spare_inputs(args, output)?;
    }
    let loaded = model::load(&args.net, sources)?;
    let mut graph = graph(&loaded, &args.net, &args.plan, sources)?;
    let origin = weights_origin(&args.weights, &args.net, &mut graph)?;
    let plans = plan_all(&graph, &args.plan)?;
    let progress = Progress::new("packing weights");
    let block = plans[0].pack()?;
    let file_name = weights_path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    progress.now("writing");
    let weights = match args.embed {
        true => Weights::Embed(&file_name),
        false => Weights::File,
    };
    let source = source(&loaded, &plans, &origin, weights, args.main);
    let mut staged = Staged::default();
    staged.write(&args.output, |out| out.write_all(source.as_bytes()))?;
    if !is_file_or_new(&args.output) {
        drop(progress);
        talk::say("note: the output is not a file: no weights file is written beside it");
        return Ok(());
    }
    staged.write(&weights_path, |mut out| {
        write_weights(&mut out, &programs(&plans), &block)
    })?;
    staged.commit()?;
    drop(progress);
    talk::say(&format!(
        "wrote {} ({}) and {} ({})",
        args.output.display(),
        human_bytes(source.len() as u64),
        weights_path.display(),
        human_bytes(block.len() as u64 * 4)
    ));
    Ok(())
}

/// That nothing is written over what is read. Errors: wrong usage.
fn spare_inputs(args: &CompileArgs, output: &Path) -> super::Outcome {
    let file = output.canonicalize().ok().filter(|f| f.is_file());
    let inputs = args.weights.weights.iter().chain([&args.net.net]);
    for input in inputs {
        if file.is_some() && input.canonicalize().ok() == file {
            let message = format!("-o: this would write over the input {}", input.display());
            return Err(super::Failure::Usage(message));
        }
    }
    Ok(())
}

/// Not a pipe, `/dev/null` and the like, beside which nothing belongs.
fn is_file_or_new(path: &Path) -> bool {
    path.metadata().map_or(true, |m| m.is_file())
}

/// The graph of a net to which nothing is fed yet.
pub fn graph(loaded: &Model, net: &NetArgs, plan: &PlanArgs, sources: &Sources) -> Result<Valid> {
    let mut wishes = model::wishes(net, plan.batch, &plan.blobs);
    wishes.fed = Some(BTreeSet::new());
    loaded.graph(&wishes, sources)
}

/// Fills the weights in; tells the header what they were made of.
pub fn weights_origin(args: &WeightArgs, net: &NetArgs, graph: &mut Valid) -> Result<String> {
    model::note_stand_ins(args);
    let origin = model::fill_weights(args, net, graph)?;
    match args.weights.is_empty() {
        true => Ok(origin),
        false => model::sha256_of(&args.weights),
    }
}

/// The net for one instruction set, or for all if none is named.
pub fn plan_all(graph: &Valid, args: &PlanArgs) -> Result<Vec<Plan>> {
    let isas = match args.isa.named() {
        Some(isa) => vec![isa],
        None => Isa::ALL.to_vec(),
    };
    // All have the same weights block, so all do as the best that there is here.
    let options = options(args, args.isa.named().unwrap_or_else(Isa::detect), graph)?;
    let _progress = Progress::new("compiling");
    let one = |isa| {
        let options = Options {
            isa,
            ..options.clone()
        };
        plan(graph.clone(), &options)
    };
    isas.into_iter().map(one).collect()
}

/// What `args` say for one instruction set, with what was measured.
pub fn options(args: &PlanArgs, isa: Isa, graph: &Valid) -> Result<Options> {
    let options = model::options(args.no_fuse, args.conv.into(), isa, Engine::Jit);
    tuned(&args.tune, graph, options)
}

fn programs(plans: &[Plan]) -> Vec<&Checked> {
    plans.iter().map(|p| &p.program).collect()
}

/// The Rust source of a net.
pub fn source(
    loaded: &Model,
    plans: &[Plan],
    origin: &str,
    weights: Weights,
    main: bool,
) -> String {
    Emit {
        programs: &programs(plans),
        prototxt: &base_name(&loaded.name),
        prototxt_sha256: &loaded.sha256,
        weights_sha256: origin,
        weights,
        main,
    }
    .source()
}

/// The last part of a path, so that headers do not depend on folders.
fn base_name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
