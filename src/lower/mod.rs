//! From the graph of layers to a kernel program.
//!
//! In: a graph after the passes. Out: a [`Lowered`]: the program for one ISA, with
//! its memory planned, and the list of what must be packed into its weights block.
//! The block's layout does not depend on the ISA, so one weights file serves all.
//!
//! Start with [`lower`], which walks the nodes, and [`Builder`], which keeps where
//! each blob lies. A blob has a blocked view, a plain view or both; whoever needs the
//! other one asks for it, and a conversion is inserted once.

mod chain;
mod choices;
mod concat;
mod conv;
mod deconvolution;
mod grid;
mod in_place;
mod inner_product;
mod memory;
mod moves;
mod pack;
mod pointwise;
mod pool;
mod product;
mod routine;
mod rows;
mod source;
mod statistics;
mod tile;
mod view;
mod winograd;

pub use choices::{Question, questions};
pub use concat::{concat, slice};
pub use conv::{Axis, Conv, WeightStrides, convolution, window_halo};
pub use deconvolution::deconvolution;
pub use inner_product::inner_product;
pub use moves::moves;
pub use pack::{Pack, pack};
pub use pointwise::pointwise;
pub use pool::{lrn_within, pool};
pub use routine::routine;
pub use rows::{accuracy, argmax, lrn_across, pool_with_mask, softmax, softmax_loss};
pub use statistics::batch_norm;
pub use view::{Blocked, Halo, Plain};

use crate::diag::{Diagnostic, Result};
use crate::ir::{BlobId, Graph, Node, NodeId, ParamId};
use crate::kernel::{
    self, Addr, Affine, Arg, Buffer, BufferId, Place, Port, Program, Region, Step, Stmt, TableId,
    Var,
};
use crate::leaf::{BLOCK, Isa, Leaf};
use choices::Choices;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What lowering may choose.
#[derive(Clone, Debug)]
pub struct Options {
    pub isa: Isa,
    pub chains: Chains,
    pub convolutions: Convolutions,
    pub tuning: Arc<Tuning>,
}

/// What was found to be fastest by measuring, by the key of the [`Question`]: goes before
/// the models where they would decide ([`Chains::WhereItPays`],
/// [`Convolutions::WhereItPays`]). A way that does not exist counts as none.
pub type Tuning = BTreeMap<String, String>;

/// When a chain of convolutions that a pass has found becomes one loop nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// Where the model of caches says that it is faster.
    WhereItPays,
    Always,
}

/// How convolutions are computed for which there are several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convolutions {
    /// Products summed as they are defined.
    Direct,
    /// Winograd's algorithm where the model of caches says that it is faster.
    WhereItPays,
    /// Winograd's algorithm where it is possible.
    Winograd,
}

/// A program and what fills its weights block.
#[derive(Debug)]
pub struct Lowered {
    pub program: Program,
    pub packs: Vec<Pack>,
    /// How each of the graph's chains was cut, and why.
    pub chains: Vec<String>,
}

/// Lowers a graph whose parameters have their data or at least their shapes.
///
/// Errors: `Unsupported` for layers and sizes that have no lowering, all of them at
/// once.
pub fn lower(graph: &Graph, options: &Options) -> Result<Lowered> {
    let choices = Choices::new(graph, options);
    let mut b = Builder::new(graph, options.isa, &choices);
    b.bind_inputs()?;
    let mut refused = Vec::new();
    for run in &choices.runs {
        let node = &graph[run.nodes[0]];
        let done = match run.nodes.as_slice() {
            [_] => b.lower_node(node),
            _ => chain::lower(&mut b, run),
        };
        if let Err(errors) = done {
            let located = errors.map(|d| d.layer(node.name.clone()).at(node.at));
            refused.extend(located.0);
            b.abandon(node);
        }
    }
    if refused.is_empty() {
        b.finish()
    } else {
        Err(crate::diag::Errors(refused))
    }
}

/// The program under construction and where its blobs lie.
pub struct Builder<'g> {
    pub graph: &'g Graph,
    isa: Isa,
    choices: &'g Choices,
    buffers: Vec<Buffer>,
    tables: Vec<Vec<i32>>,
    table_ids: HashMap<Vec<i32>, TableId>,
    steps: Vec<Step>,
    faults: Vec<kernel::Fault>,
    packs: Vec<Pack>,
    weights_len: usize,
    /// Parameters that lie in the weights block as they are.
    params: HashMap<ParamId, BufferId>,
    /// Broadcast vectors already in the weights block.
    vectors: HashMap<Vec<u32>, Addr>,
    scratch_len: usize,
    next_var: u32,
    blocked: Vec<Option<Blocked>>,
    plain: Vec<Option<Plain>>,
    /// Zeros that a blob's readers want around it.
    halos: Vec<Halo>,
    /// Blobs that lie inside another one: parent and first channel.
    inside: Vec<Option<(BlobId, usize)>>,
    /// Halo fills that go into the next step.
    fills: Vec<Region>,
}

