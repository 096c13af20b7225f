//! Files of Caffe → messages that the compiler can lower.
//!
//! In: the bytes of a prototxt, a binary net, a caffemodel. Out: a [`Net`] in the
//! current format holding the layers of one net state, beside it a [`LayerSource`]
//! per layer that tells where its fields stand in the file; and
//! [`binary::WeightsFile`], the trained parameters, also from HDF5 (`hdf5`). After
//! this room no older format, no include rule and no layer without a phase is left,
//! and nothing else knows protobuf.
//!
//! The way of a text file: [`text`] (tokens, tree) → `bind` (tree → message and
//! [`Spans`], by the [`schema`]) → [`upgrade`] (V0, V1, legacy inputs) → [`filter`]
//! (phase, level, stage); `print` is the way back. A `solver` leads to its net. Binary
//! files go through [`wire`] and [`binary`]. Start reading at [`load`].

pub mod binary;
mod bind;
mod dialect;
pub mod files;
pub mod filter;
pub mod forks;
mod hdf5;
mod numbers;
mod print;
pub mod schema;
mod solver;
mod source;
mod spans;
pub mod text;
pub mod upgrade;
pub mod wire;

pub use bind::{BoundText, Parsed, bind_text, parse_text, read_text};
pub use dialect::Dialect;
pub use print::{print_text, print_wire};
pub use solver::SolverNet;
pub use source::LayerSource;
pub use spans::Spans;

use crate::diag::{Diagnostic, Result, Sources};
use prost::Message as _;
use proto::{LayerParameter, NetParameter, NetState, Phase, SolverParameter};
use schema::{MessageType, Schema};
use std::collections::{BTreeMap, BTreeSet};

/// The message types of `proto/caffe.proto`.
pub mod proto {
    #![allow(clippy::all, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}

const NET: &str = "caffe.NetParameter";
const SOLVER: &str = "caffe.SolverParameter";

/// What a prototxt describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Net,
    Solver,
}

/// What is let pass in a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Records of `layer` and of `layers` may stand in one file, which Caffe refuses.
    pub allow_mixed: bool,
    /// Fields that neither BVLC's Caffe nor a known fork has are left out, whatever is in
    /// them, and a note tells so.
    pub allow_unknown: bool,
}

/// What a net is loaded for; it decides which layers it has.
#[derive(Clone, Debug)]
pub struct State {
    pub phase: Phase,
    pub level: i32,
    /// In addition to those that the file sets.
    pub stages: Vec<String>,
    pub reading: Reading,
}

impl Default for State {
    fn default() -> Self {
        State {
            phase: Phase::Test,
            level: 0,
            stages: Vec::new(),
            reading: Reading::default(),
        }
    }
}

/// A net in the current format, filtered.
#[derive(Debug)]
pub struct Net {
    /// Each layer has its phase set.
    pub param: NetParameter,
    /// One for each `param.layer`.
    pub layers: Vec<LayerSource>,
    /// Indices of layers that became convolutions (`ir::fc_to_conv`): files have their
    /// weights as those of InnerProduct layers.
    pub flat: BTreeSet<usize>,
    /// By index of a layer, the array in the file that it names (the matrix of an
    /// InfogainLoss, the sizes of a DetectionEvaluate), where that is there.
    pub files: BTreeMap<usize, Vec<f32>>,
    /// Layers of the file that are not part of the net in this state.
    pub elsewhere: Vec<(LayerParameter, LayerSource)>,
    /// What was ignored or lost, as in Caffe: for the user to know, no errors.
    pub notes: Vec<Diagnostic>,
}

/// What a file turned out to hold.
#[derive(Debug)]
pub enum Loaded {
    /// A net, or a solver with its net inside.
    Net(Box<Net>),
    /// A solver whose net is in another file.
    Solver(SolverNet),
}

/// Reads a net or a solver, text or binary; a net is upgraded and keeps the layers of
/// `state`. `name` is the file's, for messages and to look from for files that the net
/// names ([`files::named`]); text is added to `sources`. `kind` none: guessed.
///
/// Errors: `Invalid`; those of reading a file that is named and there. Source: BVLC/caffe `net.cpp`, `Net(param_file, phase, level,
/// stages)` and `Init` up to `FilterNet`.
pub fn load(
    name: &str,
    bytes: Vec<u8>,
    sources: &mut Sources,
    state: &State,
    kind: Option<FileKind>,
) -> Result<Loaded> {
    let mut loaded = load_alone(name, bytes, sources, state, kind)?;
    if let Loaded::Net(net) = &mut loaded {
        files::read_arrays(net, name.as_ref())?;
    }
    Ok(loaded)
}

