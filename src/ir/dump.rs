//! A graph as text, for people and for golden files.
//!
//! One line a node: its Caffe layers, its type and geometry, bottoms → tops with
//! shapes, parameters; below it what passes have merged into it.

use super::{Activation, BlobId, Epilogue, Graph, Node, ParamId, Pointwise};
use crate::diag::clean;
use crate::layers::Op;
use std::fmt::Write as _;

impl Graph {
    pub fn dump(&self) -> String {
        let mut out = format!("net {:?}\n", clean(&self.name));
        out += &format!("inputs {}\n", self.dump_blobs(&self.inputs));
        for (i, node) in self.nodes.iter().enumerate() {
            let layers: Vec<String> = node.layers.iter().map(|l| clean(l)).collect();
            let _ = write!(out, "n{i} [{}] {}", layers.join(", "), node.op.type_name());
            self.dump_node(node, &mut out);
        }
        out += &format!("outputs {}\n", self.dump_blobs(&self.outputs));
        for chain in &self.chains {
            let nodes: Vec<String> = chain.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "chain {}", nodes.join(" "));
        }
        out
    }

    fn dump_node(&self, node: &Node, out: &mut String) {
        if let Some([h, w]) = node.op.taps(&self.bottom_shapes(node)) {
            let pair = |name: &str, h: usize, w: usize| match h == w {
                true => format!(" {name} {h}"),
                false => format!(" {name} {h}×{w}"),
            };
            *out += &pair("kernel", h.kernel, w.kernel);
            *out += &pair("stride", h.stride, w.stride);
            *out += &pair("pad", h.pad, w.pad);
            *out += &pair("dilation", h.dilation, w.dilation);
        }
        let bottoms = self.dump_blobs(&node.bottoms);
        let _ = writeln!(out, ": {bottoms} → {}", self.dump_blobs(&node.tops));
        if let Op::Pointwise(expr) = &node.op {
            let _ = writeln!(out, "    = {}", expression(expr));
        }
        if !node.params.is_empty() {
            let param = |&id: &ParamId| format!("{id} {}", self[id].spec.shape);
            let params: Vec<String> = node.params.iter().map(param).collect();
            let _ = writeln!(out, "    parameters {}", params.join(", "));
        }
        if !node.epilogue.is_empty() {
            let _ = writeln!(out, "    then {}", epilogue(&node.epilogue));
        }
    }

    fn dump_blobs(&self, blobs: &[BlobId]) -> String {
        let one = |&id: &BlobId| {
            let blob = &self[id];
            let counted = match blob.count {
                Some(count) => format!(" (axis {} up to {})", count.axis, count.blob),
                None => String::new(),
            };
            format!("{id} {} {}{counted}", clean(&blob.name), blob.shape)
        };
        blobs.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn epilogue(e: &Epilogue) -> String {
    let activation = e.activation.as_ref().map(|a| match a {
        Activation::Relu { slope } => format!("relu slope {slope}"),
        Activation::PRelu { slopes } => format!("prelu of {}", slopes.len()),
    });
    let parts = [
        e.scale
            .as_ref()
            .map(|s| format!("scale by {} values", s.len())),
        e.shift
            .as_ref()
            .map(|s| format!("shift by {} values", s.len())),
        e.residual.then(|| "add the last bottom".to_string()),
        activation,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn expression(e: &Pointwise) -> String {
    match e {
        Pointwise::Bottom(n) => format!("x{n}"),
        Pointwise::BottomAt { bottom, axis } => format!("x{bottom}@{axis}"),
        Pointwise::Const(c) => format!("{c}"),
        Pointwise::Broadcast(b) => format!("[{}@{}]", b.values.len(), b.axis),
        Pointwise::Unary(op, x) => format!("{op:?}({})", expression(x)),
        Pointwise::Binary(op, a, b) => format!("{op:?}({}, {})", expression(a), expression(b)),
        Pointwise::Fma(a, b, c) => {
            format!(
                "Fma({}, {}, {})",
                expression(a),
                expression(b),
                expression(c)
            )
        }
        Pointwise::Less { a, b, x, y } => format!(
            "Select({} < {}, {}, {})",
            expression(a),
            expression(b),
            expression(x),
            expression(y)
        ),
        Pointwise::Function {
            function,
            a,
            b,
            c,
            x,
        } => format!("{function:?}[{a}, {b}, {c}]({})", expression(x)),
    }
}
