//! What must hold for every graph, before and after every pass.
//!
//! * ids are in range; inputs and tops are written once, before they are read;
//! * shapes of tops are those that the layers infer from their bottoms;
//! * a node has as many parameters as its layer wants, of the right size;
//! * epilogues belong to nodes with output channels and have one constant for each;
//!   a residual is a last bottom of the top's shape;
//! * `Op::Pointwise` reads bottoms in the shape that it reads them by; its constants
//!   fit; functions are only at the root;
//! * chains are runs of neighbouring nodes, each the only reader of the one before;
//! * outputs and names exist.

use super::{Activation, BlobId, Graph, Node, NodeId, Pointwise, Shape};
use crate::frontend::proto::Phase;
use crate::layers::{Cx, Op, Registry};

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
            self.verify_epilogue(node).map_err(broken)?;
            self.verify_pointwise(node).map_err(broken)?;
            for &top in &node.tops {
                write(&mut written, top).map_err(broken)?;
            }
        }
        for &blob in self.outputs.iter().chain(self.names.values()) {
            read(&written, blob)?;
        }
        self.verify_chains()
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
            tops: node.tops.len() - usize::from(node.op.counted().is_some()),
            in_place: false,
            dialect: None,
            registry: &Registry::default(),
            file: None,
            span: &|_| None,
        };
        let mut tops = node.op.infer(&bottoms, &cx).map_err(|e| e.to_string())?;
        if node.op.counted().is_some() {
            tops.push(Shape::new([1]).map_err(|e| e.to_string())?);
        }
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
        shapes.truncate(shapes.len() - node.counts);
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

    fn verify_epilogue(&self, node: &Node) -> Result<(), String> {
        let e = &node.epilogue;
        if e.is_empty() {
            return Ok(());
        }
        let channels = node.channels(self).ok_or("takes no epilogue")?;
        let slopes = match &e.activation {
            Some(Activation::PRelu { slopes }) => Some(slopes),
            Some(Activation::Relu { .. }) | None => None,
        };
        for values in [&e.scale, &e.shift].into_iter().flatten().chain(slopes) {
            require(values.len() == channels, || {
                format!("{} constants for {channels} channels", values.len())
            })?;
        }
        Ok(())
    }

    fn verify_pointwise(&self, node: &Node) -> Result<(), String> {
        let Op::Pointwise(expr) = &node.op else {
            return Ok(());
        };
        require(!expr.parts().iter().any(|p| p.has_function()), || {
            "a function inside an expression".to_string()
        })?;
        self.verify_reads(node, expr)
    }

    /// Checks every read and constant of `expr`.
    fn verify_reads(&self, node: &Node, expr: &Pointwise) -> Result<(), String> {
        let top = self.shape(node.tops[0]);
        let bottom = |n: usize| node.bottoms.get(n).map(|&b| self.shape(b));
        let fits = match expr {
            Pointwise::Bottom(n) => bottom(*n) == Some(top),
            Pointwise::BottomAt { bottom: n, axis } => {
                let covers = |small: &Shape| {
                    let covered = &small[..small.covering()];
                    top[(*axis).min(top.len())..].starts_with(covered)
                };
                bottom(*n).is_some_and(covers)
            }
            Pointwise::Broadcast(b) => top
                .get(b.axis..b.axis + b.axes)
                .is_some_and(|dims| dims.iter().product::<usize>() == b.values.len()),
            _ => true,
        };
        require(fits, || format!("{expr:?} does not fit a top of {top}"))?;
        let parts = expr.parts();
        parts.iter().try_for_each(|p| self.verify_reads(node, p))
    }

    fn verify_chains(&self) -> Result<(), String> {
        if self.chains.is_empty() {
            return Ok(());
        }
        let readers = self.readers();
        for pair in self.chains.iter().flat_map(|chain| chain.windows(2)) {
            let top = self[pair[0]].tops[0];
            let alone = readers[top.0 as usize].iter().all(|&r| r == pair[1])
                && !readers[top.0 as usize].is_empty()
                && !self.outputs.contains(&top);
            require(alone && pair[1] == NodeId(pair[0].0 + 1), || {
                format!("{} and {} are no chain", pair[0], pair[1])
            })?;
        }
        Ok(())
    }
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
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