impl<'g> Builder<'g> {
    fn new(graph: &'g Graph, isa: Isa, choices: &'g Choices) -> Self {
        let blobs = graph.blobs.len();
        let inside = concat::placements(graph);
        let halos = conv::halos(graph, choices, &inside);
        Builder {
            graph,
            isa,
            choices,
            buffers: Vec::new(),
            tables: Vec::new(),
            table_ids: HashMap::new(),
            steps: Vec::new(),
            faults: Vec::new(),
            packs: Vec::new(),
            weights_len: 0,
            params: HashMap::new(),
            vectors: HashMap::new(),
            scratch_len: 0,
            next_var: 0,
            blocked: vec![None; blobs],
            plain: vec![None; blobs],
            halos,
            inside,
            fills: Vec::new(),
        }
    }

    fn bind_inputs(&mut self) -> Result<()> {
        for (i, &blob) in self.graph.inputs.iter().enumerate() {
            let len = self.graph.shape(blob).count();
            let buffer = self.buffer(&self.graph[blob].name, Place::Input(i), len);
            self.plain[blob.0 as usize] = Some(Plain { buffer, base: 0 });
        }
        Ok(())
    }

    fn lower_node(&mut self, node: &Node) -> Result<()> {
        if node
            .tops
            .iter()
            .all(|&top| self.graph.shape(top).count() == 0)
        {
            return Ok(());
        }
        if node.op.is_view() {
            return node
                .tops
                .iter()
                .try_for_each(|&top| self.alias(node.bottoms[0], top));
        }
        node.op.lower(node, self)
    }

    /// After a refusal: gives the node's tops some place, so that the layers after it
    /// can be looked at too.
    fn abandon(&mut self, node: &Node) {
        for &top in &node.tops {
            if self.plain[top.0 as usize].is_none() && self.blocked[top.0 as usize].is_none() {
                let _ = self.alloc_plain(top);
            }
        }
    }

    fn finish(mut self) -> Result<Lowered> {
        for (i, &blob) in self.graph.outputs.iter().enumerate() {
            self.deliver(i, blob)?;
        }
        let graph = self.graph;
        let output = |blob| graph.outputs.iter().position(|&o| o == blob);
        let port = |&blob: &BlobId| Port {
            name: graph[blob].name.clone(),
            shape: graph.shape(blob).to_vec(),
            count: graph[blob].count.and_then(|count| {
                let axis = count.axis;
                output(count.blob).map(|output| kernel::Count { axis, output })
            }),
        };
        let mut program = Program {
            name: graph.name.clone(),
            isa: self.isa,
            inputs: graph.inputs.iter().map(port).collect(),
            outputs: graph.outputs.iter().map(port).collect(),
            buffers: self.buffers,
            tables: self.tables,
            steps: self.steps,
            faults: self.faults,
            arena_len: 0,
            weights_len: self.weights_len,
            scratch_len: self.scratch_len,
        };
        in_place::merge(&mut program);
        memory::plan(&mut program)?;
        Ok(Lowered {
            program,
            packs: self.packs,
            chains: self.choices.chains.clone(),
        })
    }

    /// Sees to it that output number `i` holds `blob`.
    fn deliver(&mut self, i: usize, blob: BlobId) -> Result<()> {
        let len = self.graph.shape(blob).count();
        if len == 0 {
            return Ok(());
        }
        let src = self.plain(blob)?;
        if self.buffers[src.buffer.0 as usize].place == Place::Output(i) {
            return Ok(());
        }
        let dst = self.buffer(&self.graph[blob].name, Place::Output(i), len);
        let copy = Stmt::Call {
            leaf: Leaf::Copy,
            args: vec![
                self.at(src.buffer, Affine::constant(src.base)),
                self.at(dst, Affine::constant(0)),
                Arg::Len(1),
                Arg::Len(len),
                Arg::Len(len),
                Arg::Len(len),
            ],
        };
        let region = Region {
            tasks: Vec::new(),
            body: vec![copy],
            cost: len as u64 / 8,
        };
        let name = self.graph[blob].name.clone();
        self.step(vec![name], "output copied", vec![region], 0, 8 * len as u64);
        Ok(())
    }

    // --- building blocks -------------------------------------------------

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn var(&mut self) -> Var {
        self.next_var += 1;
        Var(self.next_var - 1)
    }

