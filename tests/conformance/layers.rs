//! `layers/`: one small net per case, with outputs, or refused by Caffe.

use crate::engines::Engine;
use crate::net::{Run, difference, members, shapes, state, texts};
use crate::{Outcome, Verdict};
use caffec::diag::{Errors, Result, Sources};
use caffec::frontend::Dialect;
use caffec::ir::{Options, Tensor};
use caffec::runtime::npy::read_npy;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder with `net.prototxt`, arrays and `case.json`.
pub struct Case {
    folder: PathBuf,
    json: Value,
}

type Blobs = Result<Vec<(String, Tensor)>>;

impl Case {
    pub fn read(folder: &Path) -> Case {
        let text = std::fs::read(folder.join("case.json")).unwrap();
        Case {
            folder: folder.to_path_buf(),
            json: serde_json::from_slice(&text).unwrap(),
        }
    }

    pub fn outcome(&self, engine: &Engine) -> Outcome {
        let text = |key: &str| self.text(key).to_string();
        Outcome::of(text("id"), text("layer"), engine.name, || {
            self.verdict(engine)
        })
    }

    /// Id, group and run of a case that Caffe accepts.
    pub fn accepted(&self) -> Option<(String, String, Run)> {
        let text = |key: &str| self.text(key).to_string();
        let weights = texts(&self.json["weights"]);
        let run = self.run(weights.first().copied());
        (self.text("expect") == "ok").then(|| (text("id"), text("layer"), run))
    }

    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    fn tagged(&self, tag: &str) -> bool {
        texts(&self.json["tags"]).contains(&tag)
    }

    fn verdict(&self, engine: &Engine) -> Verdict {
        let weights = texts(&self.json["weights"]);
        let files: Vec<Option<&str>> = match weights[..] {
            [] => vec![None],
            _ => weights.into_iter().map(Some).collect(),
        };
        let verdicts = files.into_iter().map(|file| {
            let mut sources = Sources::default();
            let result = self.run(file).run(engine, &mut sources);
            if result.is_err() && self.tagged("refusal-welcome") {
                return Verdict::Pass;
            }
            match self.text("expect") {
                "ok" => self.judge(result, &sources),
                _ => self.judge_refusal(result, &sources),
            }
        });
        let worst = verdicts.into_iter().find(|v| *v != Verdict::Pass);
        worst.unwrap_or(Verdict::Pass)
    }

    fn run(&self, weights: Option<&str>) -> Run {
        let inputs: BTreeMap<String, Tensor> = members(&self.json["inputs"])
            .map(|(name, v)| (name.clone(), self.array(v)))
            .collect();
        Run {
            prototxt: self.folder.join("net.prototxt"),
            weights: weights.map(|w| self.folder.join(w)),
            state: state(&self.json),
            options: Options {
                blobs: self.blobs().map(|(name, _)| name.clone()).collect(),
                fed: (self.text("expect") == "ok").then(|| inputs.keys().cloned().collect()),
                shapes: match self.tagged("runtime-reshape") {
                    true => shapes(&inputs),
                    false => BTreeMap::new(),
                },
                dialect: Dialect::named(self.text("dialect")),
                ..Options::default()
            },
            inputs,
            forwards: if self.tagged("stateful") { 2 } else { 1 },
        }
    }

    fn array(&self, entry: &Value) -> Tensor {
        read_npy(&self.folder.join(entry["file"].as_str().unwrap())).unwrap()
    }

    fn blobs(&self) -> impl Iterator<Item = (&String, &Value)> {
        members(&self.json["blobs"])
    }

    fn judge(&self, result: Blobs, sources: &Sources) -> Verdict {
        let got = match result {
            Ok(got) => got,
            Err(errors) => return Verdict::of(&errors, sources),
        };
        let outputs = texts(&self.json["outputs"]);
        let names = got.iter().map(|(n, _)| n.as_str());
        let names: Vec<&str> = names.take(outputs.len()).collect();
        if names != outputs {
            return Verdict::Fail(format!("outputs {names:?}, not {outputs:?}"));
        }
        for (name, entry) in self.blobs() {
            let Some((_, blob)) = got.iter().find(|(n, _)| n == name) else {
                return Verdict::Fail(format!("no blob `{name}`"));
            };
            let exact = entry["exact"].as_bool().unwrap();
            if let Some(why) = difference(blob, &self.array(entry), exact, 1e-5) {
                return Verdict::Fail(format!("blob `{name}`: {why}"));
            }
        }
        Verdict::Pass
    }

    /// A refusal must say where, unless it is about binary weights or the whole file,
    /// and must not be for the want of a layer type that Caffe has.
    fn judge_refusal(&self, result: Blobs, sources: &Sources) -> Verdict {
        let Err(errors) = result else {
            return Verdict::Fail(format!("not refused; Caffe: {}", self.text("reason")));
        };
        let text = sources.render_all(&errors);
        let other = |e: &Errors| e.0.iter().all(|d| d.message.starts_with("layer type `"));
        if other(&errors) && !["refuse-unknown-type", "refuse-no-type"].contains(&self.text("id")) {
            return Verdict::Unsupported(text);
        }
        let located = errors.0.iter().all(|d| d.at.is_some());
        // What runs knows no file.
        let no_file = ["weights", "forward"].contains(&self.text("stage"));
        if !located && !no_file && self.text("id") != "refuse-empty-file" {
            return Verdict::Fail(format!("refused without a place: {text}"));
        }
        Verdict::Pass
    }
}
