//! `caffec dump`: the net at a stage of the compiler.

use super::args::{DumpArgs, Stage};
use super::compile::{base_name, plan_all, weights_origin};
use super::{Failure, Outcome, model};
use caffec::backend::jit;
use caffec::backend::rust::{Emit, Weights};
use caffec::diag::{Result, Sources};
use caffec::frontend::canonical_text;
use caffec::kernel::Checked;
use caffec::plan;
use caffec::runtime::exec::Engine;
use std::collections::BTreeSet;
use std::io::{self, Write};

pub fn run(args: &DumpArgs, sources: &mut Sources) -> Outcome {
    if args.kind.is_some() && args.at != Stage::Proto {
        return Err(Failure::Usage("--as is for --at proto".into()));
    }
    let text = match args.at {
        Stage::Proto => {
            let (name, bytes) = model::read_file(&args.net.net)?;
            canonical_text(&name, bytes, sources, args.kind.map(Into::into))?
        }
        _ => compiled(args, sources)?,
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn compiled(args: &DumpArgs, sources: &mut Sources) -> Result<String, Failure> {
    let loaded = model::load(&args.net, sources)?;
    let mut wishes = model::wishes(&args.net, args.batch, &args.blobs);
    wishes.fed = Some(BTreeSet::new());
    let mut graph = loaded.graph(&wishes, sources)?;
    if args.at == Stage::Ir {
        return Ok(graph.dump());
    }
    model::note_stand_ins(&args.weights);
    let origin = weights_origin(&args.weights, &mut graph)?;
    if args.at == Stage::Rust {
        let plans = plan_all(&graph, args.isa, args.no_fuse)?;
        let programs: Vec<&Checked> = plans.iter().map(|p| &p.program).collect();
        return Ok(Emit {
            programs: &programs,
            prototxt: &base_name(&loaded.name),
            prototxt_sha256: &loaded.sha256,
            weights_sha256: &origin,
            weights: Weights::File,
            main: false,
        }
        .source());
    }
    let isa = args.isa.named().unwrap_or_else(caffec::leaf::Isa::detect);
    let plan = plan(graph, &model::options(args.no_fuse, isa, Engine::Jit))?;
    Ok(match args.at {
        Stage::Fused => plan.graph.dump(),
        Stage::Kernel => plan.program.dump(),
        Stage::Clif => jit::clif(&plan.program)?,
        Stage::Proto | Stage::Ir | Stage::Rust => unreachable!("answered above"),
    })
}
