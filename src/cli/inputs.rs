//! From `-i` to the tensors that feed a net.

use super::args::InputArgs;
use super::model::Model;
use super::{Failure, talk};
use caffec::diag::{Diagnostic, Kind, Result, Sources, did_you_mean};
use caffec::frontend::proto::LayerParameter;
use caffec::frontend::{LayerSource, files};
use caffec::ir::{self, BlobId, Graph, Tensor, Valid, room};
use caffec::runtime::picture::{Mean, Transform};
use caffec::runtime::tensor_file::{self, Format, Wanted, read_input};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    check_picture_options(args)?;
    options.fed = Some(files.keys().cloned().collect());
    let mut tensors = BTreeMap::new();
    if args.reshape {
        // Arrays bring their shapes, so that the file need not tell them.
        for (name, paths) in &files {
            if arrays(paths)? {
                let tensor = read_any(name, paths)?;
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
        if !args.reshape {
            room([blob.shape.count()])?;
        }
        let Some(paths) = files.get(&blob.name) else {
            let values = declared.defaults.get(&input);
            let values = values.ok_or_else(|| unfed(&declared))?.floats();
            let tensor = Tensor::new(blob.shape.clone(), values.into_owned());
            tensors.insert(blob.name.clone(), tensor);
            continue;
        };
        let wanted = Wanted {
            blob: &blob.name,
            shape: &blob.shape,
            reshape: args.reshape,
        };
        let transform = transform(args, model, (&blob.name, paths), sources)?;
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
    // What has values of its own is fed only by name, unless nothing else is there.
    let own = |b: &BlobId| graph.defaults.contains_key(b);
    let all_own = graph.inputs.iter().all(own);
    let free: BTreeSet<String> = graph
        .inputs
        .iter()
        .filter(|b| all_own || !own(b))
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

fn read_any(blob: &str, paths: &[PathBuf]) -> Result<Tensor> {
    let wanted = Wanted {
        blob,
        shape: &ir::Shape::default(),
        reshape: true,
    };
    read_input(paths, wanted, &Transform::default())
}

/// Errors: wrong usage where options for pictures are given and no input is one.
fn check_picture_options(args: &InputArgs) -> Result<(), Failure> {
    let asked = [
        ("--resize", args.resize.is_some()),
        ("--crop", args.crop.is_some()),
        ("--mean", args.mean.is_some()),
        ("--scale", args.scale.is_some()),
        ("--mirror", args.mirror),
        ("--channel-order", args.channel_order.is_some()),
    ];
    if let Some((option, _)) = asked.iter().find(|(_, given)| *given) {
        let mut pictures = false;
        for input in &args.inputs {
            pictures |= is_picture(&input.file)?;
        }
        if !pictures {
            let message = format!("{option} is for pictures, and no input is one");
            return Err(Failure::Usage(message));
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> Result<bool> {
    Ok(Format::of_file(path)? == Format::Picture)
}

/// What happens to the pictures `paths` for the input `blob`: what the options say, else
/// what the data layer does that the input stands for.
fn transform(
    args: &InputArgs,
    model: &Model,
    (blob, paths): (&str, &[PathBuf]),
    sources: &Sources,
) -> Result<Transform> {
    let mut layer = Transform::default();
    if paths
        .iter()
        .map(|p| is_picture(p))
        .collect::<Result<Vec<_>>>()?
        .contains(&true)
    {
        let layers = model.net.param.layer.iter().zip(&model.net.layers);
        let mut makers =
            layers.filter(|(param, _)| param.top.first().is_some_and(|top| top == blob));
        if let Some((param, source)) = makers.next() {
            let found = DataLayer {
                model,
                param,
                source,
            }
            .transform(args.mean.is_none());
            let (transform, notes) = found?;
            talk::notes(sources, &notes);
            layer = transform;
        }
    }
    Ok(Transform {
        resize: args.resize.or(layer.resize),
        crop: args.crop.or(layer.crop),
        mean: match &args.mean {
            Some(text) => Some(mean(text)?),
            None => layer.mean,
        },
        scale: args.scale.unwrap_or(layer.scale),
        mirror: args.mirror,
        order: args.channel_order.map(Into::into).unwrap_or_default(),
    })
}

/// A layer that reads pictures in Caffe.
struct DataLayer<'a> {
    model: &'a Model,
    param: &'a LayerParameter,
    source: &'a LayerSource,
}

impl DataLayer<'_> {
    /// What the layer does to pictures by its `transform_param` (Caffe
    /// `data_transformer.cpp`) and, for ImageData, `new_height` and `new_width`; and
    /// what there is to know about it.
    ///
    /// Errors: `Open` for a mean that is wanted and not there; those of reading it.
    fn transform(&self, wants_mean: bool) -> Result<(Transform, Vec<Diagnostic>)> {
        let given = self.param.transform_param.clone().unwrap_or_default();
        let image = self.param.image_data_param.clone().unwrap_or_default();
        let mut notes = Vec::new();
        let mut transform = Transform {
            scale: given.scale(),
            ..Transform::default()
        };
        let mut said = Vec::new();
        let size = (image.new_height() as usize, image.new_width() as usize);
        if size.0 > 0 && size.1 > 0 {
            transform.resize = Some(size);
            said.push(format!("resized to {}×{}", size.0, size.1));
        }
        if given.crop_size() > 0 {
            let size = given.crop_size() as usize;
            transform.crop = Some((size, size));
            said.push(format!("cut to {size}×{size}"));
        }
        if wants_mean && given.mean_file.is_some() {
            let file = self.mean_file(given.mean_file())?;
            transform.mean = Some(tensor_file::read_mean(&file)?);
            said.push(format!("minus {}", file.display()));
        } else if wants_mean && !given.mean_value.is_empty() {
            let values: Vec<String> = given.mean_value.iter().map(f32::to_string).collect();
            said.push(format!("minus {}", values.join(",")));
            transform.mean = Some(Mean::Values(given.mean_value.clone()));
        }
        if given.scale() != 1.0 {
            said.push(format!("times {}", given.scale()));
        }
        if !said.is_empty() {
            notes.push(self.say(format!("pictures are {}", said.join(", "))));
        }
        if given.mirror() {
            let message = "Caffe mirrors pictures at random; here --mirror does, and else nothing";
            notes.push(self.say(message.into()));
        }
        if !given.resize_param.is_empty() {
            let message = "pictures are not resized as resize_param says: --resize does it";
            notes.push(self.say(message.into()));
        }
        Ok((transform, notes))
    }

    fn mean_file(&self, name: &str) -> Result<PathBuf> {
        let file = files::named(Path::new(&self.model.name), name);
        file.ok_or_else(|| {
            let message = format!("the mean file `{name}` is not there");
            let at = self.source.span_of("transform_param.mean_file");
            let error = Diagnostic::new(Kind::Open, message).at(at);
            let help = "give it (--mean FILE), or values (--mean 104,117,123; --mean 0 for none)";
            error.layer(self.param.name()).help(help).into()
        })
    }

    fn say(&self, message: String) -> Diagnostic {
        let note = Diagnostic::invalid(message);
        let note = note.at(self.source.span_of("transform_param"));
        note.layer(self.param.name())
    }
}

/// Numbers if all parts are numbers, else a file.
fn mean(text: &str) -> Result<Mean> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|v| v.trim().parse()).collect();
    match values {
        Ok(values) => Ok(Mean::Values(values)),
        Err(_) => tensor_file::read_mean(text.as_ref()),
    }
}
