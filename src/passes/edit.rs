//! Merging nodes while keeping track of who makes and who reads each blob.

use crate::ir::{BlobId, Graph, Node};

/// Who makes and who wants each blob; nodes are named by their places.
pub struct Uses {
    producer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    output: Vec<bool>,
}

impl Uses {
    pub fn of(graph: &Graph) -> Uses {
        let mut uses = Uses {
            producer: vec![None; graph.blobs.len()],
            readers: vec![Vec::new(); graph.blobs.len()],
            output: vec![false; graph.blobs.len()],
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            for top in &node.tops {
                uses.producer[top.0 as usize] = Some(i);
            }
            uses.add_reader(i, node);
        }
        for blob in &graph.outputs {
            uses.output[blob.0 as usize] = true;
        }
        uses
    }

    fn add_reader(&mut self, i: usize, node: &Node) {
        for bottom in &node.bottoms {
            self.readers[bottom.0 as usize].push(i);
        }
    }

    fn remove_reader(&mut self, i: usize, node: &Node) {
        for bottom in &node.bottoms {
            self.readers[bottom.0 as usize].retain(|&r| r != i);
        }
    }

    /// The place of the node that makes `blob`; `None` for inputs.
    pub fn producer(&self, blob: BlobId) -> Option<usize> {
        self.producer[blob.0 as usize]
    }

    /// The place of the only node that reads `blob` (perhaps more than once), if
    /// nobody else wants it.
    pub fn sole_reader(&self, blob: BlobId) -> Option<usize> {
        let readers = &self.readers[blob.0 as usize];
        let first = *readers.first()?;
        let wanted = self.output[blob.0 as usize] || readers.iter().any(|&r| r != first);
        (!wanted).then_some(first)
    }
}

/// A graph under edit. Nodes keep their places until [`Editor::finish`].
pub struct Editor<'g> {
    pub graph: &'g mut Graph,
    pub uses: Uses,
    gone: Vec<bool>,
}

impl<'g> Editor<'g> {
    pub fn new(graph: &'g mut Graph) -> Self {
        Editor {
            uses: Uses::of(graph),
            gone: vec![false; graph.nodes.len()],
            graph,
        }
    }

    /// The node at place `i`, unless it was merged into another.
    pub fn node(&self, i: usize) -> Option<&Node> {
        (!self.gone[i]).then(|| &self.graph.nodes[i])
    }

    /// Node `from` disappears and node `into`, which comes later, does its work:
    /// `node` is what then stands in the place of `into`.
    pub fn merge(&mut self, from: usize, into: usize, mut node: Node) {
        let merged = [&self.graph.nodes[from], &self.graph.nodes[into]];
        node.layers = merged.iter().flat_map(|n| n.layers.clone()).collect();
        for place in [from, into] {
            self.uses.remove_reader(place, &self.graph.nodes[place]);
        }
        self.uses.add_reader(into, &node);
        self.gone[from] = true;
        self.graph.nodes[into] = node;
    }

    /// Takes merged nodes out of the list.
    pub fn finish(self) {
        let mut gone = self.gone.iter();
        self.graph.nodes.retain(|_| gone.next() == Some(&false));
        forget_names(self.graph);
    }
}

/// Drops names of blobs that no longer exist.
pub fn forget_names(graph: &mut Graph) {
    let mut exists = vec![false; graph.blobs.len()];
    let made = graph.nodes.iter().flat_map(|n| &n.tops);
    for blob in graph.inputs.iter().chain(made) {
        exists[blob.0 as usize] = true;
    }
    graph.names.retain(|_, blob| exists[blob.0 as usize]);
}
