//! `caffec check`: whether files are right, and everything that is not.

use super::args::CheckArgs;
use super::{Failure, Outcome, model, talk};
use caffec::diag::{Diagnostic, Errors, Kind, Sources, Span, clean};
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::read_unchanged;
use caffec::ir;
use caffec::weights::{self, Named};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::Path;

/// What there is to say about a file.
#[derive(Default)]
struct Findings {
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
}

impl Findings {
    /// What the file leaves open is no error here.
    fn add(&mut self, errors: Errors) {
        let open = |d: &Diagnostic| d.kind == Kind::Open;
        let (open, errors): (Vec<_>, Vec<_>) = errors.0.into_iter().partition(open);
        self.notes.extend(open);
        self.errors.extend(errors);
    }

    /// The value, or else its errors added.
    fn take<T>(&mut self, result: caffec::diag::Result<T>) -> Option<T> {
        result.map_err(|errors| self.add(errors)).ok()
    }
}

pub fn run(args: &CheckArgs, sources: &mut Sources) -> Outcome {
    if !args.weights.is_empty() && args.files.len() > 1 {
        return Err(Failure::Usage("-w is for one net".into()));
    }
    let mut right = true;
    let mut files = Vec::new();
    for path in &args.files {
        let found = check(path, args, sources);
        right &= found.errors.is_empty();
        if args.json {
            files.push(as_json(path, &found, sources));
            continue;
        }
        talk::notes(sources, &found.notes);
        match found.errors.is_empty() {
            true => talk::say(&format!("{}: right", clean(&path.display().to_string()))),
            false => talk::say(&sources.render_all(&Errors(found.errors))),
        }
    }
    if args.json {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{}",
            json!({"version": 1, "right": right, "files": files})
        )?;
        out.flush()?;
    }
    match right {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

fn check(path: &Path, args: &CheckArgs, sources: &mut Sources) -> Findings {
    let mut found = Findings::default();
    let kind = args.kind.map(Into::into);
    if args.syntax {
        if let Some((name, bytes)) = found.take(model::read_file(path)) {
            let reading = (&args.state.reading).into();
            let read = read_unchanged(&name, bytes, sources, kind, reading);
            let read = found.take(read);
            found
                .notes
                .extend(read.into_iter().flat_map(|read| read.notes));
        }
        return found;
    }
    let read = model::read(path, &args.state, kind, sources);
    let Some(model) = found.take(read) else {
        return found;
    };
    found.notes.extend(model.net.notes.iter().cloned());
    let built = model.build(&ir::Options {
        shapes: args.shapes.iter().cloned().collect(),
        dialect: args.dialect,
        ..ir::Options::default()
    });
    found.notes.extend(built.notes);
    let whole = built.errors.is_empty();
    found.add(Errors(built.errors));
    check_weights(args, built.graph, whole, &mut found);
    found
}

/// Holds the weights against the net, as far as it is known.
fn check_weights(args: &CheckArgs, mut graph: ir::Graph, whole: bool, found: &mut Findings) {
    let mut files = Vec::new();
    for path in &args.weights {
        let file = WeightsFile::open(path, args.state.reading.allow_mixed);
        files.extend(
            found
                .take(file)
                .map(|file| (path.display().to_string(), file)),
        );
    }
    let named: Vec<Named> = files
        .iter()
        .map(|(name, file)| (name.as_str(), file))
        .collect();
    found.errors.extend(weights::take(&mut graph, &named));
    if !whole {
        return;
    }
    found
        .notes
        .extend(named.iter().filter_map(|file| unused(&graph, file)));
    let complete = args.weights.is_empty() || args.allow_missing_weights;
    if !complete && found.errors.is_empty() {
        found.take(weights::refuse(&graph));
    }
}

/// A note on the layers with weights that the net does not have.
fn unused(graph: &ir::Graph, (name, file): &Named) -> Option<Diagnostic> {
    let known = |layer: &str| graph.nodes.iter().any(|node| node.name == layer);
    let layers = file.layers.iter().filter(|l| !l.blobs.is_empty());
    let unused: Vec<String> = layers
        .filter(|l| !known(&l.name))
        .map(|l| format!("`{}`", l.name))
        .collect();
    let message = format!("{name}: not in this net: {}", unused.join(", "));
    (!unused.is_empty()).then(|| Diagnostic::invalid(message))
}

fn as_json(path: &Path, found: &Findings, sources: &Sources) -> Value {
    let all = |severity: &'static str, list: &[Diagnostic]| -> Vec<Value> {
        let one = |d: &Diagnostic| diagnostic(severity, d, sources);
        list.iter().map(one).collect()
    };
    let mut diagnostics = all("error", &found.errors);
    diagnostics.extend(all("note", &found.notes));
    json!({
        "file": path.display().to_string(),
        "right": found.errors.is_empty(),
        "diagnostics": diagnostics,
    })
}

fn diagnostic(severity: &str, d: &Diagnostic, sources: &Sources) -> Value {
    let mut object = Map::new();
    object.insert("severity".into(), severity.into());
    let kind = match d.kind {
        Kind::Invalid => "invalid",
        Kind::Unsupported => "unsupported",
        Kind::Open => "open",
        Kind::Io => "io",
        Kind::Bug => "bug",
    };
    object.insert("kind".into(), kind.into());
    object.insert("message".into(), d.message.clone().into());
    object.extend(d.at.map(|span| place(span, sources)).into_iter().flatten());
    let texts = [("layer", &d.layer), ("help", &d.help)];
    let texts = texts
        .into_iter()
        .filter_map(|(key, text)| Some((key, text.clone()?)));
    object.extend(texts.map(|(key, text)| (key.to_string(), text.into())));
    let related = d.related.iter().map(|(span, note)| {
        let mut related = place(*span, sources);
        related.insert("message".into(), note.clone().into());
        Value::Object(related)
    });
    object.insert("related".into(), related.collect());
    Value::Object(object)
}

fn place(span: Span, sources: &Sources) -> Map<String, Value> {
    let (line, column) = sources.position(span);
    let mut place = Map::new();
    place.insert("file".into(), sources.name(span.file).into());
    place.insert("line".into(), line.into());
    place.insert("column".into(), column.into());
    place
}
