//! The upgraded and filtered net → a [`Valid`] graph.
//!
//! Follows Caffe's `Net::Init` (`net.cpp`) and `InsertSplits` (`insert_splits.cpp`)
//! layer by layer; what Caffe would refuse is an error, and all errors are gathered.
//! Where Caffe makes blobs share memory, so that an in-place layer changes several
//! names at once, every name gets the value that it would have there.
//!
//! Start reading at [`build`].

use super::labels;
use super::sharing::Sharing;
use super::wiring::{Layer, Wiring};
use super::{Blob, BlobId, Count, Epilogue, FloatData, Graph, Node, ParamSpec, Shape, Valid};
use crate::diag::{Diagnostic, Errors, Kind, Result, did_you_mean};
use crate::frontend::proto::FillerParameter;
use crate::frontend::{Dialect, Net};
use crate::layers::reshape::Reshape;
use crate::layers::{Cx, Feed, Op, Registry, python};
use crate::weights::{self, Stream};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What the caller wants of the net.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Shapes of inputs by blob name, instead of the file's.
    pub shapes: BTreeMap<String, Shape>,
    /// Replaces axis 0 of every input.
    pub batch: Option<usize>,
    /// Blobs wanted beside the outputs, by name.
    pub blobs: Vec<String>,
    /// Names of the inputs that the caller feeds. Losses and accuracies whose labels
    /// are not among them then drop out, and so does what no output needs. `None` keeps
    /// all that can stay.
    pub fed: Option<BTreeSet<String>>,
    /// Whose meaning counts where forks of Caffe disagree.
    pub dialect: Option<Dialect>,
    /// Layer types beside caffec's own.
    pub registry: Registry,
}

impl Options {
    fn feeds(&self, name: &str) -> bool {
        self.fed.as_ref().is_some_and(|fed| fed.contains(name))
    }
}

/// A graph as far as it goes.
#[derive(Debug)]
pub struct Built {
    /// Everything whose shapes are known. A full net only without `errors`.
    pub graph: Graph,
    /// Layers that are not in the graph because of an error, there or further up.
    pub incomplete: Vec<Incomplete>,
    /// What the user should know, though nothing is wrong.
    pub notes: Vec<Diagnostic>,
    pub errors: Vec<Diagnostic>,
}

/// A layer that could not be built.
#[derive(Clone, Debug)]
pub struct Incomplete {
    pub name: String,
    pub type_name: String,
}

impl Built {
    /// The graph and the notes. Errors: those gathered.
    pub fn valid(self) -> Result<(Valid, Vec<Diagnostic>)> {
        let graph = Errors::none_or(self.errors, self.graph)?;
        Ok((Valid::new(graph), self.notes))
    }
}

/// Builds the graph of a net.
pub fn build(net: &Net, options: &Options) -> Built {
    let layers: Vec<Layer> = Layer::all(net).collect();
    let wiring = Wiring::new(&layers);
    let (dropped, notes) = labels::dropped(&layers, &wiring, options);
    let mut builder = Builder {
        layers: &layers,
        elsewhere: Layer::elsewhere(net).collect(),
        options,
        dialect: options
            .dialect
            .or_else(|| Dialect::told_by(&net.param.layer)),
        wiring,
        graph: Graph::named(net.param.name()),
        names: BTreeMap::new(),
        storage: Vec::new(),
        sharing: Sharing::default(),
        sums: BTreeMap::new(),
        selected: BTreeMap::new(),
        incomplete: Vec::new(),
        notes,
        errors: Vec::new(),
    };
    for (i, &dropped) in dropped.iter().enumerate() {
        if !dropped {
            builder.layer(i);
        }
    }
    builder.check_options();
    builder.finish(&dropped);
    Built {
        graph: builder.graph,
        incomplete: builder.incomplete,
        notes: builder.notes,
        errors: builder.errors,
    }
}

/// Only so many errors are explained by a search through the net, which takes time
/// in proportion to its size.
const EXPLAINED: usize = 20;