/// As [`load`], without the files that the net names.
fn load_alone(
    name: &str,
    bytes: Vec<u8>,
    sources: &mut Sources,
    state: &State,
    kind: Option<FileKind>,
) -> Result<Loaded> {
    if kind != Some(FileKind::Solver)
        && let Some((param, notes)) = read_binary(name, &bytes, state.reading)?
    {
        let net = finish((param, None, notes), state)?;
        return Ok(Loaded::Net(Box::new(net)));
    }
    let file = sources.add(name, bytes);
    match kind.unwrap_or_else(|| file_kind(sources.text(file))) {
        FileKind::Net => {
            let parsed: Parsed<NetParameter> = read_text(sources, file, NET, state.reading)?;
            let net = finish((parsed.message, Some(parsed.spans), parsed.notes), state)?;
            Ok(Loaded::Net(Box::new(net)))
        }
        FileKind::Solver => solver::load(sources, file, state),
    }
}

/// Reads a net as [`load`] does.
///
/// Errors: `Invalid`, also for a solver whose net is in another file.
pub fn load_net(name: &str, bytes: Vec<u8>, sources: &mut Sources, state: &State) -> Result<Net> {
    match load(name, bytes, sources, state, None)? {
        Loaded::Net(net) => Ok(*net),
        Loaded::Solver(solver) => {
            let error = Diagnostic::invalid("this is a solver, not a net").at(solver.at);
            Err(error.help(format!("its net is `{}`", solver.file)).into())
        }
    }
}

/// From the message as read to the net of `state`.
fn finish((param, spans, mut notes): Bound, state: &State) -> Result<Net> {
    let upgraded = upgrade::upgrade_net(param, spans.as_ref(), state.reading.allow_mixed)?;
    notes.extend(upgraded.notes);
    let mut param = upgraded.param;
    let state = net_state(&param, state);
    let layers = std::mem::take(&mut param.layer);
    let layers = layers.into_iter().zip(upgraded.sources).collect();
    let (mut kept, elsewhere) = filter::filter(layers, &state)?;
    for (layer, _) in &mut kept {
        layer.phase.get_or_insert(state.phase().into());
    }
    let (layer, layers) = kept.into_iter().unzip();
    param.layer = layer;
    param.state = Some(state);
    Ok(Net {
        param,
        layers,
        flat: BTreeSet::new(),
        files: BTreeMap::new(),
        elsewhere,
        notes,
    })
}

/// Phase and level are the caller's, stages those of file and caller.
fn net_state(param: &NetParameter, state: &State) -> NetState {
    let stages = param.state.iter().flat_map(|s| &s.stage);
    NetState {
        phase: Some(state.phase.into()),
        level: Some(state.level),
        stage: stages.chain(&state.stages).cloned().collect(),
    }
}

type Bound = (NetParameter, Option<Spans>, Vec<Diagnostic>);

/// The net of a file in binary form; `None` if it is text, or should be by its name:
/// the text parser can say where it went wrong.
fn read_binary(
    name: &str,
    bytes: &[u8],
    reading: Reading,
) -> Result<Option<(NetParameter, Vec<Diagnostic>)>> {
    if is_text(bytes) {
        return Ok(None);
    }
    match binary::read_net_binary(name, bytes, reading) {
        Err(_) if name.ends_with(".prototxt") => Ok(None),
        read => read.map(Some),
    }
}

/// Text, or something that the text parser knows to name.
fn is_text(bytes: &[u8]) -> bool {
    binary::is_text(bytes) || text::foreign(bytes).is_some()
}

/// Guesses from the outermost field names at the file's start: a file is a solver if
/// more of them are known to solvers only than to nets only.
fn file_kind(text: &[u8]) -> FileKind {
    const ENOUGH: usize = 1 << 16;
    let text = &text[..text.len().min(ENOUGH)];
    let [net, solver] = [NET, SOLVER].map(|name| Schema::caffe().message(name));
    let only = |a: &MessageType, b: &MessageType| {
        let counts = |name: &&str| a.field(name).is_some() && b.field(name).is_none();
        outermost(text).filter(counts).count()
    };
    match only(solver, net) > only(net, solver) {
        true => FileKind::Solver,
        false => FileKind::Net,
    }
}