    fn buffer(&mut self, name: &str, place: Place, len: usize) -> BufferId {
        self.buffers.push(Buffer {
            name: name.to_string(),
            place,
            len,
        });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// A buffer in the arena. Errors: `Unsupported` beyond what can be addressed.
    pub fn arena(&mut self, name: &str, len: Option<usize>) -> Result<BufferId> {
        // 2^40 bytes; also keeps all offset arithmetic far from overflow.
        const LIMIT: usize = 1 << 38;
        match len {
            Some(len) if len <= LIMIT => Ok(self.buffer(name, Place::Arena(0), len)),
            _ => {
                let message = format!("blob `{name}` with its padding needs more than 1 TiB");
                Err(Diagnostic::unsupported(message).into())
            }
        }
    }

    /// A buffer whose content outlasts the forward pass. Errors as for [`Builder::arena`].
    fn kept(&mut self, name: &str, len: usize) -> Result<BufferId> {
        let id = self.arena(name, Some(len))?;
        self.buffers[id.0 as usize].place = Place::Kept(0);
        Ok(id)
    }

    /// A place for the number of a fault of a layer.
    fn fault(&mut self, layer: &str, messages: &'static [&'static str]) -> Result<BufferId> {
        let buffer = self.kept(&format!("{layer} fault"), 1)?;
        self.faults.push(kernel::Fault {
            buffer,
            layer: layer.to_string(),
            messages,
        });
        Ok(buffer)
    }

    /// A buffer of `len` elements, private to each task. Buffers of one step must come
    /// from one call sequence; `start` says where in the scratch it begins.
    pub fn scratch(&mut self, name: &str, start: usize, len: usize) -> BufferId {
        self.scratch_len = self.scratch_len.max(start + len);
        self.buffer(name, Place::Scratch(start), len)
    }

    pub fn at(&self, buffer: BufferId, offset: Affine) -> Arg {
        Arg::Addr(Addr { buffer, offset })
    }

    pub fn table(&mut self, offsets: Vec<i32>) -> TableId {
        if let Some(&id) = self.table_ids.get(&offsets) {
            return id;
        }
        let id = TableId(self.tables.len() as u32);
        self.tables.push(offsets.clone());
        self.table_ids.insert(offsets, id);
        id
    }

    /// Room for `len` packed elements, 64-byte aligned.
    fn weights(&mut self, name: &str, len: usize, pack: impl FnOnce(usize) -> Pack) -> BufferId {
        let start = self.weights_len;
        self.weights_len += len.next_multiple_of(BLOCK);
        self.packs.push(pack(start));
        self.buffer(name, Place::Weights(start), len)
    }

    /// A parameter in the weights block, row-major.
    fn param(&mut self, param: ParamId) -> BufferId {
        if let Some(&buffer) = self.params.get(&param) {
            return buffer;
        }
        let spec = &self.graph[param];
        let (name, len) = (
            format!("{} {}", spec.layer, spec.index),
            spec.spec.shape.count(),
        );
        let buffer = self.weights(&name, len, |start| Pack::Param { start, param, len });
        self.params.insert(param, buffer);
        buffer
    }

    /// Constants in the weights block, padded with zeros to whole channel blocks.
    pub fn vector(&mut self, name: &str, values: &[f32]) -> Addr {
        let len = values.len().next_multiple_of(BLOCK);
        let mut values = values.to_vec();
        values.resize(len, 0.0);
        let key: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
        if let Some(addr) = self.vectors.get(&key) {
            return addr.clone();
        }
        let buffer = self.weights(name, len, |start| Pack::Values { start, values });
        let addr = Addr {
            buffer,
            offset: Affine::constant(0),
        };
        self.vectors.insert(key, addr.clone());
        addr
    }

    /// Adds a step, with the halo fills of buffers that it is the first to write.
    pub fn step(
        &mut self,
        layers: Vec<String>,
        about: impl Into<String>,
        mut regions: Vec<Region>,
        macs: u64,
        traffic: u64,
    ) {
        regions.append(&mut self.fills);
        self.steps.push(Step {
            layers,
            about: about.into(),
            regions,
            macs,
            traffic,
        });
    }

    /// Bytes of a node's bottoms and tops.
    pub fn traffic(&self, node: &Node) -> u64 {
        let blobs = node.bottoms.iter().chain(&node.tops);
        blobs.map(|&b| 4 * self.graph.shape(b).count() as u64).sum()
    }

    pub fn node(&self, id: NodeId) -> &'g Node {
        &self.graph[id]
    }
}

/// `for var in 0..extent { body }`, or just the body for a single round.
pub fn for_loop(var: Var, extent: usize, body: Vec<Stmt>) -> Vec<Stmt> {
    vec![Stmt::For {
        var,
        extent: extent as u32,
        body,
    }]
}
