//! Graph → graph, one pass a file, in the order of `PASSES`.
//!
//! In: a graph from the builder whose parameters have data. Out: a graph that
//! computes the same outputs with fewer nodes: merged work sits in
//! [`crate::ir::Node::epilogue`], in `Op::Pointwise` expressions and in
//! [`Graph::chains`]. Blob and parameter ids keep their meaning; those that nobody
//! needs any more stay in their arenas without a node that makes or reads them.
//!
//! A pass decides whether a fusion is *legal*; whether it *pays* is lowering's
//! question. In debug builds every pass is followed by [`Graph::verify`].
//!
//! After all passes, at any level:
//! * every element-wise layer is `Op::Pointwise` without parameters;
//! * a `Pointwise::Function` is only ever the root of an expression;
//! * no node is without use.

mod drop_dead;
mod drop_identity;
mod edit;
mod element_wise;
mod expr;
mod fold_affine;
mod fuse_chain;
mod fuse_epilogue;
mod fuse_pointwise;

#[cfg(test)]
mod tests;

use crate::ir::{Graph, Valid};

/// How much is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Fuse {
    /// Nothing: each layer is a node of its own; only identities vanish.
    None,
    /// Layers into the epilogue of the convolution before them, and element-wise
    /// layers into one expression.
    Layers,
    /// Also convolutions into chains.
    #[default]
    All,
}

/// Name, the least level at which it runs, and the pass.
type Pass = (&'static str, Fuse, fn(&mut Graph));

/// All passes in their order.
const PASSES: &[Pass] = &[
    ("element_wise", Fuse::None, element_wise::run),
    ("drop_identity", Fuse::None, drop_identity::run),
    ("drop_dead", Fuse::None, drop_dead::run),
    ("fold_affine", Fuse::Layers, fold_affine::run),
    ("fuse_epilogue", Fuse::Layers, fuse_epilogue::run),
    ("fuse_pointwise", Fuse::Layers, fuse_pointwise::run),
    ("fuse_chain", Fuse::All, fuse_chain::run),
];

/// Runs the passes of a level. `graph.outputs` are the blobs that must stay, so
/// blobs asked for by name are added there before. All parameters have data.
pub fn run(mut graph: Valid, fuse: Fuse) -> Valid {
    for (name, level, pass) in PASSES {
        if fuse >= *level {
            graph.edit(name, pass);
        }
    }
    graph
}
