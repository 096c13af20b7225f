//! Nodes none of whose tops are read or asked for disappear.

use super::edit::forget_names;
use crate::ir::Graph;

pub fn run(graph: &mut Graph) {
    let mut needed = vec![false; graph.blobs.len()];
    for blob in &graph.outputs {
        needed[blob.0 as usize] = true;
    }
    let mut live = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        live[i] = node.tops.iter().any(|t| needed[t.0 as usize]);
        if live[i] {
            for bottom in &node.bottoms {
                needed[bottom.0 as usize] = true;
            }
        }
    }
    let mut live = live.into_iter();
    graph.nodes.retain(|_| live.next() == Some(true));
    forget_names(graph);
}
