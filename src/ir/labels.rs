//! Which losses and accuracies drop out because their labels are not there.

use super::build::Options;
use super::wiring::{Layer, Source, Wiring};
use crate::diag::Diagnostic;
use std::collections::{BTreeSet, HashSet};

/// Caffe's layer types that judge a result by labels, and which bottom is the label.
const JUDGES: &[(&str, usize)] = &[
    ("Accuracy", 1),
    ("ContrastiveLoss", 2),
    ("DetectionEvaluate", 1),
    ("EuclideanLoss", 1),
    ("HingeLoss", 1),
    ("InfogainLoss", 1),
    ("MultiBoxLoss", 3),
    ("MultinomialLogisticLoss", 1),
    ("SigmoidCrossEntropyLoss", 1),
    ("SmoothL1Loss", 1),
    ("SoftmaxWithLoss", 1),
];

/// For each layer whether it drops out, and a note for each that does: judges whose
/// label no layer makes or nobody feeds, and layers that need what these would make.
pub fn dropped(
    layers: &[Layer],
    wiring: &Wiring,
    options: &Options,
) -> (Vec<bool>, Vec<Diagnostic>) {
    let labels: Vec<Option<usize>> = layers.iter().map(label).collect();
    let unfed = match options.fed {
        Some(_) => Unfed::new(layers, wiring, &labels, options),
        None => Unfed::default(),
    };
    let mut dropped = vec![false; layers.len()];
    let mut notes = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let lost = |s: &Option<Source>| s.is_some_and(|s| dropped[s.layer]);
        let why = if wiring.sources[i].iter().any(lost) {
            Some("it needs a layer that drops out".to_string())
        } else {
            labels[i].and_then(|label| {
                let name = &layer.bottoms()[label];
                match wiring.sources[i][label] {
                    None => Some(format!("no layer makes its label `{name}`")),
                    Some(source) if unfed.drops(i, source, wiring) => {
                        Some(format!("nobody feeds its label `{name}`"))
                    }
                    Some(_) => None,
                }
            })
        };
        if let Some(why) = why {
            dropped[i] = true;
            let message = format!("{} drops out: {why}", layer.type_name());
            notes.push(layer.invalid("type", message));
        }
    }
    (dropped, notes)
}

/// The number of tops that Caffe sees: it gives a loss without a top one of its own
/// (`AutoTopBlobs`).
pub fn tops_in_caffe(layer: &Layer) -> usize {
    let loss = label(layer).is_some() && layer.type_name() != "Accuracy";
    layer.tops().len().max(usize::from(loss))
}

/// The label's position, for a layer that judges and has one.
fn label(layer: &Layer) -> Option<usize> {
    let (_, label) = JUDGES.iter().find(|(name, _)| *name == layer.type_name())?;
    (*label < layer.bottoms().len()).then_some(*label)
}

/// What is needed without any label, so that inputs beside it are labels that
/// somebody would have to feed.
#[derive(Default)]
struct Unfed {
    /// Layers that blobs asked for by name need: they stay in any case.
    asked: HashSet<usize>,
    /// Tops of layers without bottoms that are neither fed nor needed.
    inputs: HashSet<Source>,
}

impl Unfed {
    fn new(
        layers: &[Layer],
        wiring: &Wiring,
        labels: &[Option<usize>],
        options: &Options,
    ) -> Unfed {
        let asked_tops =
            tops(layers).filter(|s| options.blobs.contains(&layers[s.layer].tops()[s.top]));
        let asked = reach(wiring, asked_tops);
        let needed = reach(
            wiring,
            roots(layers, wiring, labels)
                .into_iter()
                .chain(asked.iter().copied()),
        );
        let unfed = |s: &Source| {
            let layer = &layers[s.layer];
            let feeds = |fed: &BTreeSet<String>| fed.contains(&layer.tops()[s.top]);
            let fed = options.fed.as_ref().is_some_and(feeds)
                || makes_constant(layer, s.top)
                || layer.type_name() == "Parameter";
            layer.bottoms().is_empty() && !fed && !needed.contains(s)
        };
        Unfed {
            inputs: tops(layers).filter(unfed).collect(),
            asked: asked.iter().map(|s| s.layer).collect(),
        }
    }

    fn drops(&self, judge: usize, label: Source, wiring: &Wiring) -> bool {
        !self.asked.contains(&judge)
            && !self.inputs.is_empty()
            && reach(wiring, [label])
                .iter()
                .any(|s| self.inputs.contains(s))
    }
}

/// Whether the top is `DummyData` of a constant filler: a label that needs no feeding.
/// Random values are no labels.
fn makes_constant(layer: &Layer, top: usize) -> bool {
    let dummy = layer.param.dummy_data_param.as_ref();
    let filler = dummy.and_then(|d| d.data_filler.get(top).or(d.data_filler.first()));
    layer.type_name() == "DummyData" && filler.is_none_or(|f| f.r#type() == "constant")
}

fn tops(layers: &[Layer]) -> impl Iterator<Item = Source> {
    let of = |(i, l): (usize, &Layer)| (0..l.tops().len()).map(move |t| Source::new(i, t));
    layers.iter().enumerate().flat_map(of)
}

/// What the net is for apart from judging: outputs that do not come from judges, and
/// what is judged.
fn roots(layers: &[Layer], wiring: &Wiring, labels: &[Option<usize>]) -> Vec<Source> {
    let mut judging = vec![false; layers.len()];
    let mut roots = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let from_judge = |s: &Option<Source>| s.is_some_and(|s| judging[s.layer]);
        judging[i] = labels[i].is_some() || wiring.sources[i].iter().any(from_judge);
        if let Some(label) = labels[i] {
            let judged = wiring.sources[i].iter().enumerate();
            roots.extend(judged.filter(|&(b, _)| b != label).filter_map(|(_, s)| *s));
        } else if !judging[i] && !layer.bottoms().is_empty() {
            let all = (0..layer.tops().len()).map(|t| Source::new(i, t));
            roots.extend(all.filter(|&s| wiring.reads_of(s).is_empty()));
        }
    }
    roots
}

/// All tops that these come from, themselves included.
fn reach(wiring: &Wiring, from: impl IntoIterator<Item = Source>) -> HashSet<Source> {
    let mut open: Vec<Source> = from.into_iter().collect();
    let mut found: HashSet<Source> = open.iter().copied().collect();
    while let Some(source) = open.pop() {
        for bottom in wiring.sources[source.layer].iter().flatten() {
            if found.insert(*bottom) {
                open.push(*bottom);
            }
        }
    }
    found
}
