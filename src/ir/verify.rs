//! What must hold for every graph, before and after every pass.
//!
//! * ids are in range; inputs and tops are written once, before they are read;
//! * shapes of tops are those that the layers infer from their bottoms;
//! * a node has as many parameters as its layer wants, of the right size;
//! * a residual is a last bottom of the top's shape;
//! * outputs and names exist.

use super::{BlobId, Graph, Node, Shape};
use crate::frontend::proto::Phase;
use crate::layers::{Cx, Op};

impl Graph {
    /// Errors: the first thing that is wrong; always a bug of ours.
    pub fn verify(&self) -> Result<(), String> {
        let mut written = vec![false; self.blobs.len()];
        for &input in &self.inputs {
            write(&mut written, input)?;
        }
        for node in &self.nodes {
            let broken = |why: String| format!("node `{}`: {why}", node.name);
            for &bottom in &node.bottoms {
                read(&written, bottom).map_err(broken)?;
            }
            self.verify_shapes(node).map_err(broken)?;
            self.verify_params(node).map_err(broken)?;
            for &top in &node.tops {
                write(&mut written, top).map_err(broken)?;
            }
        }
        for &blob in self.outputs.iter().chain(self.names.values()) {
            read(&written, blob)?;
        }
        Ok(())
    }

    fn verify_shapes(&self, node: &Node) -> Result<(), String> {
        if let Some(top) = node.tops.iter().find(|t| t.0 as usize >= self.blobs.len()) {
            return Err(format!("there is no blob {top}"));
        }
        let (bottoms, residual) = self.own_bottoms(node)?;
        let cx = Cx {
            name: &node.name,
            phase: Phase::Test,
            bottoms: bottoms.len(),
            tops: node.tops.len(),
            in_place: false,
            span: &|_| None,
        };
        let tops = node.op.infer(&bottoms, &cx).map_err(|e| e.to_string())?;
        if tops.len() != node.tops.len() {
            return Err(format!("{} tops, not {}", tops.len(), node.tops.len()));
        }
        for (&top, shape) in node.tops.iter().zip(&tops) {
            if self.shape(top) != shape {
                return Err(format!("{top} is {}, not {shape}", self.shape(top)));
            }
        }
        match residual {
            Some(shape) if shape != tops[0] => Err(format!("a residual of {shape}")),
            _ => Ok(()),
        }
    }

    /// Shapes of the bottoms that the layer itself reads, and the residual's.
    fn own_bottoms(&self, node: &Node) -> Result<(Vec<Shape>, Option<Shape>), String> {
        let mut shapes = self.bottom_shapes(node);
        let residual = match node.epilogue.residual {
            true => Some(shapes.pop().ok_or("a residual without a bottom")?),
            false => None,
        };
        Ok((shapes, residual))
    }

    fn verify_params(&self, node: &Node) -> Result<(), String> {
        let (bottoms, _) = self.own_bottoms(node)?;
        let specs = match &node.op {
            Op::Pointwise(_) => Vec::new(),
            op => op.params(&bottoms).map_err(|e| e.to_string())?,
        };
        if specs.len() != node.params.len() {
            return Err(format!(
                "{} parameters, not {}",
                node.params.len(),
                specs.len()
            ));
        }
        for (&id, spec) in node.params.iter().zip(&specs) {
            let param = self.params.get(id.0 as usize);
            let param = param.ok_or_else(|| format!("there is no parameter {id}"))?;
            let count = param.spec.shape.count();
            let held = param.data.as_ref().map_or(count, |d| d.len());
            if count != spec.shape.count() || held != count {
                return Err(format!("{id} holds {held} of {count}, not {}", spec.shape));
            }
        }
        Ok(())
    }
}

fn write(written: &mut [bool], blob: BlobId) -> Result<(), String> {
    match written.get_mut(blob.0 as usize) {
        None => Err(format!("there is no blob {blob}")),
        Some(true) => Err(format!("{blob} is written twice")),
        Some(slot) => {
            *slot = true;
            Ok(())
        }
    }
}

fn read(written: &[bool], blob: BlobId) -> Result<(), String> {
    match written.get(blob.0 as usize) {
        Some(true) => Ok(()),
        _ => Err(format!("{blob} is read before it is written")),
    }
}
