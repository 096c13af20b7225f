//! The meaning of a node with an epilogue.

use super::{Activation, Epilogue, Graph, Node, ParamId, Tensor};
use crate::layers::Op;
use crate::layers::deconvolution::Deconvolution;

/// Where an operation's output channels lie: `count` of them along `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    pub axis: usize,
    pub count: usize,
}

impl Node {
    /// The output channels, for nodes that can take an [`Epilogue`]: matrix products
    /// of one blob.
    pub fn channels(&self, graph: &Graph) -> Option<Channels> {
        let one = self.tops.len() == 1
            && self.bottoms.len() == 1 + usize::from(self.epilogue.residual);
        let top = graph.shape(*self.tops.first().filter(|_| one)?);
        let axis = match &self.op {
            Op::Convolution(c) | Op::Deconvolution(Deconvolution(c)) => top.axis(c.axis).ok()?,
            Op::InnerProduct(_) => top.len().checked_sub(1)?,
            _ => return None,
        };
        let count = *top.get(axis)?;
        Some(Channels { axis, count })
    }

    /// Computes the node naively: the layer's own reference, then the epilogue.
    /// `tops` come zeroed, with their shapes.
    pub fn reference(
        &self,
        graph: &Graph,
        bottoms: &[&Tensor],
        params: &[&Tensor],
        tops: &mut [Tensor],
    ) {
        let own = bottoms.len() - usize::from(self.epilogue.residual);
        self.op.reference(&bottoms[..own], params, tops);
        if let Some(channels) = self.channels(graph) {
            self.epilogue.apply(channels, bottoms.get(own).copied(), &mut tops[0]);
        }
    }
}

impl Epilogue {
    /// `activation(scale·x + shift + residual)` in f64, rounded once.
    fn apply(&self, channels: Channels, residual: Option<&Tensor>, top: &mut Tensor) {
        if self.is_empty() {
            return;
        }
        let inner = top.shape.count_of(channels.axis + 1..top.shape.len());
        for (i, y) in top.data.iter_mut().enumerate() {
            let channel = i / inner % channels.count;
            let at = |values: &[f32]| f64::from(values[channel]);
            let scale = self.scale.as_deref().map_or(1.0, at);
            let shift = self.shift.as_deref().map_or(0.0, at);
            let residual = residual.map_or(0.0, |r| f64::from(r.data[i]));
            let x = scale * f64::from(*y) + shift + residual;
            let slope = match &self.activation {
                None => 1.0,
                Some(Activation::Relu { slope }) => f64::from(*slope),
                Some(Activation::PRelu { slopes }) => at(slopes),
            };
            *y = match self.activation {
                None => x,
                Some(_) => positive(x) + slope * negative(x),
            } as f32;
        }
    }
}

/// `max(x, 0)` that keeps NaN.
fn positive(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// `min(x, 0)` that keeps NaN.
fn negative(x: f64) -> f64 {
    if 0.0 < x { 0.0 } else { x }
}

impl Graph {
    /// The values of a parameter, which must have been assigned.
    pub fn param_tensor(&self, id: ParamId) -> Tensor {
        let param = &self[id];
        let data = param.data.as_ref();
        let data = data.unwrap_or_else(|| panic!("{id} of `{}` has no data", param.layer));
        Tensor::new(param.spec.shape.clone(), data.floats().into_owned())
    }
}
