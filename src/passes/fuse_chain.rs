//! Finds runs of convolution → 1×1 convolution → … that may become one tiled loop
//! nest, because each is the only reader of the one before, and puts the nodes of
//! each run side by side, where the last one stood.
//!
//! Legality only: lowering decides whether a chain pays.

use super::edit::Uses;
use crate::ir::{Graph, Node, NodeId};
use crate::layers::Op;
use crate::layers::convolution::Geometry;

pub fn run(graph: &mut Graph) {
    let runs = runs(graph);
    let mut run_of: Vec<Option<&Vec<usize>>> = vec![None; graph.nodes.len()];
    for run in &runs {
        for &i in run {
            run_of[i] = Some(run);
        }
    }
    let mut order = Vec::with_capacity(graph.nodes.len());
    for (i, run) in run_of.iter().enumerate() {
        match run {
            None => order.push(i),
            Some(run) if run.last() == Some(&i) => {
                let ids = order.len()..order.len() + run.len();
                graph.chains.push(ids.map(|i| NodeId(i as u32)).collect());
                order.extend(run.iter());
            }
            Some(_) => {}
        }
    }
    let mut nodes: Vec<Option<Node>> = graph.nodes.drain(..).map(Some).collect();
    graph.nodes = order.iter().filter_map(|&i| nodes[i].take()).collect();
}

/// Places of the nodes of each run of two or more.
fn runs(graph: &Graph) -> Vec<Vec<usize>> {
    let uses = Uses::of(graph);
    let mut in_run = vec![false; graph.nodes.len()];
    let mut runs = Vec::new();
    for i in 0..graph.nodes.len() {
        if in_run[i] || convolution(graph, &graph.nodes[i]).is_none() {
            continue;
        }
        let mut run = vec![i];
        while let Some(next) = next(graph, &uses, run[run.len() - 1]) {
            run.push(next);
        }
        if run.len() > 1 {
            run.iter().for_each(|&i| in_run[i] = true);
            runs.push(run);
        }
    }
    runs
}

/// The 1×1 convolution that alone reads the result of node `i`.
fn next(graph: &Graph, uses: &Uses, i: usize) -> Option<usize> {
    let top = graph.nodes[i].tops[0];
    let next = uses.sole_reader(top)?;
    let reader = &graph.nodes[next];
    let residual = reader.epilogue.residual && reader.bottoms.last() == Some(&top);
    let geometry = convolution(graph, reader)?;
    (!residual && is_1x1(&geometry)).then_some(next)
}

/// The sizes of a 2-D convolution of one blob.
fn convolution(graph: &Graph, node: &Node) -> Option<Geometry> {
    node.channels(graph)?;
    match &node.op {
        Op::Convolution(c) => {
            let geometry = c.geometry(graph.shape(node.bottoms[0]));
            (geometry.kernel.len() == 2).then_some(geometry)
        }
        _ => None,
    }
}

fn is_1x1(g: &Geometry) -> bool {
    let all = |values: &[usize], wanted| values.iter().all(|&v| v == wanted);
    let same = g.input == g.output && all(&g.pad, 0);
    g.group == 1 && all(&g.kernel, 1) && all(&g.stride, 1) && same
}
