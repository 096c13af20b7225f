//! `caffec upgrade`: a net or solver in Caffe's current format.

use super::args::UpgradeArgs;
use super::{Failure, Outcome, model, talk};
use caffec::diag::Sources;
use caffec::frontend::{FileKind, upgraded_binary, upgraded_text};
use caffec::runtime::tensor_file::Staged;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

pub fn run(args: &UpgradeArgs, sources: &mut Sources) -> Outcome {
    let (name, bytes) = model::read_file(&args.file)?;
    let kind = args.kind.map(Into::into);
    let reading = (&args.reading).into();
    let binary = args.output.as_ref().is_some_and(|path| is_binary(path));
    let (upgraded, notes) = match binary {
        true if kind == Some(FileKind::Solver) => {
            return Err(Failure::Usage("-o: solvers are written as text".into()));
        }
        true => upgraded_binary(&name, bytes, sources, reading)?,
        false => {
            let text = upgraded_text(&name, bytes, sources, kind, reading);
            text.map(|(text, notes)| (text.into_bytes(), notes))?
        }
    };
    talk::notes(sources, &notes);
    match &args.output {
        Some(path) => {
            let mut staged = Staged::default();
            staged.write(path, |out| out.write_all(&upgraded))?;
            Ok(staged.commit()?)
        }
        None => {
            let mut out = io::stdout().lock();
            out.write_all(&upgraded)?;
            Ok(out.flush()?)
        }
    }
}

/// Whether a file of this name is binary.
fn is_binary(path: &Path) -> bool {
    let binary = |e: &OsStr| e == "caffemodel" || e == "binaryproto";
    path.extension().is_some_and(binary)
}
