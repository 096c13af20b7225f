//! Checks that a graph between passes keeps the promises of [`Graph`] and of this
//! module. What it finds is our mistake, never the user's.
//!
//! * Inputs and tops are made once, and before they are read; outputs and names
//!   stand for blobs that exist.
//! * Epilogues belong to nodes with output channels and have one constant for each;
//!   a residual is the last bottom and has the top's shape.
//! * `Op::Pointwise` has one top, no parameters, and reads bottoms it has, in the
//!   shape it reads them; functions are only at the root.
//! * Chains are runs of neighbouring nodes, each the only reader of the one before.

use super::edit::Uses;
use crate::ir::{Activation, BlobId, Graph, Node, NodeId, Pointwise};
use crate::layers::Op;

/// Errors: the first broken promise, in words.
pub fn verify(graph: &Graph) -> Result<(), String> {
    let mut made = vec![false; graph.blobs.len()];
    for &input in &graph.inputs {
        make(&mut made, input)?;
    }
    for node in &graph.nodes {
        let wrong = |what: String| format!("node `{}`: {what}", node.name);
        for bottom in &node.bottoms {
            require(made[bottom.0 as usize], || {
                format!("reads {bottom} before it is made")
            })
            .map_err(wrong)?;
        }
        for &top in &node.tops {
            make(&mut made, top).map_err(wrong)?;
        }
        epilogue(graph, node).map_err(wrong)?;
        if let Op::Pointwise(expr) = &node.op {
            pointwise(graph, node, expr).map_err(wrong)?;
        }
    }
    for blob in graph.outputs.iter().chain(graph.names.values()) {
        require(made[blob.0 as usize], || format!("nobody makes {blob}"))?;
    }
    graph.chains.iter().try_for_each(|c| chain(graph, c))
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn make(made: &mut [bool], blob: BlobId) -> Result<(), String> {
    let before = std::mem::replace(&mut made[blob.0 as usize], true);
    require(!before, || format!("{blob} is made twice"))
}

fn epilogue(graph: &Graph, node: &Node) -> Result<(), String> {
    let e = &node.epilogue;
    if e.is_empty() {
        return Ok(());
    }
    let channels = node.channels(graph).ok_or("takes no epilogue")?;
    let slopes = match &e.activation {
        Some(Activation::PRelu { slopes }) => Some(slopes),
        Some(Activation::Relu { .. }) | None => None,
    };
    for values in [&e.scale, &e.shift].into_iter().flatten().chain(slopes) {
        require(values.len() == channels.count, || {
            let (values, channels) = (values.len(), channels.count);
            format!("{values} constants for {channels} channels")
        })?;
    }
    let last = node.bottoms.last().map(|&b| graph.shape(b));
    require(!e.residual || last == Some(graph.shape(node.tops[0])), || {
        "the residual has another shape".to_string()
    })
}

fn pointwise(graph: &Graph, node: &Node, expr: &Pointwise) -> Result<(), String> {
    require(node.tops.len() == 1 && node.params.is_empty(), || {
        "a Pointwise has one top and no parameters".to_string()
    })?;
    require(!expr.parts().iter().any(|p| p.has_function()), || {
        "a function inside an expression".to_string()
    })?;
    reads(graph, node, expr)
}

/// Checks every read and constant of `expr`.
fn reads(graph: &Graph, node: &Node, expr: &Pointwise) -> Result<(), String> {
    let top = graph.shape(node.tops[0]);
    let bottom = |n: usize| node.bottoms.get(n).map(|&b| graph.shape(b));
    let fits = match expr {
        Pointwise::Bottom(n) => bottom(*n) == Some(top),
        Pointwise::BottomAt { bottom: n, axis } => {
            bottom(*n).is_some_and(|small| top[(*axis).min(top.len())..].starts_with(small))
        }
        Pointwise::Broadcast(b) => top
            .get(b.axis..b.axis + b.axes)
            .is_some_and(|dims| dims.iter().product::<usize>() == b.values.len()),
        _ => true,
    };
    require(fits, || format!("{expr:?} does not fit a top of {top}"))?;
    expr.parts().iter().try_for_each(|p| reads(graph, node, p))
}

fn chain(graph: &Graph, chain: &[NodeId]) -> Result<(), String> {
    let uses = Uses::of(graph);
    for pair in chain.windows(2) {
        let follows = pair[1].0 == pair[0].0 + 1;
        let top = graph[pair[0]].tops[0];
        require(
            follows && uses.sole_reader(top) == Some(pair[1].0 as usize),
            || format!("{} and {} are no chain", pair[0], pair[1]),
        )?;
    }
    Ok(())
}
