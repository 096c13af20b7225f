//! Holds every engine against outputs recorded from Caffe itself.
//!
//! The cases are not part of the project: `CAFFEC_CONFORMANCE` names their folder, and
//! its README tells the formats. Without it the tests say so and pass.

use caffec::diag::{Errors, Kind, Result, Sources};
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::proto::Phase;
use caffec::frontend::weights::{self, Missing};
use caffec::frontend::{State, load_net};
use caffec::ir::{BlobId, Options, Tensor, Valid, build, reference};
use caffec::runtime::npy::read_npy;
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that computes `graph.outputs` from `graph.inputs`.
struct Engine {
    name: &'static str,
    run: fn(&Valid, &[Tensor]) -> Result<Vec<Tensor>>,
}

const ENGINES: &[Engine] = &[Engine {
    name: "reference",
    run: |graph, inputs| reference::run(graph, inputs, &graph.outputs),
}];

/// Groups of cases that must pass whole: layer types, chains and rules of the net.
const DONE: &[&str] = &[
    "Accuracy",
    "ArgMax",
    "BatchNorm",
    "Bias",
    "Concat",
    "Convolution",
    "Deconvolution",
    "Dropout",
    "DummyData",
    "Eltwise",
    "Flatten",
    "InnerProduct",
    "Input",
    "LRN",
    "PReLU",
    "Pooling",
    "Power",
    "ReLU",
    "Reshape",
    "Scale",
    "Sigmoid",
    "Silence",
    "Slice",
    "Softmax",
    "SoftmaxWithLoss",
    "Split",
    "TanH",
    "net",
    "state",
];

/// Cases that are right as they are although they do not pass, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("dummydata-no-filler", "also has an Exp layer"),
    ("net-odd-blob-names", "also has an Exp layer"),
    ("scale-by-0-axis-blob", "also has a Reduction layer"),
    ("silence-one", "also has an AbsVal layer"),
];

#[derive(Debug, PartialEq)]
enum Verdict {
    Pass,
    Fail(String),
    /// Valid Caffe that caffec does not do yet, and says so.
    Unsupported(String),
    Skipped(&'static str),
}

struct Outcome {
    id: String,
    group: String,
    engine: &'static str,
    verdict: Verdict,
}

#[test]
fn layers() {
    let Some(folder) = conformance() else { return };
    let cases = folders(&folder.join("layers"));
    let outcomes = run_all(&cases);
    print_table(&outcomes);
    let wrong: Vec<String> = outcomes.iter().filter_map(complaint).collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn conformance() -> Option<PathBuf> {
    let folder = std::env::var_os("CAFFEC_CONFORMANCE").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CAFFEC_CONFORMANCE does not name the folder of cases");
    }
    folder
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).expect("CAFFEC_CONFORMANCE is a folder of cases");
    let mut folders: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("case.json").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no cases in {}", parent.display());
    folders
}

/// Why an outcome is not as it should be.
fn complaint(outcome: &Outcome) -> Option<String> {
    let excepted = EXCEPTIONS.iter().any(|(id, _)| *id == outcome.id);
    let why = match &outcome.verdict {
        Verdict::Pass if excepted => "passes, but is listed as an exception",
        Verdict::Fail(why) if !excepted => why,
        Verdict::Unsupported(why) if !excepted && DONE.contains(&outcome.group.as_str()) => why,
        _ => return None,
    };
    Some(format!("{} on {}: {why}", outcome.id, outcome.engine))
}

fn run_all(cases: &[PathBuf]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(folder) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = run_case(folder);
                    outcomes.lock().unwrap().extend(found);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by(|a, b| (&a.group, &a.id).cmp(&(&b.group, &b.id)));
    outcomes
}

fn run_case(folder: &Path) -> Vec<Outcome> {
    let case = Case::read(folder);
    let outcome = |engine: &'static str, verdict| Outcome {
        id: case.text("id").to_string(),
        group: case.text("layer").to_string(),
        engine,
        verdict,
    };
    let run = |engine: &Engine| {
        let verdict = catch_unwind(AssertUnwindSafe(|| case.verdict(engine)));
        let verdict = verdict.unwrap_or_else(|_| Verdict::Fail("panic".into()));
        outcome(engine.name, verdict)
    };
    ENGINES.iter().map(run).collect()
}

/// A folder with `net.prototxt`, arrays and `case.json`.
struct Case {
    folder: PathBuf,
    json: Value,
}

