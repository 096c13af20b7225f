//! Loading a caffemodel against reading its bytes and packing numbers that are in
//! memory already: medians of several rounds, in turns.
//!
//! `cargo bench --bench weights [fixture…] [--json]`; the weights are random, the file is cached
//! by the system.

mod common;

use caffec::diag::Sources;
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::proto::{BlobProto, BlobShape, LayerParameter, NetParameter};
use caffec::frontend::{State, load_net};
use caffec::ir::{FloatData, Valid};
use caffec::weights::Missing;
use caffec::{Options, Plan, ir, plan, weights};
use common::{Report, named_or};
use prost::Message;
use std::path::Path;
use std::time::Instant;

const ROUNDS: usize = 9;

fn main() {
    let nets = named_or(&["lenet", "nin_imagenet", "caffenet"]);
    let columns = &["net", "MB", "load ms", "read+pack ms", "ratio"];
    let mut report = Report::new("weights", columns);
    for net in nets {
        measure(&mut report, &net);
    }
}

fn measure(report: &mut Report, net: &str) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut graph = graph(net);
    graph.edit("weights", |g| {
        weights::random(g, 1);
        for param in &mut g.params {
            let floats = param.data.as_ref().map(|data| data.floats().into_owned());
            param.data = floats.map(FloatData::new);
        }
    });
    std::fs::write(file.path(), caffemodel(&graph)).expect("a written file");
    let size = file.path().metadata().expect("a file").len();
    let in_memory = planned(graph.clone());
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            (
                load(net, file.path()),
                read_and_pack(&in_memory, file.path()),
            )
        })
        .collect();
    let (load, read) = (median(&mut rounds, |r| r.0), median(&mut rounds, |r| r.1));
    let ratio = median(&mut rounds, |r| r.0 / r.1);
    report.row(net, &[size as f64 / 1e6, load, read, ratio]);
}

fn median(rounds: &mut [(f64, f64)], of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
    of(&rounds[rounds.len() / 2])
}

fn graph(net: &str) -> Valid {
    let path = format!("fixtures/{net}.prototxt");
    let bytes = std::fs::read(&path).expect("a fixture");
    let net = load_net(&path, bytes, &mut Sources::default(), &State::default());
    let built = ir::build(&net.expect("a valid net"), &ir::Options::default());
    built.valid().expect("a valid net").0
}

fn planned(graph: Valid) -> Plan {
    plan(graph, &Options::default()).expect("a plan")
}

/// The weights as Caffe would save them.
fn caffemodel(graph: &Valid) -> Vec<u8> {
    let blob = |id: &ir::ParamId| {
        let param = &graph[*id];
        BlobProto {
            shape: Some(BlobShape {
                dim: param.spec.shape.iter().map(|&d| d as i64).collect(),
            }),
            data: param.data.as_ref().expect("weights").floats().into_owned(),
            ..BlobProto::default()
        }
    };
    let layers = graph.nodes.iter().map(|node| LayerParameter {
        name: Some(node.name.clone()),
        blobs: node.params.iter().map(blob).collect(),
        ..LayerParameter::default()
    });
    let net = NetParameter {
        layer: layers.collect(),
        ..NetParameter::default()
    };
    net.encode_to_vec()
}

/// From the file to the packed block; lowering, which is between, is left out.
fn load(net: &str, file: &Path) -> f64 {
    let mut graph = graph(net);
    let start = Instant::now();
    let weights = WeightsFile::open(file, false).expect("weights");
    let load = |g: &mut ir::Graph| weights::load(g, &[("file", &weights)], Missing::Refuse);
    graph.edit("weights", load).expect("weights that suit");
    let loaded = start.elapsed();
    let plan = planned(graph);
    let start = Instant::now();
    plan.pack().expect("memory");
    (loaded + start.elapsed()).as_secs_f64() * 1e3
}

fn read_and_pack(plan: &Plan, file: &Path) -> f64 {
    let start = Instant::now();
    let bytes = std::fs::read(file).expect("a file");
    plan.pack().expect("memory");
    std::hint::black_box(bytes);
    start.elapsed().as_secs_f64() * 1e3
}
