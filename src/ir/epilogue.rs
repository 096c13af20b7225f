//! Which nodes can take an [`Epilogue`](super::Epilogue), and which become expressions.

use super::{Graph, Node, ParamSpec, Pointwise, Tensor};
use crate::diag::Result;
use crate::layers::Op;
use crate::layers::deconvolution::Deconvolution;

/// Expressions are trees that code walks by recursion, so a layer with more bottoms
/// than any real net has does not become a single one.
pub const WIDEST: usize = 256;

impl Node {
    /// The first top as an expression of the bottoms, for element-wise layers.
    pub fn pointwise(&self, graph: &Graph, params: &[&Tensor]) -> Option<Pointwise> {
        let small = self.bottoms.len() <= WIDEST && self.tops.len() == 1;
        small.then(|| self.op.pointwise(&graph.bottom_shapes(self), params))?
    }

    /// Whether the node multiplies by a matrix of weights.
    pub fn is_product(&self) -> bool {
        matches!(
            self.op,
            Op::Convolution(_) | Op::Deconvolution(_) | Op::InnerProduct(_)
        )
    }

    /// Number of output channels, for nodes that can take an epilogue: products of one
    /// blob whose output channels lie along axis 1.
    pub fn channels(&self, graph: &Graph) -> Option<usize> {
        let bottoms = 1 + usize::from(self.epilogue.residual);
        if self.tops.len() != 1 || self.bottoms.len() != bottoms {
            return None;
        }
        let top = graph.shape(self.tops[0]);
        let axis = match &self.op {
            Op::Convolution(c) | Op::Deconvolution(Deconvolution(c)) => top.axis(c.axis).ok()?,
            Op::InnerProduct(p) if !p.normalize => top.len().checked_sub(1 + p.ones)?,
            _ => return None,
        };
        (axis == 1).then(|| top[axis])
    }
}

impl Graph {
    /// What the node's layer expects of its parameters. Shared ones may have another
    /// shape of the same count.
    pub fn param_specs(&self, node: &Node) -> Result<Vec<ParamSpec>> {
        let mut shapes = self.bottom_shapes(node);
        if node.epilogue.residual {
            shapes.pop();
        }
        shapes.truncate(shapes.len() - node.counts);
        node.op.params(&shapes)
    }
}
