//! BatchNorm, Scale, Bias and linear Power after a convolution or inner product
//! become its epilogue's scale and shift: `scale[c]·x + shift[c]`, combined in f64
//! over the whole run of such layers and rounded once. Weights stay as they are;
//! packing multiplies them.
//!
//! Not if somebody else reads what lies between, if the constants do not go by
//! output channel, or if a combined constant is not finite.

use super::edit::Editor;
use super::expr::Affine;
use crate::ir::{Graph, Node};
use crate::layers::Op;

pub fn run(graph: &mut Graph) {
    let mut editor = Editor::new(graph);
    for i in 0..editor.graph.nodes.len() {
        fold(&mut editor, i);
    }
    editor.finish();
}

/// Folds the run of affine nodes after node `i`, if that is a matrix product.
fn fold(editor: &mut Editor, i: usize) {
    let Some(channels) = editor.node(i).and_then(|n| n.channels(editor.graph)) else {
        return;
    };
    let mut node = editor.graph.nodes[i].clone();
    let (mut run, mut total) = (vec![i], Affine::identity(channels));
    while let Some((next, affine)) = affine_reader(editor, run[run.len() - 1], channels) {
        total = affine.after(&total);
        let Some((scale, shift)) = total.round() else {
            break;
        };
        node.tops = editor.graph.nodes[next].tops.clone();
        node.epilogue.scale = changes(scale, 1.0);
        node.epilogue.shift = changes(shift, 0.0);
        run.push(next);
    }
    if run.len() > 1 {
        editor.merge(&run, node);
    }
}

/// The node that reads the result of node `at`, if it alone does and is affine.
fn affine_reader(editor: &Editor, at: usize, channels: usize) -> Option<(usize, Affine)> {
    let node: &Node = &editor.graph.nodes[at];
    let next = editor.uses.sole_reader(node.tops[0])?;
    let reader = &editor.graph.nodes[next];
    match &reader.op {
        Op::Pointwise(expr) if reader.bottoms == node.tops => {
            Some((next, Affine::of(expr, channels)?))
        }
        _ => None,
    }
}

fn changes(values: Vec<f32>, neutral: f32) -> Option<std::sync::Arc<[f32]>> {
    let any = values.iter().any(|&v| v != neutral);
    any.then(|| values.into())
}
