//! `caffec check`: whether a file is right.

use super::args::{CheckArgs, KindArg};
use super::{Outcome, model, talk};
use caffec::diag::Sources;
use caffec::frontend::{canonical_text, upgraded_text};
use caffec::ir;

pub fn run(args: &CheckArgs, sources: &mut Sources) -> Outcome {
    let kind = args.kind.map(Into::into);
    if args.syntax {
        let (name, bytes) = model::read_file(&args.file)?;
        canonical_text(&name, bytes, sources, kind)?;
    } else if let Some(KindArg::Solver) = args.kind {
        let (name, bytes) = model::read_file(&args.file)?;
        let (_, notes) = upgraded_text(&name, bytes, sources, kind)?;
        talk::notes(sources, &notes);
    } else {
        let loaded = model::load_state(&args.file, &args.state, sources)?;
        let wishes = ir::Options {
            phase: args.state.phase.into(),
            shapes: args.shapes.iter().cloned().collect(),
            ..ir::Options::default()
        };
        loaded.graph(&wishes, sources)?;
    }
    talk::say(&format!("{}: right", args.file.display()));
    Ok(())
}
