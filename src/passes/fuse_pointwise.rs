//! Trees of element-wise nodes become one expression each: a node whose only reader
//! is element-wise too, and of the same shape, is computed inside it.
//!
//! A function stays the root of its expression, so a node that ends in one is not
//! taken into another. What comes out affine per channel is written as one
//! multiply-add.

use super::edit::Editor;
use super::expr::{Affine, compact};
use crate::ir::{BlobId, Broadcast, Graph, Node, Pointwise};
use crate::layers::Op;

/// Expressions are not grown beyond this: a ReLU reads its operand twice, so a tower
/// of them would double with each.
const LARGEST: usize = 200;

pub fn run(graph: &mut Graph) {
    let mut editor = Editor::new(graph);
    for i in 0..editor.graph.nodes.len() {
        while let Some((from, node)) = merged(&editor, i) {
            editor.merge(&[from, i], node);
        }
        if let Op::Pointwise(expr) = &editor.graph.nodes[i].op {
            let simple = affine(editor.graph, &editor.graph.nodes[i], expr);
            if let Some(expr) = simple {
                editor.graph.nodes[i].op = Op::Pointwise(expr);
            }
        }
    }
    editor.finish();
}

/// Node `i` with the first of its operands that can be taken in, and its place.
fn merged(editor: &Editor, i: usize) -> Option<(usize, Node)> {
    let node = editor.node(i)?;
    let Op::Pointwise(expr) = &node.op else {
        return None;
    };
    let room = LARGEST.checked_sub(expr.size())?;
    node.bottoms.iter().enumerate().find_map(|(n, &bottom)| {
        let (from, inner) = operand(editor, i, bottom)?;
        let reads = expr.reads_of(n)?;
        let fits = reads * inner.size() <= room;
        let node = fits.then(|| inline(editor, i, n, from, inner))?;
        Some((from, node))
    })
}

/// The element-wise node that makes `bottom` for node `i` alone.
fn operand<'e>(editor: &'e Editor, i: usize, bottom: BlobId) -> Option<(usize, &'e Pointwise)> {
    let from = editor.uses.producer(bottom)?;
    let shape = |b: BlobId| editor.graph.shape(b);
    match &editor.graph.nodes[from].op {
        Op::Pointwise(inner)
            if editor.uses.sole_reader(bottom) == Some(i)
                && !inner.is_function()
                && shape(bottom) == shape(editor.graph.nodes[i].tops[0]) =>
        {
            Some((from, inner))
        }
        _ => None,
    }
}

/// Node `i` with its bottom n computed in place by the expression of node `from`.
fn inline(editor: &Editor, i: usize, n: usize, from: usize, inner: &Pointwise) -> Node {
    let mut node = editor.graph.nodes[i].clone();
    let Op::Pointwise(expr) = &mut node.op else {
        unreachable!("only element-wise nodes are merged")
    };
    let mut inner = inner.clone();
    let mut bottoms = node.bottoms.clone();
    inner.renumber(&mut |m| m + bottoms.len());
    let inner_bottoms = &editor.graph.nodes[from].bottoms;
    bottoms.extend(inner_bottoms);
    expr.substitute(n, &inner);
    node.bottoms = compact(expr, &bottoms, inner_bottoms[0]);
    node
}

/// `scale·x + shift`, if that is what `expr` is and it is not written so already.
fn affine(graph: &Graph, node: &Node, expr: &Pointwise) -> Option<Pointwise> {
    let shape = graph.shape(node.tops[0]);
    if node.bottoms.len() != 1 || expr.size() <= 4 || shape.len() < 2 {
        return None;
    }
    let (scale, shift) = Affine::of(expr, shape[1])?.round()?;
    let constant = |values| Box::new(Pointwise::Broadcast(Broadcast::channels(values)));
    let x = Box::new(Pointwise::Bottom(0));
    Some(Pointwise::Fma(x, constant(scale), constant(shift)))
}
