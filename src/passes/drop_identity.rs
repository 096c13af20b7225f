//! Layers that change neither values nor shape disappear; their readers read their
//! bottom. A top that the caller asked for is written by a copy instead, since it
//! is a blob of its own with its own name.

use crate::ir::{BlobId, Graph, Node, Pointwise};
use crate::layers::Op;
use std::collections::HashSet;

pub fn run(graph: &mut Graph) {
    let mut stands_for: Vec<BlobId> = (0..graph.blobs.len() as u32).map(BlobId).collect();
    let outputs: HashSet<BlobId> = graph.outputs.iter().copied().collect();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for mut node in std::mem::take(&mut graph.nodes) {
        for bottom in &mut node.bottoms {
            *bottom = stands_for[bottom.0 as usize];
        }
        if !is_identity(graph, &node) {
            nodes.push(node);
            continue;
        }
        for &top in &node.tops {
            if outputs.contains(&top) {
                nodes.push(copy(&node, top));
            } else {
                stands_for[top.0 as usize] = node.bottoms[0];
            }
        }
    }
    graph.nodes = nodes;
    for blob in graph.names.values_mut() {
        *blob = stands_for[blob.0 as usize];
    }
}

/// Whether every top has the values and the shape of the first bottom.
fn is_identity(graph: &Graph, node: &Node) -> bool {
    let same_values = match &node.op {
        Op::Pointwise(expr) => *expr == Pointwise::Bottom(0),
        op => op.is_view() && node.bottoms.len() == 1,
    };
    let shape = |b: &BlobId| graph.shape(*b);
    same_values
        && node
            .tops
            .iter()
            .all(|t| shape(t) == shape(&node.bottoms[0]))
}

fn copy(node: &Node, top: BlobId) -> Node {
    Node {
        op: Op::Pointwise(Pointwise::Bottom(0)),
        bottoms: vec![node.bottoms[0]],
        tops: vec![top],
        ..node.clone()
    }
}
