//! `caffec dump`: the net at a stage of the compiler.

use super::args::{DumpArgs, Stage};
use super::{Failure, Outcome, compile, model, talk};
use caffec::backend::jit;
use caffec::backend::rust::Weights;
use caffec::diag::Sources;
use caffec::frontend::read_unchanged;
use caffec::leaf::Isa;
use caffec::plan;
use std::io::{self, Write};

pub fn run(args: &DumpArgs, sources: &mut Sources) -> Outcome {
    if args.kind.is_some() && args.at != Stage::Proto {
        return Err(Failure::Usage("--as is for --at proto".into()));
    }
    let text = match args.at {
        Stage::Proto => {
            let (name, bytes) = model::read_file(&args.net.net)?;
            let kind = args.kind.map(Into::into);
            let reading = (&args.net.state.reading).into();
            let read = read_unchanged(&name, bytes, sources, kind, reading)?;
            talk::notes(sources, &read.notes);
            read.text()
        }
        _ => compiled(args, sources)?,
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn compiled(args: &DumpArgs, sources: &mut Sources) -> Result<String, Failure> {
    let loaded = model::load(&args.net, sources)?;
    let mut graph = compile::graph(&loaded, &args.net, &args.plan, sources)?;
    if args.at == Stage::Ir {
        return Ok(graph.dump());
    }
    let origin = compile::weights_origin(&args.weights, &args.net, &mut graph)?;
    if args.at == Stage::Rust {
        let plans = compile::plan_all(&graph, &args.plan)?;
        return Ok(compile::source(
            &loaded,
            &plans,
            &origin,
            Weights::File,
            false,
        ));
    }
    let isa = args.plan.isa.named().unwrap_or_else(Isa::detect);
    let options = compile::options(&args.plan, isa, &graph)?;
    let plan = plan(graph, &options)?;
    Ok(match args.at {
        Stage::Fused => plan.graph.dump(),
        Stage::Kernel => plan.program.dump(),
        Stage::Clif => jit::clif(&plan.program)?,
        Stage::Proto | Stage::Ir | Stage::Rust => unreachable!("answered above"),
    })
}
