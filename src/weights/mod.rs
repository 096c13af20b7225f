//! Values for the parameters of a graph: from weights files, from Caffe's fillers, or
//! random ones that suit the net.
//!
//! In: a graph whose parameters have shapes. Out: the same graph with data in every
//! parameter. Start with [`load`].

mod filler;
mod he;
mod stream;
#[cfg(test)]
mod tests;

pub use filler::{DIAGONAL, FILLERS, fill};
pub use he::random;
pub use stream::{Stream, random_input, random_labels};

use crate::diag::{Diagnostic, Errors, Result};
use crate::frontend::binary::{BlobData, WeightBlob, WeightLayer, WeightsFile};
use crate::ir::tensor::FloatSource;
use crate::ir::{FloatData, Graph, Node, ParamId, Shape};
use crate::layers::Op;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// What happens to parameters that no weights file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are an error.
    Refuse,
    /// They keep their filler's values, as in Caffe; random ones follow the seed.
    Fill(u64),
    /// They become random, each layer in proportion to what it gets: [`random`].
    Random(u64),
}

/// A weights file and its name in messages.
pub type Named<'a> = (&'a str, &'a WeightsFile);

/// Gives every parameter its data. Files are taken in order, so that later ones win.
/// A file's layer belongs to the net's first layer of the same name, one of HDF5 to the
/// last, or to none (Caffe `net.cpp`, `CopyTrainedLayersFrom`,
/// `CopyTrainedLayersFromHDF5`).
///
/// Errors: `Invalid` for each layer whose number of blobs or whose shapes differ, for
/// layers without weights if they are refused, and for fillers that Caffe refuses.
pub fn load(graph: &mut Graph, files: &[Named], missing: Missing) -> Result<()> {
    Errors::none_or(take(graph, files), ())?;
    match missing {
        Missing::Refuse => refuse(graph),
        Missing::Fill(seed) => fill_missing(graph, seed),
        Missing::Random(seed) => {
            random(graph, seed);
            Ok(())
        }
    }
}

/// Takes what the files have, where it suits the graph; returns what does not.
pub fn take(graph: &mut Graph, files: &[Named]) -> Vec<Diagnostic> {
    let one = |file: &Named| assign(graph, *file);
    files.iter().flat_map(one).collect()
}

/// Takes what a file has; returns what is wrong with it.
fn assign(graph: &mut Graph, (name, file): Named) -> Vec<Diagnostic> {
    let mut takers = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        match file.owners_only {
            true => *takers.entry(node.name.clone()).or_insert(i) = i,
            false => _ = takers.entry(node.name.clone()).or_insert(i),
        }
    }
    let mut wrong = Vec::new();
    for layer in &file.layers {
        if let Some(&i) = takers.get(&layer.name) {
            match matching(graph, i, layer, file.owners_only) {
                Ok(params) => {
                    for (id, blob) in params {
                        graph[id].data = Some(FloatData::new(blob.data.clone()));
                    }
                }
                Err(message) => {
                    let d = Diagnostic::invalid(format!("{name}: {message}"));
                    let d = d.layer(&layer.name).at(graph.nodes[i].at);
                    wrong.push(match for_another_size(graph, i, layer) {
                        true => d.help("for an input of another size than these weights are for, there is --fc-to-conv"),
                        false => d,
                    });
                }
            }
        }
    }
    wrong
}

impl FloatSource for BlobData {
    fn len(&self) -> usize {
        BlobData::len(self)
    }

    fn window(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        BlobData::window(self, range)
    }

    fn release(&self, range: Range<usize>) {
        BlobData::release(self, range);
    }
}

