//! `caffec upgrade`: a net or solver in Caffe's current format.

use super::args::UpgradeArgs;
use super::{Outcome, model, talk};
use caffec::diag::Sources;
use caffec::frontend::upgraded_text;
use caffec::runtime::tensor_file::Staged;
use std::io::{self, Write};

pub fn run(args: &UpgradeArgs, sources: &mut Sources) -> Outcome {
    let (name, bytes) = model::read_file(&args.file)?;
    let (text, notes) = upgraded_text(&name, bytes, sources, args.kind.map(Into::into))?;
    talk::notes(sources, &notes);
    match &args.output {
        Some(path) => {
            let mut staged = Staged::default();
            staged.write(path, |out| out.write_all(text.as_bytes()))?;
            Ok(staged.commit()?)
        }
        None => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            Ok(out.flush()?)
        }
    }
}
