//! Nodes, blobs and parameters, named by typed ids.

use super::{FloatData, Shape, Tensor};
use crate::diag::Span;
use crate::frontend::proto::FillerParameter;
use crate::layers::Op;
use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}
id!(
    /// A blob of a [`Graph`].
    BlobId,
    "%"
);
id!(
    /// A parameter blob of a [`Graph`].
    ParamId,
    "@"
);
id!(
    /// A place in [`Graph::nodes`].
    NodeId,
    "n"
);

/// A net with fixed phase and shapes.
///
/// * `nodes` are in the order in which they run; a blob is made by at most one
///   node, before every node that reads it, or is an input.
/// * A Caffe layer that works in place makes a new blob of the same name; `names`
///   tells which blob a name stands for after the whole forward pass.
#[derive(Clone, Debug)]
pub struct Graph {
    pub name: String,
    pub nodes: Vec<Node>,
    pub blobs: Vec<Blob>,
    pub params: Vec<Param>,
    pub inputs: Vec<BlobId>,
    /// Values of inputs where the caller feeds nothing (Caffe's `DummyData`).
    pub defaults: BTreeMap<BlobId, FloatData>,
    /// Blobs that the caller gets, in Caffe's order (alphabetical), then those asked
    /// for by name, then the counts of both.
    pub outputs: Vec<BlobId>,
    pub names: BTreeMap<String, BlobId>,
    /// Runs of nodes that lowering may put into one tiled loop nest, each node the
    /// only reader of the one before.
    pub chains: Vec<Vec<NodeId>>,
}

#[derive(Clone, Debug)]
pub struct Node {
    /// The Caffe layer's name.
    pub name: String,
    pub op: Op,
    /// The layer's bottoms, then `counts` blobs that count elements of them, then
    /// a residual.
    pub bottoms: Vec<BlobId>,
    pub counts: usize,
    /// The layer's tops, then the count of their elements if it makes one.
    pub tops: Vec<BlobId>,
    pub params: Vec<ParamId>,
    /// What passes have merged into a convolution or inner product.
    pub epilogue: Epilogue,
    /// Names of all Caffe layers that this node computes, in order; its own first
    /// unless passes merged others in front.
    pub layers: Vec<String>,
    /// The layer's place in the prototxt.
    pub at: Option<Span>,
}

#[derive(Clone, Debug)]
pub struct Blob {
    pub name: String,
    pub shape: Shape,
    /// Where the data says how many elements there are along an axis, of which `shape`
    /// tells the most.
    pub count: Option<Count>,
}

/// How many elements a blob has along an axis: the first so many there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub axis: usize,
    /// Of one element; has no name in the net.
    pub blob: BlobId,
}

/// What a layer wants to learn: shape and initial values of one parameter blob.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    pub shape: Shape,
    /// Caffe's filler, where the layer has one; otherwise the constant 0.
    pub filler: FillerParameter,
}

/// A parameter blob. Layers that share one by name share its id.
#[derive(Clone, Debug)]
pub struct Param {
    /// The layer that owns it, and which of its blobs it is.
    pub layer: String,
    pub index: usize,
    pub spec: ParamSpec,
    /// Weights of a convolution that was an InnerProduct layer: files have them as
    /// outputs × inputs.
    pub flat: bool,
    /// Missing until weights are assigned.
    pub data: Option<FloatData>,
}

/// What happens to a convolution's (deconvolution's, inner product's) result before
/// it is stored: `activation(scale·x + shift + residual)`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epilogue {
    /// Per output channel; multiplied into the weights (and the layer's own bias)
    /// in f64 when they are packed.
    pub scale: Option<Arc<[f32]>>,
    /// Per output channel, after the scale.
    pub shift: Option<Arc<[f32]>>,
    /// A blob of the top's shape; also the node's last bottom.
    pub residual: bool,
    pub activation: Option<Activation>,
}

/// `max(x, 0) + slope·min(x, 0)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    Relu { slope: f32 },
    PRelu { slopes: Arc<[f32]> },
}

impl Epilogue {
    pub fn is_empty(&self) -> bool {
        *self == Epilogue::default()
    }
}

impl Graph {
    /// The node that makes `blob`; `None` for inputs.
    pub fn producer(&self, blob: BlobId) -> Option<NodeId> {
        let index = self.nodes.iter().position(|n| n.tops.contains(&blob))?;
        Some(NodeId(index as u32))
    }

    /// For each blob, the nodes that read it (a node twice if it reads it twice).
    pub fn readers(&self) -> Vec<Vec<NodeId>> {
        let mut readers = vec![Vec::new(); self.blobs.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for bottom in &node.bottoms {
                readers[bottom.0 as usize].push(NodeId(i as u32));
            }
        }
        readers
    }

    pub fn shape(&self, blob: BlobId) -> &Shape {
        &self[blob].shape
    }

    /// The outputs without the counts of others.
    pub fn shown_outputs(&self) -> &[BlobId] {
        let counts: Vec<BlobId> = self.output_counts().collect();
        let hidden = |blob: &&BlobId| counts.contains(blob);
        let hidden = self.outputs.iter().rev().take_while(hidden).count();
        &self.outputs[..self.outputs.len() - hidden]
    }

    /// Counts of outputs, perhaps several times.
    pub(super) fn output_counts(&self) -> impl Iterator<Item = BlobId> {
        let counts = self.outputs.iter().filter_map(|&b| self[b].count);
        counts.map(|count| count.blob)
    }

    /// How the shown outputs are cut out of all.
    pub fn shown(&self) -> Shown {
        let shown = self.shown_outputs().iter();
        let place = |blob| self.outputs.iter().position(|&b| b == blob);
        let cut = |&blob: &BlobId| {
            let count = self[blob].count?;
            let place = place(count.blob).expect("counts of outputs are outputs");
            Some((count.axis, place))
        };
        Shown(shown.map(cut).collect())
    }

    /// The shape that Caffe gives the blob before the net runs: where the data says how
    /// many elements there are along an axis, one.
    pub fn setup_shape(&self, blob: BlobId) -> Vec<usize> {
        let mut dims = self.shape(blob).to_vec();
        if let Some(count) = self[blob].count {
            dims[count.axis] = 1;
        }
        dims
    }

    /// Shapes of a node's bottoms, in order.
    pub fn bottom_shapes(&self, node: &Node) -> Vec<Shape> {
        node.bottoms
            .iter()
            .map(|&b| self.shape(b).clone())
            .collect()
    }
}

/// For each shown output, the axis along which it has as many elements as another output
/// says.
#[derive(Clone, Debug)]
pub struct Shown(Vec<Option<(usize, usize)>>);

impl Shown {
    /// The shown ones of the values of all outputs, with the elements that count.
    pub fn of(&self, outputs: &[Tensor]) -> Vec<Tensor> {
        let cut = |(count, tensor): (&Option<(usize, usize)>, &Tensor)| match *count {
            None => tensor.clone(),
            Some((axis, place)) => tensor.first(axis, outputs[place].data[0] as usize),
        };
        self.0.iter().zip(outputs).map(cut).collect()
    }
}

macro_rules! index {
    ($id:ty, $field:ident, $output:ty) => {
        impl Index<$id> for Graph {
            type Output = $output;
            fn index(&self, id: $id) -> &$output {
                &self.$field[id.0 as usize]
            }
        }
        impl IndexMut<$id> for Graph {
            fn index_mut(&mut self, id: $id) -> &mut $output {
                &mut self.$field[id.0 as usize]
            }
        }
    };
}
index!(NodeId, nodes, Node);
index!(BlobId, blobs, Blob);
index!(ParamId, params, Param);