struct Builder<'a> {
    layers: &'a [Layer<'a>],
    elsewhere: Vec<Layer<'a>>,
    options: &'a Options,
    dialect: Option<Dialect>,
    wiring: Wiring,
    graph: Graph,
    names: BTreeMap<&'a str, Name>,
    /// For each piece of Caffe's memory the last blob written into it, in whatever
    /// shape.
    storage: Vec<Option<BlobId>>,
    sharing: Sharing,
    /// Of each sum of counts and a number the blob that has it.
    sums: BTreeMap<(Vec<BlobId>, usize), BlobId>,
    /// Of the counts of selected elements: the range ([`Layer::selects`]), and of which
    /// blob they are.
    ///
    /// [`Layer::selects`]: crate::layers::Layer::selects
    selected: BTreeMap<BlobId, ([f32; 2], BlobId)>,
    incomplete: Vec<Incomplete>,
    notes: Vec<Diagnostic>,
    errors: Vec<Diagnostic>,
}

/// What a blob's name stands for at some point of the forward pass.
struct Name {
    /// The layer that made it first.
    maker: usize,
    /// `None` where an error keeps the shape from being known.
    blob: Option<BlobId>,
    /// Index into [`Builder::storage`].
    storage: usize,
    /// The blob of that storage that `blob` is or was viewed from.
    from: Option<BlobId>,
}

impl<'a> Builder<'a> {
    fn layer(&mut self, i: usize) {
        let layer = &self.layers[i];
        let before = self.errors.len();
        self.check_counts(layer);
        let bottoms = self.bottoms(i);
        self.check_tops(i);
        let span = |path: &str| layer.span_of(path);
        let cx = Cx {
            name: layer.name(),
            phase: layer.param.phase(),
            bottoms: layer.bottoms().len(),
            tops: layer.tops().len(),
            in_place: layer.in_place(0),
            dialect: self.dialect,
            registry: &self.options.registry,
            file: layer.file,
            span: &span,
        };
        let op = Op::from_param(layer.param, &cx);
        let op = op.map_err(|e| self.errors.extend(e.0)).ok();
        let whole = self.errors.len() == before;
        let tops = match (op, bottoms) {
            (Some(op), Some(bottoms)) if whole => {
                let tops = self.place(i, op, &bottoms, &cx);
                tops.map_err(|e| self.errors.extend(e.0)).ok()
            }
            _ => None,
        };
        if tops.is_none() {
            self.incomplete.push(Incomplete {
                name: layer.name().to_string(),
                type_name: layer.type_name().to_string(),
            });
            self.name_tops(i, None, None);
        }
    }

    /// Makes inputs or a node of a layer whose bottoms are known.
    fn place(&mut self, i: usize, mut op: Op, bottoms: &[BlobId], cx: &Cx) -> Result<()> {
        let layer = &self.layers[i];
        if let Some(note) = op.note().or_else(|| python::note(layer.param)) {
            let note = Diagnostic::invalid(note).at(layer.span());
            self.notes.push(note.layer(layer.name()));
        }
        if let Some(feeds) = op.inputs() {
            return self.inputs(i, feeds);
        }
        let shapes: Vec<Shape> = bottoms
            .iter()
            .map(|&b| self.graph.shape(b).clone())
            .collect();
        let counts: Vec<_> = bottoms.iter().map(|&b| self.graph[b].count).collect();
        let axes: Vec<_> = counts.iter().map(|count| count.map(|c| c.axis)).collect();
        let joins = op.join(&axes, &shapes, self.most_selected(&counts));
        let located = |e: Errors| e.map(|d| d.at(layer.span()).layer(layer.name()));
        let tops = op.infer(&shapes, cx).map_err(located)?;
        check_tops_shapes(layer, &shapes, &tops)?;
        let specs = op.params(&shapes).map_err(located)?;
        let params = self.sharing.params(&mut self.graph, layer, specs)?;
        if matches!(op, Op::Silence(_)) {
            return Ok(());
        }
        let shared = op.shares_storage();
        let (known, counts) = self.counts(layer, &op, bottoms, &tops)?;
        let tops = self.blobs(i, tops);
        let mut made = tops.clone();
        for (&top, count) in tops.iter().zip(known) {
            self.graph[top].count = count;
        }
        if let Some(axis) = op.counted() {
            let name = layer.tops().first().map_or("", |name| name);
            let count = self
                .graph
                .add_blob(&format!("{name}_count"), Shape::new([1])?);
            let mut blob = count;
            if let Some(range) = op.selects() {
                self.selected.insert(count, (range, bottoms[0]));
            }
            if joins {
                // Blobs joined of parts with the same counts have as many elements.
                let fixed = bottoms.iter().filter(|&&b| self.graph[b].count.is_none());
                let fixed = fixed.map(|&b| self.graph.shape(b)[axis]).sum();
                blob = *self.sums.entry((counts.clone(), fixed)).or_insert(count);
            }
            for &top in &tops {
                self.graph[top].count = Some(Count { axis, blob });
            }
            made.push(count);
        }
        self.graph.nodes.push(Node {
            name: layer.name().to_string(),
            op,
            bottoms: [bottoms, &counts].concat(),
            counts: counts.len(),
            tops: made,
            params,
            epilogue: Epilogue::default(),
            layers: vec![layer.name().to_string()],
            at: layer.span(),
        });
        let storage = shared.then(|| self.names[layer.bottoms()[0].as_str()].storage);
        self.name_tops(i, Some(&tops), storage);
        Ok(())
    }

