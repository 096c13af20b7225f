//! Holds every engine against outputs recorded from Caffe itself.
//!
//! The cases are no part of the project: `CAFFEC_CONFORMANCE` names their folder, whose
//! README tells the formats, and `CAFFEC_ZOO` that of the nets which some of them are
//! about. Without these the tests say so and pass.

mod emitted;
mod engines;
mod layers;
mod models;
mod net;
mod shapes;

use caffec::diag::{Errors, Kind, Sources};
use engines::ENGINES;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases that do not pass and on which engines, with the reason.
const EXCEPTIONS: &[(&str, &[&str], &str)] = &[
    (
        "rpn-proposal-roipool",
        &["reference", "passes", "interpreter", "jit", "jit unfused"],
        "its fork uses memory again: the recorded `rois` are what came after them",
    ),
    (
        "normalize-happynear-l2",
        &["reference", "passes", "interpreter", "jit", "jit unfused"],
        "nothing in the net tells whose Normalize it is",
    ),
    (
        "AbhimanyuKulkarni-caffe.nin_imagenet-deploy",
        &["builder"],
        "layers of both forms: Caffe refuses, and an old fork sees only one of them",
    ),
    (
        "X2Paddle.MNasNet-deploy_MnasNet",
        &["builder"],
        "a DepthwiseConvolution without group is dense in its fork",
    ),
    (
        "cascade-rcnn.coco-res50-15s-800-fpn-cascade-deploy",
        &["builder"],
        "Concat of blobs whose lengths the data tells, along that axis",
    ),
    (
        "snps.icnet-icnet_cityscapes_merge_subgraph",
        &["builder"],
        "ICNetSubgraph of Synopsys: a net of its own in one layer",
    ),
];

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Pass,
    Fail(String),
    /// Valid Caffe that caffec does not do yet, and says so.
    Unsupported(String),
    Skipped(&'static str),
}

impl Verdict {
    /// Of a net that Caffe accepts.
    pub fn of(errors: &Errors, sources: &Sources) -> Verdict {
        let text = sources.render_all(errors);
        match errors.0.iter().all(|d| d.kind == Kind::Unsupported) {
            true => Verdict::Unsupported(text),
            false => Verdict::Fail(text),
        }
    }
}

/// How a case went on an engine.
pub struct Outcome {
    id: String,
    group: String,
    engine: &'static str,
    verdict: Verdict,
}

impl Outcome {
    /// Runs `verdict`; a panic is a failure.
    pub fn of(
        id: String,
        group: String,
        engine: &'static str,
        verdict: impl FnOnce() -> Verdict,
    ) -> Outcome {
        let verdict = catch_unwind(AssertUnwindSafe(verdict)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Verdict::Fail(format!("panic: {}", text.unwrap_or("no message")))
        });
        Outcome {
            id,
            group,
            engine,
            verdict,
        }
    }

    /// Why it is not as it should be.
    fn complaint(&self) -> Option<String> {
        let excepted = EXCEPTIONS
            .iter()
            .any(|(id, engines, _)| *id == self.id && engines.contains(&self.engine));
        let why = match &self.verdict {
            Verdict::Pass if excepted => "passes, but is listed as an exception",
            Verdict::Fail(why) if !excepted => why,
            Verdict::Unsupported(why) if !excepted => why,
            _ => return None,
        };
        Some(format!("{} on {}: {why}", self.id, self.engine))
    }
}

#[test]
fn layer_cases() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let cases = paths(&folder.join("layers"), |p| p.join("case.json").exists());
    let outcomes = on_all_cores(&cases, |path| {
        let case = layers::Case::read(path);
        ENGINES.iter().map(|e| case.outcome(e)).collect()
    });
    check(&outcomes);
}

#[test]
fn fork_cases() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let cases = paths(&folder.join("forks"), |p| p.join("case.json").exists());
    let outcomes = on_all_cores(&cases, |path| {
        let case = layers::Case::read(path);
        ENGINES.iter().map(|e| case.outcome(e)).collect()
    });
    check(&outcomes);
}

/// One case of every layer type, and all of chains and rules of the net.
#[test]
fn emitted_cases() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for kind in ["layers", "forks"] {
        for path in paths(&folder.join(kind), |p| p.join("case.json").exists()) {
            let Some((id, group, run)) = layers::Case::read(&path).accepted() else {
                continue;
            };
            let all = ["chain", "net"].contains(&group.as_str());
            if all || seen.insert((kind, group.clone())) {
                cases.push((id, group, run));
            }
        }
    }
    const TOGETHER: usize = 40;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let mut running = Vec::new();
        while !cases.is_empty() {
            let some = cases.split_off(cases.len().saturating_sub(TOGETHER));
            running.push(scope.spawn(|| emitted::outcomes(some)));
        }
        running
            .into_iter()
            .flat_map(|r| r.join().unwrap())
            .collect()
    });
    check(&outcomes);
}

#[test]
fn trained_models() {
    let (Some(folder), Some(zoo)) = (folder("CAFFEC_CONFORMANCE"), folder("CAFFEC_ZOO")) else {
        return;
    };
    let cases = paths(&folder.join("models"), |p| p.join("model.json").exists());
    let outcomes = on_all_cores(&cases, |path| {
        let model = models::Model::read(path, &zoo);
        let engines = ENGINES.iter().filter(|e| e.name.starts_with("jit"));
        engines.map(|e| model.outcome(e)).collect()
    });
    check(&outcomes);
}

#[test]
fn shapes_of_the_zoo() {
    let (Some(folder), Some(zoo)) = (folder("CAFFEC_CONFORMANCE"), folder("CAFFEC_ZOO")) else {
        return;
    };
    let is_case = |p: &Path| p.to_string_lossy().ends_with(".shapes.json");
    let mut cases = paths(&folder.join("shapes"), is_case);
    cases.extend(paths(&folder.join("shapes/replaced"), is_case));
    cases.extend(paths(&folder.join("shapes-forks"), is_case));
    let outcomes = on_all_cores(&cases, |path| {
        vec![shapes::Shapes::read(path, &zoo).outcome()]
    });
    check(&outcomes);
}

/// Prints a table and panics if something is not as it should be.
fn check(outcomes: &[Outcome]) {
    print_table(outcomes);
    let wrong = outcomes.iter().filter_map(Outcome::complaint);
    let wrong: Vec<String> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: {variable} does not name a folder");
    }
    folder
}

fn paths(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of cases");
    let mut paths: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| wanted(p))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no cases in {}", folder.display());
    paths
}

fn on_all_cores(cases: &[PathBuf], run: impl Fn(&Path) -> Vec<Outcome> + Sync) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = run(case);
                    outcomes.lock().unwrap().extend(found);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by(|a, b| (&a.group, &a.id).cmp(&(&b.group, &b.id)));
    outcomes
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
            Verdict::Unsupported(why) => println!("unsupported {} on {}: {why}", o.id, o.engine),
            Verdict::Skipped(why) => println!("skipped {}: {why}", o.id),
        }
    }
    for (id, engines, why) in EXCEPTIONS {
        println!("exception {id} on {}: {why}", engines.join(", "));
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
