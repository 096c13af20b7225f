//! What lowering chooses among the ways to compute convolutions, asked once for a graph:
//! what was measured ([`Tuning`](super::Tuning)) goes before what the models say.

use super::chain::{self, Run};
use super::conv::{Conv, describe};
use super::winograd::{self, Winograd};
use super::{Chains, Convolutions, Options};
use crate::ir::{BlobId, Graph, NodeId};
use crate::layers::Op;
use std::collections::HashMap;

/// The choices for a graph.
pub struct Choices {
    /// Convolutions that are computed by Winograd's algorithm, by their tops.
    winograd: Vec<Option<(Conv, Winograd)>>,
    /// All nodes in order, those that become one loop nest together, at the place of the
    /// last of them.
    pub runs: Vec<Run>,
    /// How each chain was cut, and why.
    pub chains: Vec<String>,
}

/// A choice that can be decided by measuring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about, with all shapes.
    pub key: String,
    /// All ways, that of the model first.
    pub ways: Vec<String>,
    /// Layers of the nodes that it is about.
    pub nodes: Vec<Vec<String>>,
}

/// The convolutions of a graph, each with the node that it belongs to.
fn convolutions(graph: &Graph) -> impl Iterator<Item = (NodeId, Conv)> {
    let ids = (0..graph.nodes.len() as u32).map(NodeId);
    let layers = ids.filter_map(|id| match &graph[id].op {
        Op::Convolution(layer) => Some((id, layer)),
        _ => None,
    });
    layers.flat_map(move |(id, layer)| {
        let node = &graph[id];
        (0..node.tops.len()).map(move |i| (id, layer.conv(graph, node, i)))
    })
}

fn key(graph: &Graph, conv: &Conv) -> String {
    describe("convolution", graph, conv)
}

fn name(way: &Option<Winograd>) -> String {
    way.map_or("direct".to_string(), |w| w.to_string())
}

/// The ways that a convolution can be computed, that of the model first.
fn ways(graph: &Graph, options: &Options, conv: &Conv) -> Vec<Option<Winograd>> {
    let mut ways = winograd::ways(graph, options, conv);
    ways.sort_by(|a, b| a.0.total_cmp(&b.0));
    ways.into_iter().map(|(_, way)| way).collect()
}

/// Whether measuring may decide.
fn asks(options: &Options) -> [bool; 2] {
    [
        options.convolutions == Convolutions::WhereItPays,
        options.chains == Chains::WhereItPays,
    ]
}

/// The way that was found for a question, if there is such a way.
fn found<T>(
    options: &Options,
    key: &str,
    ways: impl FnOnce() -> Vec<T>,
    name: impl Fn(&T) -> String,
) -> Option<T> {
    let found = options.tuning.get(key)?;
    ways().into_iter().find(|way| name(way) == *found)
}

fn chain_key(graph: &Graph, chain: &[NodeId]) -> String {
    let keys = chain.iter().map(|&id| match chain::conv(graph, id) {
        Some(conv) => key(graph, &conv),
        None => graph[id].op.type_name().to_string(),
    });
    keys.collect::<Vec<_>>().join(" → ")
}

/// Numbers of nodes of the runs, with the rows of those of several.
fn cut_name(runs: &[Run]) -> String {
    let one = |run: &Run| match run.nodes.len() {
        1 => "1".to_string(),
        n => format!("{n} by {} rows", run.rows),
    };
    runs.iter().map(one).collect::<Vec<_>>().join(" + ")
}

