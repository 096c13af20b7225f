//! One run of a net: files in, blobs out, and how blobs are compared.

use crate::engines::Engine;
use caffec::diag::{Result, Sources};
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::proto::Phase;
use caffec::frontend::{Net, State, load_net};
use caffec::ir::{BlobId, Graph, Options, Tensor, Valid, build};
use caffec::weights::{self, Missing};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Run {
    pub prototxt: PathBuf,
    pub weights: Option<PathBuf>,
    pub state: State,
    pub inputs: BTreeMap<String, Tensor>,
    pub options: Options,
    /// Forward passes, of which the last one counts.
    pub forwards: usize,
}

impl Run {
    /// The graph's outputs by name: Caffe's own, then those asked for.
    pub fn run(self, engine: &Engine, sources: &mut Sources) -> Result<Vec<(String, Tensor)>> {
        let forwards = self.forwards;
        let (graph, inputs) = self.graph(sources)?;
        let names: Vec<String> = names(&graph);
        let shown = graph.shown();
        let outputs = (engine.run)(graph, &inputs, forwards)?;
        Ok(names.into_iter().zip(shown.of(&outputs)).collect())
    }

    /// The graph with its weights, and a tensor for each of its inputs.
    pub fn graph(self, sources: &mut Sources) -> Result<(Valid, Vec<Tensor>)> {
        let net = load(&self.prototxt, sources, &self.state)?;
        let (mut graph, _) = build(&net, &self.options).valid()?;
        load_weights(&mut graph, self.weights)?;
        let name = |b: &BlobId| graph[*b].name.clone();
        let feed = |b: &BlobId| match self.inputs.get(&name(b)) {
            Some(tensor) => tensor.clone(),
            None => unfed(&graph, *b),
        };
        let inputs: Vec<Tensor> = graph.inputs.iter().map(feed).collect();
        Ok((graph, inputs))
    }
}

/// Names of the outputs.
pub fn names(graph: &Graph) -> Vec<String> {
    let shown = graph.shown_outputs().iter();
    shown.map(|&blob| graph[blob].name.clone()).collect()
}

pub fn load(prototxt: &Path, sources: &mut Sources, state: &State) -> Result<Net> {
    let name = prototxt.file_name().unwrap().to_string_lossy();
    load_net(&name, std::fs::read(prototxt).unwrap(), sources, state)
}

/// The default; zeros in a net that is to be refused but gets as far as running.
fn unfed(graph: &Graph, input: BlobId) -> Tensor {
    let shape = graph.shape(input).clone();
    match graph.defaults.get(&input) {
        Some(values) => Tensor::new(shape, values.floats().into_owned()),
        None => Tensor::zeros(shape),
    }
}

/// Weights of a file, if there is one; the rest keeps its fillers, as in Caffe.
fn load_weights(graph: &mut Valid, file: Option<PathBuf>) -> Result<()> {
    let file = file.map(|f| WeightsFile::open(&f, false)).transpose()?;
    let files: Vec<_> = file.iter().map(|f| ("weights", f)).collect();
    graph.edit("weights", |g| weights::load(g, &files, Missing::Fill(1)))
}

pub fn state(json: &Value) -> State {
    State {
        phase: match json["phase"].as_str() {
            Some("TRAIN") => Phase::Train,
            _ => Phase::Test,
        },
        level: json["level"].as_i64().unwrap_or(0) as i32,
        stages: texts(&json["stages"])
            .iter()
            .map(|s| s.to_string())
            .collect(),
        ..State::default()
    }
}

pub fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.map(|v| v.as_str().unwrap()).collect()
}

/// A JSON object's members.
pub fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

pub fn dims(list: &Value) -> Vec<usize> {
    let list = list.as_array().into_iter().flatten();
    list.map(|v| v.as_u64().unwrap() as usize).collect()
}

pub fn shapes(inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, caffec::ir::Shape> {
    inputs
        .iter()
        .map(|(n, t)| (n.clone(), t.shape.clone()))
        .collect()
}

/// What is wrong with a blob, if anything: shapes, infinities and NaN must be the
/// same, other values within `tolerance × max(1, largest)`.
pub fn difference(got: &Tensor, want: &Tensor, exact: bool, tolerance: f32) -> Option<String> {
    if got.shape != want.shape {
        return Some(format!("is {}, not {}", got.shape, want.shape));
    }
    let finite = want.data.iter().filter(|w| w.is_finite());
    let largest = finite.fold(1.0f32, |m, w| m.max(w.abs()));
    let limit = f64::from(tolerance * largest);
    let same = |g: f32, w: f32| {
        let equal = g == w || g.is_nan() && w.is_nan();
        let near = g.is_finite() && w.is_finite() && (f64::from(g) - f64::from(w)).abs() <= limit;
        equal || !exact && near
    };
    let mut pairs = got.data.iter().zip(&want.data);
    let bad = pairs.position(|(&g, &w)| !same(g, w))?;
    let count = got
        .data
        .iter()
        .zip(&want.data)
        .filter(|&(&g, &w)| !same(g, w))
        .count();
    Some(format!(
        "{count} of {} differ, first at {bad}: {:?} for {:?}",
        got.data.len(),
        got.data[bad],
        want.data[bad]
    ))
}