    /// The most elements that there are together, if all are selected from one blob, by
    /// ranges that are apart: no more than it has, and one of each range that has none.
    fn most_selected(&self, counts: &[Option<Count>]) -> Option<usize> {
        let selected = |count: &Option<Count>| self.selected.get(&count.as_ref()?.blob);
        let selected: Vec<_> = counts.iter().map(selected).collect::<Option<_>>()?;
        let (_, all) = selected.first()?;
        for (i, ([low, high], of)) in selected.iter().enumerate() {
            let mut others = selected[..i].iter();
            let apart = others.all(|(other, _)| *high <= other[0] || other[1] <= *low);
            if !apart || of != all {
                return None;
            }
        }
        Some(self.graph.shape(*all)[0].saturating_add(selected.len()))
    }

    /// Counts of the tops that follow from those of the bottoms, and the counts that the
    /// layer asks for. Errors: `Unsupported` where the layer needs all elements of a
    /// bottom whose number depends on the data.
    fn counts(
        &self,
        layer: &Layer,
        op: &Op,
        bottoms: &[BlobId],
        tops: &[Shape],
    ) -> Result<(Vec<Option<Count>>, Vec<BlobId>)> {
        let own: Vec<_> = bottoms.iter().map(|&b| self.graph[b].count).collect();
        let mut known = vec![None; tops.len()];
        let asked = own.iter().flatten().map(|count| count.blob);
        if op.takes_counts() {
            return Ok((known, asked.collect()));
        }
        let shapes: Vec<Shape> = bottoms
            .iter()
            .map(|&b| self.graph.shape(b).clone())
            .collect();
        for (b, count) in own.iter().enumerate() {
            let Some(count) = count else { continue };
            for (known, top) in known.iter_mut().zip(tops) {
                let axis = op.carries(b, count.axis, &shapes, top);
                let carried = axis.map(|axis| Count { axis, ..*count });
                if carried.is_none() || known.is_some() && *known != carried {
                    let message = format!(
                        "type {} after `{}`, whose number of elements along axis {} depends on the data",
                        layer.type_name(),
                        self.graph[bottoms[b]].name,
                        count.axis
                    );
                    return Err(layer.unsupported(&format!("bottom[{b}]"), message).into());
                }
                *known = carried;
            }
        }
        Ok((known, Vec::new()))
    }

    /// The tops of layer `i` as inputs of the graph.
    fn inputs(&mut self, i: usize, feeds: Vec<Feed>) -> Result<()> {
        let layer = &self.layers[i];
        let mut shapes = Vec::new();
        let mut defaults = Vec::new();
        for (name, feed) in layer.tops().iter().zip(feeds) {
            let shape = self.input_shape(layer, name, feed.shape)?;
            let fill = |filler| default_values(layer, name, shape.clone(), filler);
            defaults.push(feed.default.map(fill).transpose()?);
            shapes.push(shape);
        }
        check_tops_shapes(layer, &[], &shapes)?;
        let tops = self.blobs(i, shapes);
        self.graph.inputs.extend(&tops);
        let defaults = tops.iter().zip(defaults);
        let known = defaults.filter_map(|(&top, default)| Some((top, default?)));
        self.graph.defaults.extend(known);
        self.name_tops(i, Some(&tops), None);
        Ok(())
    }

    fn input_shape(&self, layer: &Layer, name: &str, declared: Option<Shape>) -> Result<Shape> {
        let given = self.options.shapes.get(name).cloned();
        let shape = given.or(declared).ok_or_else(|| {
            let message = format!("the file does not tell the shape of input `{name}`");
            let d = Diagnostic::new(Kind::Open, message).at(layer.span());
            d.layer(layer.name())
                .help(format!("give it: --shape {name}=1x3x224x224"))
        })?;
        match self.options.batch {
            Some(batch) if !shape.is_empty() => {
                let mut dims = shape.to_vec();
                dims[0] = batch;
                Shape::new(dims)
            }
            _ => Ok(shape),
        }
    }

