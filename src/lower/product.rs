//! The constants of a convolution: packed weights, bias, slopes.

use super::Builder;
use super::conv::{Conv, addr};
use super::pack::{BiasPack, BlockPack, Pack, SegmentOrder, TilePack};
use crate::ir::{Activation as IrActivation, Node, ParamId};
use crate::kernel::{Addr, BufferId};
use crate::leaf::{Activation, BLOCK};

/// Consecutive blocks of output channels that read the same input channels.
pub struct Run {
    pub first: usize,
    pub blocks: usize,
    pub first_input: usize,
    pub inputs: usize,
}

fn runs(conv: &Conv) -> Vec<Run> {
    let (outputs, inputs) = (conv.outputs / conv.group, conv.inputs / conv.group);
    let mut runs: Vec<Run> = Vec::new();
    for block in 0..conv.outputs.div_ceil(BLOCK) {
        let first_group = block * BLOCK / outputs;
        let last_group = ((block + 1) * BLOCK - 1).min(conv.outputs - 1) / outputs;
        let first_input = first_group * inputs / BLOCK * BLOCK;
        let inputs = (last_group + 1) * inputs - first_input;
        match runs.last_mut() {
            Some(run) if (run.first_input, run.inputs) == (first_input, inputs) => run.blocks += 1,
            _ => runs.push(Run {
                first: block,
                blocks: 1,
                first_input,
                inputs,
            }),
        }
    }
    runs
}

/// Bias, slopes and activation of a node's epilogue, packed.
pub struct EpilogueAddrs {
    pub bias: Addr,
    pub slopes: Option<Addr>,
    pub activation: Activation,
    pub slope: f32,
}

impl EpilogueAddrs {
    pub fn new(b: &mut Builder, node: &Node, bias: Option<ParamId>, outputs: usize) -> Self {
        let epilogue = &node.epilogue;
        let (slopes, activation, slope) = match &epilogue.activation {
            None => (None, Activation::None, 0.0),
            Some(IrActivation::Relu { slope }) => (None, Activation::Relu, *slope),
            Some(IrActivation::PRelu { slopes }) => {
                let name = format!("{} slopes", node.name);
                (Some(b.vector(&name, slopes)), Activation::PRelu, 0.0)
            }
        };
        let name = format!("{} bias", node.name);
        let bias = if bias.is_none() && epilogue.shift.is_none() {
            b.vector(&name, &vec![0.0; outputs])
        } else {
            let (scale, shift) = (epilogue.scale.clone(), epilogue.shift.clone());
            let len = outputs.next_multiple_of(BLOCK);
            let buffer = b.weights(&name, len, |start| {
                Pack::Bias(BiasPack {
                    start,
                    outputs,
                    bias,
                    scale,
                    shift,
                })
            });
            addr(buffer, 0)
        };
        EpilogueAddrs {
            bias,
            slopes,
            activation,
            slope,
        }
    }
}

/// Room for the packed weights, run after run.
pub fn pack_weights(
    b: &mut Builder,
    node: &Node,
    conv: &Conv,
    order: SegmentOrder,
) -> (BufferId, Vec<Run>) {
    pack_as(b, node, conv, order, None)
}

/// The same with their values at n × n points of Winograd's.
pub fn pack_points(b: &mut Builder, node: &Node, conv: &Conv, n: usize) -> (BufferId, Vec<Run>) {
    pack_as(b, node, conv, SegmentOrder::Blocked, Some(n))
}

fn pack_as(
    b: &mut Builder,
    node: &Node,
    conv: &Conv,
    order: SegmentOrder,
    points: Option<usize>,
) -> (BufferId, Vec<Run>) {
    let runs = match order {
        // Block n reads block n: one run, whose source moves along.
        SegmentOrder::Depthwise => vec![Run {
            first: 0,
            blocks: conv.outputs.div_ceil(BLOCK),
            first_input: 0,
            inputs: BLOCK,
        }],
        _ => runs(conv),
    };
    let blocks = runs
        .iter()
        .flat_map(|run| {
            (run.first..run.first + run.blocks).map(|block| BlockPack {
                block,
                first_input: run.first_input,
                inputs: match order {
                    SegmentOrder::Blocked => run.inputs.next_multiple_of(BLOCK),
                    _ => run.inputs,
                },
            })
        })
        .collect();
    let mut tiles = TilePack {
        start: 0,
        param: conv.weights,
        strides: conv.strides,
        blocks,
        outputs_per_group: conv.outputs / conv.group,
        inputs_per_group: conv.inputs / conv.group,
        outputs: conv.outputs,
        kernel: conv.kernel_plane(),
        order,
        points,
        scale: node.epilogue.scale.clone(),
    };
    let name = format!("{} weights", node.name);
    let buffer = b.weights(&name, tiles.packed_len(), |start| {
        tiles.start = start;
        Pack::Tiles(tiles)
    });
    (buffer, runs)
}
