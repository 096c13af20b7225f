//! `caffec summary`: what the net is, in figures.

use super::args::SummaryArgs;
use super::{Failure, Outcome, model, talk};
use caffec::diag::{Errors, Sources};
use caffec::summary::Summary;
use std::io::{self, Write};

/// Shows shapes as far as they go, and then says why they go no further.
pub fn run(args: &SummaryArgs, sources: &mut Sources) -> Outcome {
    let loaded = model::load(&args.net, sources)?;
    let built = loaded.build(&model::wishes(&args.net, args.batch, &[]));
    talk::notes(sources, &built.notes);
    let summary = Summary::new(&built);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", summary.json())?,
        false => out.write_all(summary.text().as_bytes())?,
    }
    out.flush()?;
    if built.errors.is_empty() {
        return Ok(());
    }
    talk::say(&sources.render_all(&Errors(built.errors.clone())));
    Err(Failure::Told)
}
