//! Which layer's top each bottom is, before any layer is built.

use crate::diag::{Diagnostic, Span};
use crate::frontend::proto::LayerParameter;
use crate::frontend::{LayerSource, Net};
use std::collections::{BTreeSet, HashMap};

/// A layer of the net and its place in the file.
pub struct Layer<'a> {
    pub param: &'a LayerParameter,
    pub source: &'a LayerSource,
    /// As [`Net::flat`] says.
    pub flat: bool,
    /// As [`Net::files`] says.
    pub file: Option<&'a [f32]>,
}

impl<'a> Layer<'a> {
    pub fn all(net: &'a Net) -> impl Iterator<Item = Layer<'a>> {
        let pairs = net.param.layer.iter().zip(&net.layers).enumerate();
        pairs.map(|(i, (param, source))| Layer {
            param,
            source,
            flat: net.flat.contains(&i),
            file: net.files.get(&i).map(Vec::as_slice),
        })
    }

    /// Those that the net does not have in its state.
    pub fn elsewhere(net: &'a Net) -> impl Iterator<Item = Layer<'a>> {
        let pairs = net.elsewhere.iter();
        pairs.map(|(param, source)| Layer {
            param,
            source,
            flat: false,
            file: None,
        })
    }

    pub fn name(&self) -> &'a str {
        self.param.name()
    }

    pub fn type_name(&self) -> &'a str {
        self.param.r#type()
    }

    pub fn bottoms(&self) -> &'a [String] {
        &self.param.bottom
    }

    pub fn tops(&self) -> &'a [String] {
        &self.param.top
    }

    /// Whether top `t` is the bottom of the same position.
    pub fn in_place(&self, t: usize) -> bool {
        t < self.tops().len() && self.bottoms().get(t) == self.tops().get(t)
    }

    pub fn span(&self) -> Option<Span> {
        self.source.span()
    }

    pub fn span_of(&self, path: &str) -> Option<Span> {
        self.source.span_of(path)
    }

    pub fn invalid(&self, field: &str, message: impl Into<String>) -> Diagnostic {
        let d = Diagnostic::invalid(message).at(self.span_of(field));
        d.layer(self.name())
    }

    pub fn unsupported(&self, field: &str, message: impl Into<String>) -> Diagnostic {
        let d = Diagnostic::unsupported(message).at(self.span_of(field));
        d.layer(self.name())
    }

    /// Adds this layer's place to a message about another.
    pub fn explain(&self, d: Diagnostic, note: &str) -> Diagnostic {
        match self.span() {
            Some(span) => d.related(span, note),
            None => d.help(format!("{note}: layer `{}`", self.name())),
        }
    }
}

/// A top: of which layer, and which of its tops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub layer: usize,
    pub top: usize,
}

impl Source {
    pub fn new(layer: usize, top: usize) -> Source {
        Source { layer, top }
    }
}

/// The bottoms of all layers resolved by name, in the order of the file: a bottom is
/// the last top of that name before it, as in Caffe's `InsertSplits`.
pub struct Wiring {
    /// For each layer and bottom the top that it is, if there is one.
    pub sources: Vec<Vec<Option<Source>>>,
    /// For each top that is read, the layers and bottoms that read it.
    reads: HashMap<Source, Vec<(usize, usize)>>,
}

impl Wiring {
    pub fn new(layers: &[Layer]) -> Wiring {
        let mut last: HashMap<&str, Source> = HashMap::new();
        let mut reads: HashMap<Source, Vec<(usize, usize)>> = HashMap::new();
        let mut sources = Vec::with_capacity(layers.len());
        for (layer, l) in layers.iter().enumerate() {
            let resolve = |name: &String| last.get(name.as_str()).copied();
            let bottoms: Vec<Option<Source>> = l.bottoms().iter().map(resolve).collect();
            for (b, source) in bottoms.iter().enumerate() {
                if let Some(source) = source {
                    reads.entry(*source).or_default().push((layer, b));
                }
            }
            sources.push(bottoms);
            for (top, name) in l.tops().iter().enumerate() {
                last.insert(name, Source { layer, top });
            }
        }
        Wiring { sources, reads }
    }

    /// The layers and bottoms that read a top.
    pub fn reads_of(&self, source: Source) -> &[(usize, usize)] {
        self.reads.get(&source).map_or(&[], Vec::as_slice)
    }

    /// Whether the top counts in the loss by the file's own words, which is one more
    /// reader to Caffe.
    pub fn has_loss_weight(&self, layers: &[Layer], source: Source) -> bool {
        let weights = &layers[source.layer].param.loss_weight;
        weights.get(source.top).is_some_and(|&w| w != 0.0)
    }

    /// Names whose last meaning no layer reads, alphabetically; layers that are
    /// `dropped` neither read nor make anything.
    pub fn unread<'a>(&self, layers: &[Layer<'a>], dropped: &[bool]) -> BTreeSet<&'a str> {
        let mut unread = BTreeSet::new();
        for (layer, l) in layers.iter().enumerate().filter(|&(i, _)| !dropped[i]) {
            for bottom in l.bottoms() {
                unread.remove(bottom.as_str());
            }
            unread.extend(l.tops().iter().map(String::as_str));
            debug_assert_eq!(self.sources[layer].len(), l.bottoms().len());
        }
        unread
    }
}