    fn blobs(&mut self, i: usize, shapes: Vec<Shape>) -> Vec<BlobId> {
        let names = self.layers[i].tops();
        let blobs = names.iter().zip(shapes);
        blobs
            .map(|(name, shape)| self.graph.add_blob(name, shape))
            .collect()
    }

    /// Gives the top names of layer `i` their new meaning; `storage` is the memory
    /// that Caffe's layer hands on from its bottom.
    fn name_tops(&mut self, i: usize, blobs: Option<&[BlobId]>, storage: Option<usize>) {
        let layer = &self.layers[i];
        for (t, name) in layer.tops().iter().enumerate() {
            let blob = blobs.map(|b| b[t]);
            let known = self.names.get(name.as_str());
            if known.is_some() && !layer.in_place(t) {
                continue; // reported as made twice
            }
            let old = known.map(|n| (n.maker, n.storage));
            let storage = old.map(|(_, s)| s).or(storage).unwrap_or_else(|| {
                self.storage.push(None);
                self.storage.len() - 1
            });
            self.storage[storage] = blob;
            let name_of = Name {
                maker: old.map_or(i, |(maker, _)| maker),
                blob,
                storage,
                from: blob,
            };
            self.names.insert(name, name_of);
        }
        // Several tops on one storage: what the last one wrote is what all hold.
        for name in layer.tops() {
            if let Some(name) = self.names.get_mut(name.as_str()) {
                name.from = self.storage[name.storage];
            }
        }
    }

    /// The blob that `name` stands for now. If an in-place layer has written to its
    /// memory under another name, that is a new view of what was written.
    fn current(&mut self, name: &str) -> Option<BlobId> {
        let entry = self.names.get_mut(name)?;
        let written = self.storage[entry.storage];
        if entry.from == written {
            return entry.blob;
        }
        let (Some(old), Some(written)) = (entry.blob, written) else {
            return None;
        };
        let shape = self.graph.shape(old).clone();
        let view = self.graph.add_blob(name, shape.clone());
        self.graph[view].count = self.graph[old].count;
        let maker = &self.layers[entry.maker];
        self.graph.nodes.push(Node {
            name: maker.name().to_string(),
            op: Op::Reshape(Reshape::to(&shape)),
            bottoms: vec![written],
            counts: 0,
            tops: vec![view],
            params: Vec::new(),
            epilogue: Epilogue::default(),
            layers: Vec::new(),
            at: maker.span(),
        });
        entry.blob = Some(view);
        entry.from = Some(written);
        Some(view)
    }

    /// The bottoms of layer `i`; `None` if one of them is not known.
    fn bottoms(&mut self, i: usize) -> Option<Vec<BlobId>> {
        let layer = &self.layers[i];
        let mut blobs = Vec::new();
        for (b, name) in layer.bottoms().iter().enumerate() {
            if !self.names.contains_key(name.as_str()) {
                let unknown = self.unknown_bottom(i, b);
                self.errors.push(unknown);
            }
            blobs.push(self.current(name));
        }
        blobs.into_iter().collect()
    }

    fn unknown_bottom(&self, i: usize, b: usize) -> Diagnostic {
        let layer = &self.layers[i];
        let name = &layer.bottoms()[b];
        let d = layer.invalid(
            &format!("bottom[{b}]"),
            format!("no layer makes bottom `{name}`"),
        );
        if self.errors.len() > EXPLAINED {
            return d;
        }
        let makes = |l: &&Layer| l.tops().contains(name) && !l.bottoms().contains(name);
        if let Some(later) = self.layers[i..].iter().find(makes) {
            return later.explain(d, "a later layer makes it");
        }
        if let Some(other) = self.elsewhere.iter().find(makes) {
            return other.explain(d, "a layer of another phase, level or stage makes it");
        }
        match did_you_mean(name, self.names.keys().copied()) {
            Some(known) => d.help(format!("did you mean `{known}`?")),
            None => d,
        }
    }

