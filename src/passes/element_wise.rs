//! Every element-wise layer becomes an `Op::Pointwise` node with its parameters
//! baked in. A function inside an expression becomes a node of its own, because
//! functions run as leaves on whole blobs. An Eltwise of very many bottoms becomes
//! several nodes, each of which goes on where the one before it stopped.

use super::expr::compact;
use crate::ir::{Blob, BlobId, Graph, Node, Pointwise, Tensor, WIDEST, reference};
use crate::layers::Op;
use crate::layers::eltwise::Eltwise;

pub fn run(graph: &mut Graph) {
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes) {
        match (expression(graph, &node), &node.op) {
            (Some(expr), _) => split(graph, &node, expr, &mut nodes),
            (None, Op::Eltwise(eltwise)) => in_parts(graph, &node, eltwise, &mut nodes),
            (None, _) => nodes.push(node),
        }
    }
    graph.nodes = nodes;
}

fn expression(graph: &Graph, node: &Node) -> Option<Pointwise> {
    // Weights of matrix products are big and cannot be element-wise.
    if node.is_product() {
        return None;
    }
    let params = reference::params(graph, node).expect("all parameters have data");
    let params: Vec<&Tensor> = params.iter().collect();
    node.pointwise(graph, &params)
}

fn in_parts(graph: &mut Graph, node: &Node, eltwise: &Eltwise, nodes: &mut Vec<Node>) {
    let count = node.bottoms.len();
    let mut before = None;
    for first in (0..count).step_by(WIDEST) {
        let end = count.min(first + WIDEST);
        let mut bottoms = node.bottoms.clone();
        bottoms.extend(before);
        let result = before.map(|_| Pointwise::Bottom(count));
        let expr = eltwise.fold(result, first..end);
        let top = match end == count {
            true => node.tops[0],
            false => new_blob(graph, node),
        };
        nodes.push(pointwise(node, expr, &bottoms, top));
        before = Some(top);
    }
}

/// Another blob like the node's top.
fn new_blob(graph: &mut Graph, node: &Node) -> BlobId {
    let blob = BlobId(graph.blobs.len() as u32);
    let like: &Blob = &graph[node.tops[0]];
    graph.blobs.push(like.clone());
    blob
}

fn split(graph: &mut Graph, node: &Node, mut expr: Pointwise, nodes: &mut Vec<Node>) {
    let mut bottoms = node.bottoms.clone();
    for part in expr.parts_mut() {
        hoist(graph, node, part, &mut bottoms, nodes);
    }
    nodes.push(pointwise(node, expr, &bottoms, node.tops[0]));
}

/// Moves functions in `expr`, innermost first, to nodes before this one.
fn hoist(
    graph: &mut Graph,
    node: &Node,
    expr: &mut Pointwise,
    bottoms: &mut Vec<BlobId>,
    nodes: &mut Vec<Node>,
) {
    for part in expr.parts_mut() {
        hoist(graph, node, part, bottoms, nodes);
    }
    if expr.is_function() {
        let blob = new_blob(graph, node);
        let place = Pointwise::Bottom(bottoms.len());
        let function = std::mem::replace(expr, place);
        nodes.push(pointwise(node, function, bottoms, blob));
        bottoms.push(blob);
    }
}

fn pointwise(node: &Node, mut expr: Pointwise, bottoms: &[BlobId], top: BlobId) -> Node {
    let bottoms = compact(&mut expr, bottoms, node.bottoms[0]);
    Node {
        op: Op::Pointwise(expr),
        bottoms,
        tops: vec![top],
        params: Vec::new(),
        ..node.clone()
    }
}
