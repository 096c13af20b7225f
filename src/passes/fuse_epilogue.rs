//! A residual sum and an activation after a convolution or inner product become its
//! epilogue: `activation(scale·x + shift + residual)`.
//!
//! The merged node stands where the sum or the activation stood, so the residual
//! has been computed by then. Of two products that are added, the later one takes
//! the sum.

use super::edit::Editor;
use super::expr::{activation, is_sum_of_two};
use crate::ir::{Graph, Node, Pointwise};
use crate::layers::Op;

pub fn run(graph: &mut Graph) {
    let mut editor = Editor::new(graph);
    // A merged node stands at a later place, where it is looked at again.
    for i in 0..editor.graph.nodes.len() {
        if let Some((reader, node)) = merged(&editor, i) {
            editor.merge(&[i, reader], node);
        }
    }
    editor.finish();
}

/// Node `i` with the work of its reader, and the reader's place.
fn merged(editor: &Editor, i: usize) -> Option<(usize, Node)> {
    let (node, channels) = open_product(editor, i)?;
    let reader = editor.uses.sole_reader(node.tops[0])?;
    let Op::Pointwise(expr) = &editor.graph.nodes[reader].op else {
        return None;
    };
    let mut node = node.clone();
    if !add_activation(&mut node, editor, reader, expr, channels)
        && !add_residual(&mut node, editor, i, reader, expr)
    {
        return None;
    }
    node.tops = editor.graph.nodes[reader].tops.clone();
    Some((reader, node))
}

/// Node `i` if it is a product whose epilogue has no activation yet.
fn open_product<'e>(editor: &'e Editor, i: usize) -> Option<(&'e Node, usize)> {
    let node = editor.node(i)?;
    let channels = node.channels(editor.graph)?;
    node.epilogue
        .activation
        .is_none()
        .then_some((node, channels))
}

fn add_activation(
    node: &mut Node,
    editor: &Editor,
    reader: usize,
    expr: &Pointwise,
    channels: usize,
) -> bool {
    if editor.graph.nodes[reader].bottoms.len() == 1 {
        node.epilogue.activation = activation(expr, channels);
    }
    node.epilogue.activation.is_some()
}

fn add_residual(
    node: &mut Node,
    editor: &Editor,
    i: usize,
    reader: usize,
    expr: &Pointwise,
) -> bool {
    if node.epilogue.residual || !is_sum_of_two(expr) {
        return false;
    }
    let operands = &editor.graph.nodes[reader].bottoms;
    let other = if operands[0] == node.tops[0] {
        operands[1]
    } else {
        operands[0]
    };
    let later = editor.uses.producer(other).filter(|&p| p > i);
    if later.is_some_and(|p| takes_residual(editor, p, reader)) {
        return false;
    }
    node.epilogue.residual = true;
    node.bottoms.push(other);
    true
}

/// Whether node `i` will take the sum that node `reader` computes.
fn takes_residual(editor: &Editor, i: usize, reader: usize) -> bool {
    open_product(editor, i).is_some_and(|(node, _)| {
        !node.epilogue.residual && editor.uses.sole_reader(node.tops[0]) == Some(reader)
    })
}