    /// Caffe's rules on the number of some repeated fields (`net.cpp`, `layer.hpp`).
    fn check_counts(&mut self, layer: &Layer) {
        let loss_weights = match layer.param.loss_weight.len() {
            0 => None,
            given => Some(("loss_weight", given, labels::tops_in_caffe(layer), "top")),
        };
        let propagate = match layer.param.propagate_down.len() {
            0 => None,
            given => Some(("propagate_down", given, layer.bottoms().len(), "bottom")),
        };
        for (field, given, blobs, what) in [loss_weights, propagate].into_iter().flatten() {
            if given != blobs {
                let message = format!(
                    "`{field}` is given {given} times: it must be missing or given once for each of the {blobs} {what}s"
                );
                self.errors.push(layer.invalid(field, message));
            }
        }
    }

    /// Errors for tops that another layer has made, and in-place work that Caffe
    /// does not recognise or that would have no defined result.
    fn check_tops(&mut self, i: usize) {
        let layer = &self.layers[i];
        let mut seen = HashSet::new();
        for (t, name) in layer.tops().iter().enumerate() {
            let field = format!("top[{t}]");
            let error = if !seen.insert(name) {
                Some(layer.invalid(&field, format!("`{name}` is named twice as a top")))
            } else if !layer.in_place(t) {
                let maker = self.names.get(name.as_str()).map(|n| n.maker);
                maker.map(|m| self.made_twice(layer, &field, name, m))
            } else if t > 0 {
                let message = format!("working in place on bottom {t} (`{name}`)");
                Some(layer.unsupported(&field, message))
            } else {
                self.check_in_place(i)
            };
            self.errors.extend(error);
        }
    }

    fn made_twice(&self, layer: &Layer, field: &str, name: &str, maker: usize) -> Diagnostic {
        let d = layer.invalid(
            field,
            format!("top `{name}` is already made by another layer"),
        );
        let d = self.layers[maker].explain(d, "first made here");
        match layer.bottoms().iter().any(|b| b == name) {
            true => d.help("a layer works in place only if top and bottom have the same position"),
            false => d,
        }
    }

    /// In-place work on a blob that others read as well, or whose memory another
    /// bottom of the same layer shares.
    fn check_in_place(&self, i: usize) -> Option<Diagnostic> {
        let layer = &self.layers[i];
        let name = layer.bottoms()[0].as_str();
        let source = self.wiring.sources[i][0]?;
        let others = self.wiring.reads_of(source);
        if others.len() > 1 || self.wiring.has_loss_weight(self.layers, source) {
            let message = format!(
                "`{name}` is read by other layers as well, so this one cannot work in place"
            );
            let d = layer.invalid("top[0]", message);
            let other = others.iter().find(|&&(l, _)| l != i);
            return Some(match other {
                Some(&(l, _)) => self.layers[l].explain(d, "also read here"),
                None => d,
            });
        }
        let storage = self.names.get(name)?.storage;
        let shares = |b: &String| {
            self.names
                .get(b.as_str())
                .is_some_and(|n| n.storage == storage)
        };
        let twin = layer.bottoms()[1..].iter().find(|&b| shares(b))?;
        let message =
            format!("working in place on `{name}`, whose memory is also that of bottom `{twin}`");
        Some(layer.unsupported("top[0]", message))
    }

    /// Options that name what the net does not have.
    fn check_options(&mut self) {
        let inputs: Vec<&str> = self
            .graph
            .inputs
            .iter()
            .map(|&b| self.graph[b].name.as_str())
            .collect();
        if self.errors.is_empty() {
            for name in self
                .options
                .shapes
                .keys()
                .filter(|n| !inputs.contains(&n.as_str()))
            {
                let d = Diagnostic::invalid(format!("--shape: the net has no input `{name}`"));
                self.errors
                    .push(d.help(format!("its inputs are: {}", inputs.join(", "))));
            }
            for name in &self.options.blobs {
                if !self.names.contains_key(name.as_str()) {
                    let d = Diagnostic::invalid(format!("the net has no blob `{name}`"));
                    let known = did_you_mean(name, self.names.keys().copied());
                    self.errors.push(match known {
                        Some(known) => d.help(format!("did you mean `{known}`?")),
                        None => d,
                    });
                }
            }
        }
        if self.layers.is_empty() {
            self.errors
                .push(Diagnostic::invalid("the net has no layers"));
        }
    }

