//! `caffec summary`: what the net is, in figures.

use super::args::SummaryArgs;
use super::model::{self, Model};
use super::{Failure, Outcome, talk};
use caffec::diag::{Errors, Result, Sources};
use caffec::ir;
use caffec::leaf::Isa;
use caffec::lower::Convolutions;
use caffec::plan;
use caffec::runtime::exec::Engine;
use caffec::summary::{Memory, Summary};
use caffec::weights::{self, Missing};
use std::io::{self, Write};

/// Shows shapes as far as they go, and then says why they go no further.
pub fn run(args: &SummaryArgs, sources: &mut Sources) -> Outcome {
    let loaded = model::load(&args.net, sources)?;
    let wishes = model::wishes(&args.net, args.batch, &[]);
    let built = loaded.build(&wishes);
    talk::notes(sources, &built.notes);
    let mut summary = Summary::new(&built);
    if built.errors.is_empty() {
        match planned(&loaded, &wishes) {
            Ok(memory) => summary.planned = Some(memory),
            Err(why) => talk::say(&format!("note: memory is not planned: {why}")),
        }
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", summary.json())?,
        false if summary.layers.is_empty() => {}
        false => out.write_all(summary.text().as_bytes())?,
    }
    out.flush()?;
    if built.errors.is_empty() {
        return Ok(());
    }
    talk::say(&sources.render_all(&Errors(built.errors.clone())));
    Err(Failure::Told)
}

/// Memory of the compiled net. Stand-ins serve as weights: their values are made only
/// where a pass reads them.
fn planned(model: &Model, wishes: &ir::Options) -> Result<[Memory; 2]> {
    let (mut graph, _) = model.build(wishes).valid()?;
    let random = Missing::Random(1);
    graph.edit("weights", |g| weights::load(g, &[], random))?;
    let memory = |graph, no_fuse| {
        let options = model::options(
            no_fuse,
            Convolutions::WhereItPays,
            Isa::detect(),
            Engine::Jit,
        );
        plan(graph, &options).map(|plan| Memory::of(&plan.program))
    };
    Ok([memory(graph.clone(), false)?, memory(graph, true)?])
}