/// The node's parameters with what the file's layer has for them, if that suits.
fn matching<'a>(
    graph: &Graph,
    node: usize,
    layer: &'a WeightLayer,
    owners_only: bool,
) -> Result<Vec<(ParamId, &'a WeightBlob)>, String> {
    let params = &graph.nodes[node].params;
    let size = |blob: &Option<WeightBlob>| blob.as_ref().map_or(0, |blob| blob.data.len());
    let sizes: Vec<usize> = layer.blobs.iter().map(size).collect();
    let order = graph.nodes[node].op.order_in_file(&sizes);
    let blobs: Vec<_> = match order {
        Some(order) => order.into_iter().map(|n| &layer.blobs[n]).collect(),
        None => layer.blobs.iter().collect(),
    };
    let lacks = |i: usize| {
        let absent = blobs.get(i).is_none_or(|blob| blob.is_none());
        absent && !(owners_only && owned_elsewhere(graph, node, i))
    };
    let expected = params.len();
    if blobs.len() > expected || (0..expected).any(lacks) {
        let found = layer.blobs.iter().flatten().count();
        let plural = if expected == 1 { "" } else { "s" };
        return Err(format!(
            "expected {expected} weight blob{plural}, found {found}"
        ));
    }
    let specs = graph.param_specs(&graph.nodes[node]);
    let specs = specs.map_err(|e| e.to_string())?;
    let mut matched = Vec::new();
    for (i, (spec, &blob)) in specs.iter().zip(&blobs).enumerate() {
        let Some(blob) = blob else { continue };
        let shape = &spec.shape;
        let flat = graph[params[i]].flat.then(|| flattened(shape));
        if !fits(shape, blob) && !flat.is_some_and(|flat| fits(&flat, blob)) {
            let found = describe(blob);
            return Err(format!(
                "weight blob {i}: expected shape {shape}, found {found}"
            ));
        }
        if blob.data.len() != shape.count() {
            let (expected, found) = (shape.count(), blob.data.len());
            return Err(format!(
                "weight blob {i}: expected {expected} numbers, found {found}"
            ));
        }
        matched.push((params[i], blob));
    }
    Ok(matched)
}

/// Whether the weights would suit an InnerProduct layer if its bottom had another height
/// and width.
fn for_another_size(graph: &Graph, node: usize, layer: &WeightLayer) -> bool {
    let node = &graph.nodes[node];
    let found = layer.blobs.first().and_then(Option::as_ref);
    let (Op::InnerProduct(_), Some(found)) = (&node.op, found) else {
        return false;
    };
    let (bottom, weights) = (
        graph.shape(node.bottoms[0]),
        graph[node.params[0]].spec.shape.clone(),
    );
    let [.., outputs, inputs] = found.shape[..] else {
        return false;
    };
    bottom.len() == 4
        && outputs == weights[0] as i64
        && inputs != weights[1] as i64
        && inputs % bottom[1] as i64 == 0
}

/// Whether parameter `index` of a node is shared with an earlier one.
fn owned_elsewhere(graph: &Graph, node: usize, index: usize) -> bool {
    let own = &graph.nodes[node].params;
    let earlier = graph.nodes[..node].iter().flat_map(|n| &n.params);
    earlier.chain(&own[..index]).any(|id| *id == own[index])
}

/// The first axis, and all others as one.
fn flattened(shape: &Shape) -> [usize; 2] {
    [shape[0], shape[1..].iter().product()]
}

/// Caffe `blob.cpp`, `ShapeEquals`: num × channels × height × width (in C3D with a length
/// among them) may have leading ones.
fn fits(shape: &[usize], blob: &WeightBlob) -> bool {
    let mut dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    if blob.legacy && dims.len() <= blob.shape.len() {
        let ones = vec![1; blob.shape.len() - dims.len()];
        dims = [ones, dims].concat();
    }
    dims == blob.shape
}

fn describe(blob: &WeightBlob) -> String {
    let dims: Vec<String> = blob.shape.iter().map(i64::to_string).collect();
    match (blob.legacy, dims.is_empty()) {
        (true, _) => {
            let length = if dims.len() == 5 { "length × " } else { "" };
            let axes = format!("num × channels × {length}height × width");
            format!("{} ({axes})", dims.join("×"))
        }
        (false, true) => "none".to_string(),
        (false, false) => dims.join("×"),
    }
}

fn is_missing(graph: &Graph, node: &Node) -> bool {
    node.params.iter().any(|&id| graph[id].data.is_none())
}

/// Errors: `Invalid`, naming the layers whose parameters have no data.
pub fn refuse(graph: &Graph) -> Result<()> {
    let missing = graph.nodes.iter().filter(|n| is_missing(graph, n));
    let names: Vec<String> = missing.map(|n| format!("`{}`", n.name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let (count, plural) = (names.len(), if names.len() == 1 { "" } else { "s" });
    let message = format!("no weights for {count} layer{plural}: {}", names.join(", "));
    let help = "with --allow-missing-weights they keep the values of their fillers";
    Err(Diagnostic::invalid(message).help(help).into())
}

fn fill_missing(graph: &mut Graph, seed: u64) -> Result<()> {
    let mut wrong = Vec::new();
    for param in graph.params.iter_mut().filter(|p| p.data.is_none()) {
        let stream = Stream::new(seed).derive(&param.layer, param.index);
        match fill(&param.spec, stream) {
            Ok(data) => param.data = Some(data),
            Err(d) => wrong.push(d.layer(&param.layer)),
        }
    }
    Errors::none_or(wrong, ())
}