    /// Outputs and names, and what nobody needs goes.
    fn finish(&mut self, dropped: &[bool]) {
        let names: Vec<&str> = self.names.keys().copied().collect();
        for &name in &names {
            if let Some(blob) = self.current(name) {
                self.graph.names.insert(name.to_string(), blob);
            }
        }
        let unread = self.wiring.unread(self.layers, dropped);
        let mut outputs: Vec<BlobId> = unread
            .iter()
            .filter_map(|name| self.graph.names.get(*name).copied())
            .collect();
        if self.options.fed.is_some() {
            self.drop_unfed_outputs(&mut outputs);
        }
        for name in &self.options.blobs {
            if let Some(&blob) = self.graph.names.get(name)
                && !outputs.contains(&blob)
            {
                outputs.push(blob);
            }
        }
        self.graph.outputs = outputs;
        let counts: BTreeSet<BlobId> = self.graph.output_counts().collect();
        self.graph.outputs.extend(counts);
        if self.options.fed.is_some() {
            self.graph.drop_unneeded(|name| self.options.feeds(name));
        }
    }

    /// Inputs that nobody reads and nobody feeds, such as labels, are no outputs
    /// either, unless there is nothing else.
    fn drop_unfed_outputs(&self, outputs: &mut Vec<BlobId>) {
        let idle =
            |b: &BlobId| self.graph.inputs.contains(b) && !self.options.feeds(&self.graph[*b].name);
        if !outputs.iter().all(idle) {
            outputs.retain(|b| !idle(b));
        }
    }
}

/// What the filler gives for the input `name`, the same whenever it is asked.
fn default_values(
    layer: &Layer,
    name: &str,
    shape: Shape,
    filler: FillerParameter,
) -> Result<FloatData> {
    let stream = Stream::new(1).derive(name, 0);
    let filled = weights::fill(&ParamSpec { shape, filler }, stream);
    let at = layer.span_of("dummy_data_param.data_filler");
    Ok(filled.map_err(|d| d.at(at).layer(layer.name()))?)
}

/// Errors: `Invalid` for blobs without elements, on which Caffe aborts when it
/// runs, and for in-place layers that would change the shape, but for axes of size 1 up
/// to the old four.
fn check_tops_shapes(layer: &Layer, bottoms: &[Shape], tops: &[Shape]) -> Result<()> {
    for (t, shape) in tops.iter().enumerate().take(layer.tops().len()) {
        let name = &layer.tops()[t];
        if shape.count() == 0 {
            let message = format!("top `{name}` would be {shape}, without any element");
            return Err(layer.invalid(&format!("top[{t}]"), message).into());
        }
        let kept = |bottom: &Shape| bottom == shape || bottom.nchw().is_some_and(|d| d == **shape);
        if layer.in_place(t) && !kept(&bottoms[t]) {
            let message = format!(
                "cannot work in place: `{name}` of {} would become {shape}",
                bottoms[t]
            );
            return Err(layer.invalid(&format!("top[{t}]"), message).into());
        }
    }
    Ok(())
}

impl Graph {
    fn named(name: &str) -> Graph {
        Graph {
            name: name.to_string(),
            nodes: Vec::new(),
            blobs: Vec::new(),
            params: Vec::new(),
            inputs: Vec::new(),
            defaults: BTreeMap::new(),
            outputs: Vec::new(),
            names: BTreeMap::new(),
            chains: Vec::new(),
        }
    }

    fn add_blob(&mut self, name: &str, shape: Shape) -> BlobId {
        let name = name.to_string();
        self.blobs.push(Blob {
            name,
            shape,
            count: None,
        });
        BlobId(self.blobs.len() as u32 - 1)
    }

    /// Removes nodes, inputs and names that no output needs, but for inputs that the
    /// caller `feeds`.
    fn drop_unneeded(&mut self, feeds: impl Fn(&str) -> bool) {
        let mut needed = vec![false; self.blobs.len()];
        for output in &self.outputs {
            needed[output.0 as usize] = true;
        }
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.reverse();
        nodes.retain(|node| {
            let live = node.tops.iter().any(|t| needed[t.0 as usize]);
            if live {
                let own = node.bottoms.iter().chain(&node.tops);
                own.for_each(|b| needed[b.0 as usize] = true);
            }
            live
        });
        nodes.reverse();
        self.nodes = nodes;
        for &input in &self.inputs {
            needed[input.0 as usize] |= feeds(&self.blobs[input.0 as usize].name);
        }
        self.inputs.retain(|b| needed[b.0 as usize]);
        self.defaults.retain(|b, _| needed[b.0 as usize]);
        self.names.retain(|_, b| needed[b.0 as usize]);
    }
}
