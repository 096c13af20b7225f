//! `caffec run`: one forward pass.

use super::args::RunArgs;
use super::model::{self, Machine};
use super::report::{self, Top};
use super::talk::{self, Progress};
use super::{Failure, Outcome, inputs};
use caffec::diag::{Diagnostic, Result, Sources, clean};
use caffec::ir::{Shape, Tensor};
use caffec::runtime::tensor_file::{Staged, blob_file_name};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub fn run(args: &RunArgs, sources: &mut Sources) -> Outcome {
    let isa = model::isa(args.engine.isa)?;
    let top = top(args)?;
    let loaded = model::load(&args.net, sources)?;
    let wishes = model::wishes(&args.net, args.batch, &args.blobs);
    let (mut graph, inputs) = inputs::feed(&args.inputs, &loaded, wishes, sources)?;
    let outputs = model::outputs(&graph);
    let files = match &args.output_dir {
        Some(folder) => Some(files(folder, &outputs)?),
        None => None,
    };
    model::note_stand_ins(&args.weights);
    model::fill_weights(&args.weights, &args.net, &mut graph)?;
    let threads = args.threads.unwrap_or_else(all_threads);
    let (mut tensors, shown) = (model::output_tensors(&graph)?, graph.shown());
    let mut machine = Machine::new(graph, &args.engine, isa, threads)?;
    let progress = Progress::new("running");
    machine.run(&inputs, &mut tensors)?;
    let tensors = shown.of(&tensors);
    drop(progress);
    if let (Some(files), Some(folder)) = (&files, &args.output_dir) {
        write(folder, files, &tensors)?;
    }
    // Interior blobs have no classes.
    let top_of = |name: &String| top.as_ref().filter(|_| !args.blobs.contains(name));
    let named = outputs.iter().zip(&tensors);
    let named = named.map(|((name, _), tensor)| (name.as_str(), tensor, top_of(name)));
    if args.json {
        return print_json(named, files.as_deref());
    }
    if files.is_none() || top.is_some() {
        let mut out = io::stdout().lock();
        for (name, tensor, top) in named {
            out.write_all(report::text(name, tensor, top).as_bytes())?;
        }
        out.flush()?;
    }
    for (file, tensor) in files.iter().flatten().zip(&tensors) {
        let file = file.display().to_string();
        talk::say(&format!("wrote {} ({})", clean(&file), tensor.shape));
    }
    Ok(())
}

/// As many threads as the machine runs at once.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn top(args: &RunArgs) -> Result<Option<Top>, Failure> {
    let labels = match &args.labels {
        Some(path) => report::labels(path)?,
        None => Vec::new(),
    };
    const WITH_LABELS: usize = 5;
    let k = args.top.or(args.labels.is_some().then_some(WITH_LABELS));
    Ok(k.map(|k| Top { k, labels }))
}

/// Where each output goes. Errors: `Invalid` if two names give one file.
pub fn files(folder: &Path, outputs: &[(String, Shape)]) -> Result<Vec<PathBuf>> {
    let mut taken: HashMap<String, &str> = HashMap::new();
    let mut files = Vec::new();
    for (blob, _) in outputs {
        let file = blob_file_name(blob)?;
        if let Some(other) = taken.insert(file.clone(), blob) {
            let message = format!("blobs `{other}` and `{blob}` would both be written to {file}");
            return Err(Diagnostic::invalid(message).into());
        }
        files.push(folder.join(file));
    }
    Ok(files)
}

/// Writes all outputs, or none.
pub fn write(folder: &Path, files: &[PathBuf], tensors: &[Tensor]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Diagnostic::io(folder, &e))?;
    let mut staged = Staged::default();
    for (file, tensor) in files.iter().zip(tensors) {
        staged.npy(file, &tensor.shape, &tensor.data)?;
    }
    staged.commit()
}

fn print_json<'a>(
    outputs: impl Iterator<Item = (&'a str, &'a Tensor, Option<&'a Top>)>,
    files: Option<&[PathBuf]>,
) -> Outcome {
    let outputs: Map<String, Value> = outputs
        .enumerate()
        .map(|(i, (name, tensor, top))| {
            let file = files.map(|f| f[i].as_path());
            (name.to_string(), report::json(tensor, top, file))
        })
        .collect();
    let mut out = io::stdout().lock();
    writeln!(out, "{}", json!({"version": 1, "outputs": outputs}))?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blobs_in_one_file_are_an_error() {
        let shape = Shape::new([1]).unwrap();
        let outputs = |names: [&str; 2]| names.map(|n| (n.to_string(), shape.clone()));
        let e = files(Path::new("d"), &outputs(["a/b", "a_b"])).unwrap_err();
        assert_eq!(
            e.to_string(),
            "blobs `a/b` and `a_b` would both be written to a_b.npy"
        );
        let fine = files(Path::new("d"), &outputs(["a", "b"])).unwrap();
        assert_eq!(fine[1], Path::new("d/b.npy"));
    }
}
