//! `shapes/`: what Caffe makes of every net of the zoo before it runs.

use crate::net::{dims, load, members, state, texts};
use crate::{Outcome, Verdict};
use caffec::diag::{Errors, Sources};
use caffec::frontend::Dialect;
use caffec::ir::{Built, Graph, Options, build};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A `.shapes.json` and the net that it is about.
pub struct Shapes {
    slug: String,
    prototxt: PathBuf,
    json: Value,
}

impl Shapes {
    /// The net is `prototxt` beside the file, or the zoo's of the same slug.
    pub fn read(path: &Path, zoo: &Path) -> Shapes {
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let slug = file.trim_end_matches(".shapes.json").to_string();
        let beside = path.with_file_name(format!("{}.prototxt", slug.trim_end_matches(".train")));
        let prototxt = match json["prototxt"].as_str() {
            Some(name) => path.with_file_name(name),
            None if beside.exists() => beside,
            None => zoo.join(format!("{slug}.prototxt")),
        };
        Shapes {
            slug,
            prototxt,
            json,
        }
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::of(self.slug.clone(), "shapes".into(), "builder", || {
            self.verdict()
        })
    }

    fn verdict(&self) -> Verdict {
        let mut sources = Sources::default();
        let net = match load(&self.prototxt, &mut sources, &state(&self.json)) {
            Ok(net) => net,
            Err(errors) => return Verdict::of(&errors, &sources),
        };
        let fork = self.json["fork"].as_str().unwrap_or_default();
        let options = Options {
            dialect: (fork == "MhLiao/TextBoxes").then_some(Dialect::TextBoxes),
            ..Options::default()
        };
        let built = build(&net, &options);
        let whole = built.errors.is_empty();
        if let Some(why) = self.disagreement(&built, whole) {
            return Verdict::Fail(why);
        }
        match whole {
            true => Verdict::Pass,
            false => Verdict::of(&Errors(built.errors), &sources),
        }
    }

    /// Also what is built of a net with unknown layers must agree.
    fn disagreement(&self, built: &Built, whole: bool) -> Option<String> {
        let graph = &built.graph;
        let blobs: BTreeMap<&str, Vec<usize>> = graph
            .names
            .iter()
            .map(|(name, &blob)| (name.as_str(), graph.setup_shape(blob)))
            .collect();
        // A loss without a top gets one of this name, which nobody can refer to.
        let named = members(&self.json["blobs"]).filter(|(n, _)| *n != "(automatic)");
        let want = named.map(|(n, v)| (n.as_str(), dims(v)));
        let want: BTreeMap<&str, Vec<usize>> = want.collect();
        if let Some((name, shape)) = blobs.iter().find(|(n, s)| want.get(*n) != Some(s)) {
            return Some(format!(
                "blob `{name}` is {shape:?}, not {:?}",
                want.get(name)
            ));
        }
        let params = params(graph);
        let found = members(&self.json["params"]).find_map(|(layer, shapes)| {
            let shapes: Vec<Vec<usize>> = shapes.as_array().unwrap().iter().map(dims).collect();
            let have = params.get(layer);
            let wrong = have.map_or(whole, |h| *h != shapes);
            wrong.then(|| format!("parameters of `{layer}` are {have:?}, not {shapes:?}"))
        });
        if found.is_some() || !whole {
            return found;
        }
        let names = |blobs: &[caffec::ir::BlobId]| -> Vec<String> {
            blobs.iter().map(|&b| graph[b].name.clone()).collect()
        };
        let (outputs, inputs) = (names(graph.shown_outputs()), names(&graph.inputs));
        let inputs: BTreeSet<&str> = inputs.iter().map(String::as_str).collect();
        let missing = want.keys().find(|name| !blobs.contains_key(*name));
        if let Some(name) = missing {
            return Some(format!("no blob `{name}`"));
        }
        if outputs != texts(&self.json["outputs"]) {
            return Some(format!("outputs {outputs:?}, not {}", self.json["outputs"]));
        }
        // Caffe counts only the tops of Input layers, we also those of DummyData.
        let lost = texts(&self.json["inputs"])
            .into_iter()
            .find(|n| !inputs.contains(n));
        lost.map(|name| format!("no input `{name}`"))
    }
}

/// Shapes of parameters by layer; a second layer of one name is `name#2`.
fn params(graph: &Graph) -> BTreeMap<String, Vec<Vec<usize>>> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut params = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| !n.params.is_empty()) {
        let count = seen.entry(&node.name).or_default();
        *count += 1;
        let name = match *count {
            1 => node.name.clone(),
            n => format!("{}#{n}", node.name),
        };
        let shapes = node.params.iter().map(|&p| graph[p].spec.shape.to_vec());
        params.insert(name, shapes.collect());
    }
    params
}