impl Choices {
    pub fn new(graph: &Graph, options: &Options) -> Choices {
        let mut choices = Choices {
            winograd: vec![None; graph.blobs.len()],
            runs: Vec::new(),
            chains: Vec::new(),
        };
        // Keys and lists of ways cost time, which only a net that was tuned pays.
        let [tuned, tuned_chains] = asks(options).map(|ask| ask && !options.tuning.is_empty());
        for (_, conv) in convolutions(graph) {
            let ways = ways(graph, options, &conv);
            let way = match tuned {
                true => found(options, &key(graph, &conv), || ways.clone(), name),
                false => None,
            };
            let place = conv.dst.0 as usize;
            choices.winograd[place] = way.unwrap_or(ways[0]).map(|w| (conv, w));
        }
        let mut run_of: HashMap<NodeId, Option<Run>> = HashMap::new();
        for chain in &graph.chains {
            let cuts = || choices.cuts(graph, options, chain);
            let runs = match tuned_chains {
                true => found(options, &chain_key(graph, chain), cuts, |cut| cut_name(cut)),
                false => None,
            };
            let runs = runs.unwrap_or_else(|| choices.cut(graph, options, chain));
            choices.chains.push(choices.explain(graph, &runs));
            for run in runs.into_iter().filter(|run| run.nodes.len() > 1) {
                for &id in &run.nodes {
                    choices.winograd[graph[id].tops[0].0 as usize] = None;
                    run_of.insert(id, None);
                }
                run_of.insert(*run.nodes.last().expect("several"), Some(run));
            }
        }
        let ids = (0..graph.nodes.len() as u32).map(NodeId);
        let run = |id| match run_of.remove(&id) {
            Some(run) => run,
            None => Some(Run::of_one(id)),
        };
        choices.runs = ids.filter_map(run).collect();
        choices
    }

    /// The convolution into a blob, if it is computed by Winograd's algorithm.
    pub fn winograd(&self, top: BlobId) -> Option<&(Conv, Winograd)> {
        self.winograd[top.0 as usize].as_ref()
    }

    fn uses_winograd(&self, graph: &Graph, id: NodeId) -> bool {
        self.winograd(graph[id].tops[0]).is_some()
    }

    /// A chain in runs, by the model.
    fn cut(&self, graph: &Graph, options: &Options, chain: &[NodeId]) -> Vec<Run> {
        chain::cut(graph, chain, options.chains, |id| {
            self.uses_winograd(graph, id)
        })
    }

    /// All ways to cut a chain, that of the model first.
    fn cuts(&self, graph: &Graph, options: &Options, chain: &[NodeId]) -> Vec<Vec<Run>> {
        let model = self.cut(graph, options, chain);
        let mut cuts = chain::cuts(graph, chain);
        cuts.retain(|cut| cut_name(cut) != cut_name(&model));
        cuts.insert(0, model);
        cuts
    }

    fn explain(&self, graph: &Graph, runs: &[Run]) -> String {
        let mut text = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            if let Some(together) = chain::explain(graph, run) {
                text.push(together);
            }
            if let Some(next) = runs.get(i + 1) {
                let winograd = run.nodes.len() == 1 && self.uses_winograd(graph, run.nodes[0]);
                text.push(chain::explain_cut(graph, run, next, winograd));
            }
        }
        text.join("; ")
    }
}

/// What can be measured in a graph under these options.
pub fn questions(graph: &Graph, options: &Options) -> Vec<Question> {
    let choices = Choices::new(graph, options);
    let [ask, ask_chains] = asks(options);
    let mut questions: Vec<Question> = Vec::new();
    let mut add = |key: String, mut ways: Vec<String>, layers: Vec<Vec<String>>| {
        let mut seen = std::collections::HashSet::new();
        ways.retain(|way| seen.insert(way.clone()));
        if ways.len() < 2 {
            return;
        }
        match questions.iter_mut().find(|q| q.key == key) {
            Some(same) => same.nodes.extend(layers),
            None => questions.push(Question {
                key,
                ways,
                nodes: layers,
            }),
        }
    };
    if ask {
        for (id, conv) in convolutions(graph) {
            let ways = ways(graph, options, &conv).iter().map(name).collect();
            add(key(graph, &conv), ways, vec![graph[id].layers.clone()]);
        }
    }
    if ask_chains {
        for chain in &graph.chains {
            let cuts = choices.cuts(graph, options, chain);
            let ways = cuts.iter().map(|cut| cut_name(cut)).collect();
            let layers = chain.iter().map(|&id| graph[id].layers.clone()).collect();
            add(chain_key(graph, chain), ways, layers);
        }
    }
    questions
}