impl Case {
    fn read(folder: &Path) -> Case {
        let text = std::fs::read(folder.join("case.json")).unwrap();
        Case {
            folder: folder.to_path_buf(),
            json: serde_json::from_slice(&text).unwrap(),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    fn texts<'a>(&'a self, key: &str) -> Vec<&'a str> {
        let list = self.json[key].as_array().into_iter().flatten();
        list.map(|v| v.as_str().unwrap()).collect()
    }

    fn verdict(&self, engine: &Engine) -> Verdict {
        if self.texts("tags").contains(&"stateful") {
            return Verdict::Skipped("two forward calls on one net");
        }
        let weights = self.texts("weights");
        let files: Vec<Option<&str>> = match weights[..] {
            [] => vec![None],
            _ => weights.into_iter().map(Some).collect(),
        };
        let verdicts = files.into_iter().map(|file| {
            let mut sources = Sources::default();
            let result = self.run(engine, file, &mut sources);
            if result.is_err() && self.texts("tags").contains(&"refusal-welcome") {
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

    /// The graph's outputs by name, Caffe's own first, and how many these are.
    fn run(
        &self,
        engine: &Engine,
        weights: Option<&str>,
        sources: &mut Sources,
    ) -> Result<Vec<(String, Tensor)>> {
        let path = self.folder.join("net.prototxt");
        let state = State {
            phase: match self.text("phase") {
                "TRAIN" => Phase::Train,
                _ => Phase::Test,
            },
            level: self.json["level"].as_i64().unwrap_or(0) as i32,
            stages: self.texts("stages").iter().map(|s| s.to_string()).collect(),
        };
        let text = std::fs::read(path).unwrap();
        let net = load_net("net.prototxt", text, sources, &state)?;
        let inputs = self.inputs();
        let (mut graph, _) = build(&net, &self.options(&inputs)).valid()?;
        load_weights(&mut graph, weights.map(|w| self.folder.join(w)))?;
        let name = |&blob: &BlobId| graph[blob].name.clone();
        let fed: Vec<Tensor> = graph
            .inputs
            .iter()
            .map(|b| inputs[&name(b)].clone())
            .collect();
        let outputs = (engine.run)(&graph, &fed)?;
        Ok(graph.outputs.iter().map(name).zip(outputs).collect())
    }

    fn inputs(&self) -> BTreeMap<String, Tensor> {
        let inputs = self.json["inputs"].as_object().into_iter().flatten();
        inputs
            .map(|(name, v)| {
                let file = self.folder.join(v["file"].as_str().unwrap());
                (name.clone(), read_npy(&file).unwrap())
            })
            .collect()
    }

    fn options(&self, inputs: &BTreeMap<String, Tensor>) -> Options {
        let mut options = Options {
            blobs: self.blobs().map(|(name, _)| name.clone()).collect(),
            fed: (self.text("expect") == "ok").then(|| inputs.keys().cloned().collect()),
            fill_dummy_data: true,
            ..Options::default()
        };
        if self.texts("tags").contains(&"runtime-reshape") {
            let shapes = inputs.iter().map(|(n, t)| (n.clone(), t.shape.clone()));
            options.shapes = shapes.collect();
        }
        options
    }

    fn blobs(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.json["blobs"].as_object().into_iter().flatten()
    }

    fn judge(&self, result: Result<Vec<(String, Tensor)>>, sources: &Sources) -> Verdict {
        let got = match result {
            Ok(got) => got,
            Err(e) if e.0.iter().all(|d| d.kind == Kind::Unsupported) => {
                return Verdict::Unsupported(sources.render_all(&e));
            }
            Err(e) => return Verdict::Fail(sources.render_all(&e)),
        };
        let outputs = self.texts("outputs");
        let names: Vec<&str> = got
            .iter()
            .map(|(n, _)| n.as_str())
            .take(outputs.len())
            .collect();
        if names != outputs {
            return Verdict::Fail(format!("outputs {names:?}, not {outputs:?}"));
        }
        for (name, want) in self.blobs() {
            let file = self.folder.join(want["file"].as_str().unwrap());
            let want_blob = read_npy(&file).unwrap();
            let exact = want["exact"].as_bool().unwrap();
            let Some((_, blob)) = got.iter().find(|(n, _)| n == name) else {
                return Verdict::Fail(format!("no blob `{name}`"));
            };
            if let Some(why) = difference(blob, &want_blob, exact, 1e-5) {
                return Verdict::Fail(format!("blob `{name}`: {why}"));
            }
        }
        Verdict::Pass
    }

    /// A refusal must say where, unless it is about binary weights or the whole file,
    /// and must not be for the want of a layer type that Caffe has.
    fn judge_refusal(&self, result: Result<Vec<(String, Tensor)>>, sources: &Sources) -> Verdict {
        let Err(errors) = result else {
            return Verdict::Fail(format!("not refused; Caffe: {}", self.text("reason")));
        };
        let text = sources.render_all(&errors);
        let other = |e: &Errors| e.0.iter().all(|d| d.message.starts_with("layer type `"));
        if other(&errors) && !["refuse-unknown-type", "refuse-no-type"].contains(&self.text("id")) {
            return Verdict::Unsupported(text);
        }
        let located = errors.0.iter().all(|d| d.at.is_some());
        if !located && self.text("stage") != "weights" && self.text("id") != "refuse-empty-file" {
            return Verdict::Fail(format!("refused without a place: {text}"));
        }
        Verdict::Pass
    }
}

/// Weights of a file, if there is one; the rest keeps its fillers, as in Caffe.
fn load_weights(graph: &mut Valid, file: Option<PathBuf>) -> Result<()> {
    let file = file.map(|f| WeightsFile::open(&f)).transpose()?;
    let files: Vec<_> = file.iter().map(|f| ("weights", f)).collect();
    graph.edit("weights", |g| weights::load(g, &files, Missing::Fill(1)))
}

/// What is wrong with a blob, if anything: shapes, infinities and NaN must be the
/// same, other values within `tolerance × max(1, largest)`.
fn difference(got: &Tensor, want: &Tensor, exact: bool, tolerance: f32) -> Option<String> {
    if got.shape != want.shape {
        return Some(format!("is {}, not {}", got.shape, want.shape));
    }
    let finite = want.data.iter().filter(|w| w.is_finite());
    let largest = finite.fold(1.0f32, |m, w| m.max(w.abs()));
    let limit = f64::from(tolerance * largest);
    let same = |g: f32, w: f32| {
        let equal = g == w || g.is_nan() && w.is_nan();
        let near = g.is_finite() && w.is_finite() && (f64::from(g) - f64::from(w)).abs() <= limit;
        equal || !exact && near
    };
    let mut pairs = got.data.iter().zip(&want.data);
    let bad = pairs.position(|(&g, &w)| !same(g, w))?;
    let count = got
        .data
        .iter()
        .zip(&want.data)
        .filter(|&(&g, &w)| !same(g, w))
        .count();
    Some(format!(
        "{count} of {} differ, first at {bad}: {:?} for {:?}",
        got.data.len(),
        got.data[bad],
        want.data[bad]
    ))
}

fn print_table(outcomes: &[Outcome]) {
    let mut rows: BTreeMap<(&str, &str), [usize; 4]> = BTreeMap::new();
    for o in outcomes {
        let total = rows.entry(("", o.engine)).or_default();
        total[column(&o.verdict)] += 1;
        rows.entry((&o.group, o.engine)).or_default()[column(&o.verdict)] += 1;
    }
    println!(
        "{:<28}{:<12}{:>6}{:>6}{:>13}{:>9}",
        "cases", "engine", "pass", "fail", "unsupported", "skipped"
    );
    for ((group, engine), [pass, fail, unsupported, skipped]) in rows {
        let group = if group.is_empty() { "all" } else { group };
        println!("{group:<28}{engine:<12}{pass:>6}{fail:>6}{unsupported:>13}{skipped:>9}");
    }
    for o in outcomes.iter().filter(|o| o.verdict != Verdict::Pass) {
        match &o.verdict {
            Verdict::Pass => {}
            Verdict::Fail(why) => println!("FAIL {} on {}: {why}", o.id, o.engine),
            Verdict::Unsupported(why) => println!("unsupported {}: {why}", o.id),
            Verdict::Skipped(why) => println!("skipped {}: {why}", o.id),
        }
    }
    for (id, why) in EXCEPTIONS {
        println!("exception {id}: {why}");
    }
}

fn column(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Fail(_) => 1,
        Verdict::Unsupported(_) => 2,
        Verdict::Skipped(_) => 3,
    }
}
