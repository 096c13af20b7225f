//! Merging nodes while keeping track of who makes and who reads each blob.

use crate::ir::{BlobId, Graph, Node};

/// Who makes and who wants each blob; nodes are named by their places.
pub struct Uses {
    producer: Vec<Option<usize>>,
    /// As the graph was at first; what a merged node reads is the union of what its
    /// parts read.
    readers: Vec<Vec<usize>>,
    output: Vec<bool>,
    /// For each node the one that it was merged into, or itself.
    into: Vec<usize>,
}

impl Uses {
    pub fn of(graph: &Graph) -> Uses {
        let mut uses = Uses {
            producer: vec![None; graph.blobs.len()],
            readers: vec![Vec::new(); graph.blobs.len()],
            output: vec![false; graph.blobs.len()],
            into: (0..graph.nodes.len()).collect(),
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            for top in &node.tops {
                uses.producer[top.0 as usize] = Some(i);
            }
            for bottom in &node.bottoms {
                uses.readers[bottom.0 as usize].push(i);
            }
        }
        for blob in &graph.outputs {
            uses.output[blob.0 as usize] = true;
        }
        uses
    }

    /// The node that does the work of node `i` now.
    fn worker(&self, mut i: usize) -> usize {
        while self.into[i] != i {
            i = self.into[i];
        }
        i
    }

    /// The place of the node that makes `blob`; `None` for inputs.
    pub fn producer(&self, blob: BlobId) -> Option<usize> {
        self.producer[blob.0 as usize]
    }

    /// The place of the only node that reads `blob` (perhaps more than once), if
    /// nobody else wants it.
    pub fn sole_reader(&self, blob: BlobId) -> Option<usize> {
        let readers = &self.readers[blob.0 as usize];
        let first = self.worker(*readers.first()?);
        let others = readers.iter().any(|&r| self.worker(r) != first);
        (!others && !self.output[blob.0 as usize]).then_some(first)
    }
}

/// A graph under edit. Nodes keep their places until [`Editor::finish`].
pub struct Editor<'g> {
    pub graph: &'g mut Graph,
    pub uses: Uses,
}

impl<'g> Editor<'g> {
    pub fn new(graph: &'g mut Graph) -> Self {
        Editor {
            uses: Uses::of(graph),
            graph,
        }
    }

    /// The node at place `i`, unless it was merged into another.
    pub fn node(&self, i: usize) -> Option<&Node> {
        (self.uses.into[i] == i).then(|| &self.graph.nodes[i])
    }

    /// The nodes `parts`, in this order, become `node`, which stands in the place of the
    /// last one.
    pub fn merge(&mut self, parts: &[usize], mut node: Node) {
        let into = parts[parts.len() - 1];
        // Moved, not copied: a run may be as long as the net.
        node.layers = std::mem::take(&mut self.graph.nodes[parts[0]].layers);
        for &part in &parts[1..] {
            let layers = &mut self.graph.nodes[part].layers;
            node.layers.append(layers);
        }
        for &part in parts {
            self.uses.into[part] = into;
        }
        self.graph.nodes[into] = node;
    }

    /// Takes merged nodes out of the list.
    pub fn finish(self) {
        let mut places = self.uses.into.iter().enumerate();
        let stays = |(i, into): (usize, &usize)| i == *into;
        self.graph
            .nodes
            .retain(|_| places.next().is_some_and(stays));
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
