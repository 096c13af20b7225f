//! The reference engine: each node by its layer's naive loops, in order.

use super::{Activation, BlobId, Epilogue, FloatData, Graph, Node, Tensor, room};
use crate::diag::{Diagnostic, Result};
use std::collections::BTreeMap;

/// What the layers of a net keep from one forward pass to the next.
#[derive(Clone, Debug, Default)]
pub struct State(BTreeMap<usize, Vec<Tensor>>);

/// Runs the net on `inputs`, in the order of `graph.inputs`, and gives the blobs
/// `wanted`, as the first forward pass. A blob is freed after its last reader.
///
/// Errors: `Invalid` for inputs of the wrong number or shape, or parameters without
/// data.
pub fn run(graph: &Graph, inputs: &[Tensor], wanted: &[BlobId]) -> Result<Vec<Tensor>> {
    run_on(graph, &mut State::default(), inputs, wanted)
}

/// As [`run`], after the forward passes that `state` has seen.
pub fn run_on(
    graph: &Graph,
    state: &mut State,
    inputs: &[Tensor],
    wanted: &[BlobId],
) -> Result<Vec<Tensor>> {
    let mut left = vec![0usize; graph.blobs.len()];
    let reads = graph.nodes.iter().flat_map(|n| &n.bottoms);
    for blob in reads.chain(wanted) {
        left[blob.0 as usize] += 1;
    }
    room(
        graph
            .inputs
            .iter()
            .chain(wanted)
            .map(|&b| graph.shape(b).count()),
    )?;
    let mut values: Vec<Option<Tensor>> = vec![None; graph.blobs.len()];
    for (&blob, tensor) in graph.inputs.iter().zip(checked(graph, inputs)?) {
        values[blob.0 as usize] = Some(tensor.clone());
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let tops = run_node(graph, node, &values, state.0.entry(i).or_default())?;
        for (&top, tensor) in node.tops.iter().zip(tops) {
            values[top.0 as usize] = (left[top.0 as usize] > 0).then_some(tensor);
        }
        for &bottom in &node.bottoms {
            left[bottom.0 as usize] -= 1;
            if left[bottom.0 as usize] == 0 {
                values[bottom.0 as usize] = None;
            }
        }
    }
    let take = |blob: &BlobId| values[blob.0 as usize].clone();
    Ok(wanted
        .iter()
        .map(|b| take(b).expect("a valid graph makes every blob"))
        .collect())
}

fn checked<'a>(graph: &Graph, inputs: &'a [Tensor]) -> Result<&'a [Tensor]> {
    if inputs.len() != graph.inputs.len() {
        let message = format!(
            "{} inputs for a net of {}",
            inputs.len(),
            graph.inputs.len()
        );
        return Err(Diagnostic::invalid(message).into());
    }
    for (&blob, tensor) in graph.inputs.iter().zip(inputs) {
        let (name, shape) = (&graph[blob].name, &graph[blob].shape);
        if tensor.shape != *shape {
            let message = format!("input `{name}` is {shape}, not {}", tensor.shape);
            return Err(Diagnostic::invalid(message).into());
        }
    }
    Ok(inputs)
}

fn run_node(
    graph: &Graph,
    node: &Node,
    values: &[Option<Tensor>],
    state: &mut Vec<Tensor>,
) -> Result<Vec<Tensor>> {
    let bottoms: Vec<&Tensor> = node
        .bottoms
        .iter()
        .map(|b| values[b.0 as usize].as_ref().expect("written before read"))
        .collect();
    let (own, residual) = match node.epilogue.residual {
        true => (&bottoms[..bottoms.len() - 1], bottoms.last().copied()),
        false => (&bottoms[..], None),
    };
    let made = node.tops.iter().map(|&top| graph.shape(top).count());
    let data = node.params.iter().filter_map(|&id| graph[id].data.as_ref());
    room(made.chain(data.map(FloatData::len)))?;
    let params = params(graph, node)?;
    let params: Vec<&Tensor> = params.iter().collect();
    let zeros = |&top: &BlobId| Tensor::zeros(graph.shape(top).clone());
    let mut tops: Vec<Tensor> = node.tops.iter().map(zeros).collect();
    if state.is_empty() {
        let kept = node.op.state(&graph.bottom_shapes(node));
        state.extend(kept.into_iter().map(Tensor::zeros));
    }
    tops.append(state);
    let done = node.op.reference(own, &params, &mut tops);
    done.map_err(|fault| Diagnostic::invalid(fault).layer(&node.name).at(node.at))?;
    *state = tops.split_off(node.tops.len());
    if !node.epilogue.is_empty() {
        finish(&node.epilogue, residual, &mut tops[0]);
    }
    Ok(tops)
}

/// The node's parameters in the shapes that its layer expects; sharing may have given
/// them another one.
///
/// Errors: `Invalid` if one has no data.
pub fn params(graph: &Graph, node: &Node) -> Result<Vec<Tensor>> {
    let specs = graph.param_specs(node)?;
    let pairs = node.params.iter().zip(specs);
    pairs
        .map(|(&id, spec)| {
            let data = graph[id].data.as_ref().ok_or_else(|| {
                let message = format!("parameter blob {} has no values", graph[id].index);
                Diagnostic::invalid(message).layer(&graph[id].layer)
            })?;
            Ok(Tensor::new(spec.shape, data.floats().into_owned()))
        })
        .collect()
}

/// What [`Epilogue`] says, channel being axis 1.
fn finish(epilogue: &Epilogue, residual: Option<&Tensor>, top: &mut Tensor) {
    let inner = top.shape.count_of(2.min(top.shape.len())..top.shape.len());
    let channels = top.shape.get(1).copied().unwrap_or(1);
    for (i, y) in top.data.iter_mut().enumerate() {
        let channel = i / inner % channels;
        if let Some(scale) = &epilogue.scale {
            *y *= scale[channel];
        }
        if let Some(shift) = &epilogue.shift {
            *y += shift[channel];
        }
        if let Some(residual) = residual {
            *y += residual.data[i];
        }
        let slope = match &epilogue.activation {
            None => continue,
            Some(Activation::Relu { slope }) => *slope,
            Some(Activation::PRelu { slopes }) => slopes[channel],
        };
        let positive = if *y < 0.0 { 0.0 } else { *y };
        let negative = if 0.0 < *y { 0.0 } else { *y };
        *y = positive + slope * negative;
    }
}