/// Names of the outermost fields, as far as the text can be read.
fn outermost(text: &[u8]) -> impl Iterator<Item = &str> {
    let fields = text::parse(text).0.fields;
    let mut next = 0;
    std::iter::from_fn(move || {
        let field = fields.get(next)?;
        next = field.end as usize;
        Some(std::str::from_utf8(field.name.of(text)).unwrap_or_default())
    })
}

/// A file as read, before any upgrade.
#[derive(Debug)]
pub struct Unchanged {
    wire: Vec<u8>,
    /// The message type, with package.
    ty: &'static str,
    /// What was lost on the way.
    pub notes: Vec<Diagnostic>,
}

impl Unchanged {
    /// As canonical text format.
    pub fn text(&self) -> String {
        print_wire(&self.wire, self.ty)
    }
}

/// Reads a net or a solver, text or binary, and holds its fields against the schema, but
/// no layer against what is known of its type. `kind` none: guessed.
///
/// Errors: `Invalid`.
pub fn read_unchanged(
    name: &str,
    bytes: Vec<u8>,
    sources: &mut Sources,
    kind: Option<FileKind>,
    reading: Reading,
) -> Result<Unchanged> {
    if let Some((net, notes)) = read_binary(name, &bytes, reading)? {
        let wire = net.encode_to_vec();
        return Ok(Unchanged {
            wire,
            ty: NET,
            notes,
        });
    }
    let file = sources.add(name, bytes);
    let ty = match kind.unwrap_or_else(|| file_kind(sources.text(file))) {
        FileKind::Net => NET,
        FileKind::Solver => SOLVER,
    };
    let bound = bind_text(sources, file, ty, reading)?;
    Ok(Unchanged {
        wire: bound.wire,
        ty,
        notes: bound.notes,
    })
}

/// The file in the current format, as text without blobs, and what was lost on the way:
/// what Caffe's `upgrade_net_proto_text` and `upgrade_solver_proto_text` write. `kind`
/// none: guessed.
pub fn upgraded_text(
    name: &str,
    bytes: Vec<u8>,
    sources: &mut Sources,
    kind: Option<FileKind>,
    reading: Reading,
) -> Result<(String, Vec<Diagnostic>)> {
    let (param, spans, mut notes) = match read_binary(name, &bytes, reading)? {
        Some((param, notes)) if kind != Some(FileKind::Solver) => (param, None, notes),
        _ => {
            let file = sources.add(name, bytes);
            if kind.unwrap_or_else(|| file_kind(sources.text(file))) == FileKind::Solver {
                let mut parsed: Parsed<SolverParameter> =
                    read_text(sources, file, SOLVER, reading)?;
                upgrade::upgrade_solver(&mut parsed.message, Some(&parsed.spans))?;
                return Ok((print_text(&parsed.message, SOLVER), parsed.notes));
            }
            let parsed: Parsed<NetParameter> = read_text(sources, file, NET, reading)?;
            (parsed.message, Some(parsed.spans), parsed.notes)
        }
    };
    let upgraded = upgrade::upgrade_net(param, spans.as_ref(), reading.allow_mixed)?;
    notes.extend(upgraded.notes);
    Ok((print_text(&upgraded.param, NET), notes))
}

