//! What holds between passes beyond [`Graph::verify`].
//!
//! * Epilogues belong to nodes with output channels and have one constant for each.
//! * `Op::Pointwise` reads bottoms in the shape that it reads them by; its constants
//!   fit; functions are only at the root.
//! * Chains are runs of neighbouring nodes, each the only reader of the one before.
//!
//! What it finds is our mistake, never the user's.

use super::edit::Uses;
use crate::ir::{Activation, Graph, Node, NodeId, Pointwise};
use crate::layers::Op;

/// Errors: the first broken promise, in words.
pub fn verify(graph: &Graph) -> Result<(), String> {
    graph.verify()?;
    for node in &graph.nodes {
        let wrong = |what: String| format!("node `{}`: {what}", node.name);
        epilogue(graph, node).map_err(wrong)?;
        if let Op::Pointwise(expr) = &node.op {
            require(!expr.parts().iter().any(|p| p.has_function()), || {
                wrong("a function inside an expression".to_string())
            })?;
            reads(graph, node, expr).map_err(wrong)?;
        }
    }
    let uses = Uses::of(graph);
    graph.chains.iter().try_for_each(|c| chain(graph, &uses, c))
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
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
        require(values.len() == channels, || {
            format!("{} constants for {channels} channels", values.len())
        })?;
    }
    Ok(())
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

fn chain(graph: &Graph, uses: &Uses, chain: &[NodeId]) -> Result<(), String> {
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
