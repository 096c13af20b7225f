//! From `-i` to the tensors that feed a net.

use super::Failure;
use super::args::InputArgs;
use super::model::Model;
use caffec::diag::{Diagnostic, Result, Sources, did_you_mean};
use caffec::ir::{self, BlobId, Graph, Tensor, Valid};
use caffec::runtime::picture::{Mean, Transform};
use caffec::runtime::tensor_file::{self, Format, Wanted, read_input};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Files by the name of the input that they feed.
type Files = BTreeMap<String, Vec<PathBuf>>;

/// Builds the graph for what is fed and reads the inputs, in the order of
/// `graph.inputs`.
pub fn feed(
    args: &InputArgs,
    model: &Model,
    mut options: ir::Options,
    sources: &Sources,
) -> Result<(Valid, Vec<Tensor>), Failure> {
    let mut files = named(args);
    let transform = transform(args)?;
    options.fed = Some(files.keys().cloned().collect());
    let mut tensors = BTreeMap::new();
    if args.reshape {
        // Arrays bring their shapes, so that the file need not tell them.
        for (name, paths) in &files {
            if arrays(paths)? {
                let tensor = read_any(name, paths, &transform)?;
                options.shapes.insert(name.clone(), tensor.shape.clone());
                tensors.insert(name.clone(), tensor);
            }
        }
    }
    let built = model.build(&options);
    let declared = caffec::diag::Errors::none_or(built.errors, built.graph)?;
    name_the_rest(args, &declared, &mut files)?;
    known(&declared, files.keys())?;
    for &input in &declared.inputs {
        let blob = &declared[input];
        if tensors.contains_key(&blob.name) {
            continue;
        }
        let Some(paths) = files.get(&blob.name) else {
            let value = declared.defaults.get(&input);
            let value = *value.ok_or_else(|| unfed(&declared))?;
            let data = vec![value; blob.shape.count()];
            tensors.insert(blob.name.clone(), Tensor::new(blob.shape.clone(), data));
            continue;
        };
        let wanted = Wanted {
            blob: &blob.name,
            shape: &blob.shape,
            reshape: args.reshape,
        };
        let tensor = read_input(paths, wanted, &transform)?;
        if args.reshape {
            options
                .shapes
                .insert(blob.name.clone(), tensor.shape.clone());
        }
        tensors.insert(blob.name.clone(), tensor);
    }
    if args.reshape {
        options.batch = None;
    }
    let graph = model.graph(&options, sources)?;
    let inputs = graph.inputs.iter();
    let inputs = inputs.map(|&b| tensors.remove(&graph[b].name).expect("read above"));
    let inputs = inputs.collect();
    Ok((graph, inputs))
}

fn named(args: &InputArgs) -> Files {
    let mut files = Files::new();
    for input in &args.inputs {
        if let Some(blob) = &input.blob {
            files
                .entry(blob.clone())
                .or_default()
                .push(input.file.clone());
        }
    }
    files
}

/// Gives files without a name to the only input that has none, or an archive to the
/// inputs that it has arrays for.
fn name_the_rest(args: &InputArgs, graph: &Graph, files: &mut Files) -> Result<(), Failure> {
    // What has a value of its own is fed only by name.
    let own = |b: &&BlobId| graph.defaults.contains_key(*b);
    let free: BTreeSet<String> = graph
        .inputs
        .iter()
        .filter(|b| !own(b))
        .map(|&b| graph[b].name.clone())
        .filter(|name| !files.contains_key(name))
        .collect();
    for input in args.inputs.iter().filter(|i| i.blob.is_none()) {
        let members = match Format::of_file(&input.file)? {
            Format::Npz => tensor_file::members(&input.file)?,
            _ => Vec::new(),
        };
        let mut takers: Vec<&String> = free.iter().filter(|n| members.contains(n)).collect();
        if takers.is_empty() && free.len() == 1 {
            takers.extend(&free);
        }
        if takers.is_empty() {
            let message = format!(
                "-i {}: for which input? {}",
                input.file.display(),
                inputs_of(graph)
            );
            return Err(Failure::Usage(message));
        }
        for name in takers {
            files
                .entry(name.clone())
                .or_default()
                .push(input.file.clone());
        }
    }
    Ok(())
}

fn known<'a>(graph: &Graph, mut names: impl Iterator<Item = &'a String>) -> Result<()> {
    let inputs: Vec<&str> = graph
        .inputs
        .iter()
        .map(|&b| graph[b].name.as_str())
        .collect();
    let Some(name) = names.find(|n| !inputs.contains(&n.as_str())) else {
        return Ok(());
    };
    let d = Diagnostic::invalid(format!("-i: the net has no input `{name}`"));
    Err(match did_you_mean(name, inputs.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(inputs_of(graph)),
    }
    .into())
}

fn unfed(graph: &Graph) -> Failure {
    Failure::Usage(format!(
        "every input needs a file: -i BLOB=FILE; {}",
        inputs_of(graph)
    ))
}

fn inputs_of(graph: &Graph) -> String {
    let of = |&b: &BlobId| format!("`{}` ({})", graph[b].name, graph[b].shape);
    let all: Vec<String> = graph.inputs.iter().map(of).collect();
    format!("the net's inputs are: {}", all.join(", "))
}

/// Whether all files hold arrays with a shape of their own.
fn arrays(paths: &[PathBuf]) -> Result<bool> {
    for path in paths {
        if !matches!(Format::of_file(path)?, Format::Npy | Format::Npz) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_any(blob: &str, paths: &[PathBuf], transform: &Transform) -> Result<Tensor> {
    let wanted = Wanted {
        blob,
        shape: &ir::Shape::default(),
        reshape: true,
    };
    read_input(paths, wanted, transform)
}

/// What the picture options ask for. Errors: they are given and no input is a picture.
fn transform(args: &InputArgs) -> Result<Transform, Failure> {
    let asked = [
        ("--resize", args.resize.is_some()),
        ("--crop", args.crop.is_some()),
        ("--mean", args.mean.is_some()),
        ("--scale", args.scale.is_some()),
        ("--channel-order", args.channel_order.is_some()),
    ];
    if let Some((option, _)) = asked.iter().find(|(_, given)| *given) {
        let mut pictures = false;
        for input in &args.inputs {
            pictures |= Format::of_file(&input.file)? == Format::Picture;
        }
        if !pictures {
            let message = format!("{option} is for pictures, and no input is one");
            return Err(Failure::Usage(message));
        }
    }
    Ok(Transform {
        resize: args.resize,
        crop: args.crop,
        mean: args.mean.as_deref().map(mean).transpose()?,
        scale: args.scale.unwrap_or(1.0),
        order: args.channel_order.map(Into::into).unwrap_or_default(),
    })
}

/// Numbers if all parts are numbers, else a file.
fn mean(text: &str) -> Result<Mean> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|v| v.trim().parse()).collect();
    match values {
        Ok(values) => Ok(Mean::Values(values)),
        Err(_) => tensor_file::read_mean(text.as_ref()),
    }
}