/// A net in the current format, in binary form, with its blobs if it is binary now, as
/// Caffe's `upgrade_net_proto_binary` writes it; and what was lost on the way.
pub fn upgraded_binary(
    name: &str,
    bytes: Vec<u8>,
    sources: &mut Sources,
    reading: Reading,
) -> Result<(Vec<u8>, Vec<Diagnostic>)> {
    let (param, spans, mut notes) = match is_text(&bytes) {
        false => {
            let (param, notes) = binary::read_net_with_blobs(name, &bytes, reading)?;
            (param, None, notes)
        }
        true => {
            let file = sources.add(name, bytes);
            let parsed: Parsed<NetParameter> = read_text(sources, file, NET, reading)?;
            (parsed.message, Some(parsed.spans), parsed.notes)
        }
    };
    let upgraded = upgrade::upgrade_net(param, spans.as_ref(), reading.allow_mixed)?;
    notes.extend(upgraded.notes);
    Ok((upgraded.param.encode_to_vec(), notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, state: &State) -> (Sources, Result<Net>) {
        let mut sources = Sources::default();
        let net = load_net("net.prototxt", text.into(), &mut sources, state);
        (sources, net)
    }

    fn names(net: &Net) -> Vec<&str> {
        net.param.layer.iter().map(|l| l.name()).collect()
    }

    #[test]
    fn state_is_the_callers_and_stages_add_up() {
        let text = "state { phase: TRAIN level: 3 stage: 'a' }
            layer { name: 'both' include { stage: 'a' stage: 'b' phase: TEST } }
            layer { name: 'level' include { min_level: 1 } phase: TRAIN }
            layer { name: 'train' exclude { phase: TEST } }";
        let state = State {
            stages: vec!["b".into()],
            ..State::default()
        };
        let net = load(text, &state).1.unwrap();
        assert_eq!(names(&net), ["both"]);
        assert_eq!(net.param.layer[0].phase(), Phase::Test);
        let train = State {
            phase: Phase::Train,
            level: 1,
            ..State::default()
        };
        let net = load(text, &train).1.unwrap();
        assert_eq!(names(&net), ["level", "train"]);
    }

    #[test]
    fn upgraded_layers_know_where_they_stand() {
        let text = "input: 'x'\ninput_dim: [1, 2, 3, 4]\n\
            layers { layer { name: 'p' type: 'padding'\npad: 7 } bottom: 'x' top: 'p' }\n\
            layers { layer { name: 'c' type: 'conv' num_output: 2\n kernelsize: 3 } bottom: 'p' top: 'c' }";
        let (sources, net) = load(text, &State::default());
        let net = net.unwrap();
        assert_eq!(names(&net), ["input", "c"]);
        let at =
            |layer: usize, path: &str| sources.position(net.layers[layer].span_of(path).unwrap());
        assert_eq!(at(0, "input_param.shape[0].dim[2]"), (2, 1));
        assert_eq!(at(0, "top[0]"), (1, 1));
        assert_eq!(at(1, "convolution_param.kernel_size[0]"), (6, 2));
        assert_eq!(at(1, "convolution_param.pad[0]"), (4, 1));
        assert_eq!(at(1, "convolution_param.dilation[0]"), (5, 1));
        assert_eq!(at(1, "bottom[0]").0, 6);
    }

    #[test]
    fn v1_fields_are_found_under_their_old_names() {
        let text = "layers { name: 'c' type: CONVOLUTION\n blobs_lr: 1\n blobs_lr: 2\n convolution_param { pad: 1 } }";
        let (sources, net) = load(text, &State::default());
        let source = &net.unwrap().layers[0];
        let at = |path: &str| sources.position(source.span_of(path).unwrap());
        assert_eq!(at("param[1].lr_mult"), (3, 2));
        assert_eq!(at("convolution_param.pad"), (4, 22));
    }

    #[test]
    fn a_solver_is_told_from_a_net() {
        let text = "net: 'lenet.prototxt'\nbase_lr: 0.1\ndebug_info: true";
        let (sources, net) = load(text, &State::default());
        assert_eq!(
            sources.render_all(&net.unwrap_err()),
            "net.prototxt:1:1: error: this is a solver, not a net\n  help: its net is `lenet.prototxt`"
        );
        assert_eq!(file_kind(b"debug_info: true"), FileKind::Net);
        assert_eq!(file_kind(b"layer { } bogus"), FileKind::Net);
    }

    #[test]
    fn binary_nets_load_like_text() {
        let text = "name: 'n' layers { name: 'r' type: RELU }";
        let mut sources = Sources::default();
        let file = sources.add("t", text.into());
        let parsed = parse_text::<NetParameter>(&sources, file, NET).unwrap();
        let state = State::default();
        let bytes = parsed.message.encode_to_vec();
        let binary = load_net("n.bin", bytes, &mut sources, &state).unwrap();
        let text = load(text, &state).1.unwrap();
        assert_eq!(binary.param, text.param);
        assert_eq!(binary.layers[0].span(), None);
        // Neither text nor a net: what should be text gets a place.
        for (name, place) in [("n.bin", false), ("n.prototxt", true)] {
            let error = load_net(name, b"\0ame: 'n'".to_vec(), &mut sources, &state).unwrap_err();
            assert_eq!(error.0[0].at.is_some(), place, "{error}");
        }
    }

    #[test]
    fn files_of_another_kind_are_named() {
        for (bytes, word) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"<!doctype html><p>", "HTML"),
            (b"\xff\xfen\0", "UTF-16"),
            (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        ] {
            let mut sources = Sources::default();
            let errors = load_net("n", bytes.to_vec(), &mut sources, &State::default());
            let message = sources.render_all(&errors.unwrap_err());
            assert!(message.contains(word), "{message}");
        }
    }
}
