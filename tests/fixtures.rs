//! Every fixture on every engine: the naive reference on the unfused graph is the
//! meaning; the interpreter, the JIT with every kind of fusion, and several threads must
//! agree with it, and with each other bit for bit where they run the same program.

use caffec::diag::Sources;
use caffec::frontend::weights;
use caffec::frontend::{self, State};
use caffec::ir::{self, Graph, Shape, Tensor, Valid};
use caffec::leaf::Isa;
use caffec::lower::Chains;
use caffec::passes::Fuse;
use caffec::runtime::exec::{Engine, Executable};
use caffec::{Options, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The net of a fixture with stand-in weights; `inner` blobs become outputs too.
fn load(fixture: &str, batch: Option<usize>, inner: &[&str]) -> Valid {
    let path = Path::new("fixtures").join(fixture);
    let bytes = std::fs::read(&path).unwrap();
    let mut sources = Sources::default();
    let net = match frontend::load_net(fixture, bytes, &mut sources, &State::default()) {
        Ok(net) => net,
        Err(errors) => panic!("{}", sources.render_all(&errors)),
    };
    let options = ir::build::Options {
        shapes: shapes(fixture),
        batch,
        blobs: inner.iter().map(|s| s.to_string()).collect(),
        fed: None::<BTreeSet<String>>,
    };
    let built = ir::build::build(&net, &options);
    match built.valid() {
        Ok((mut valid, _)) => {
            valid.edit("random weights", |graph| weights::random(graph, 1));
            valid
        }
        Err(errors) => panic!("{}", sources.render_all(&errors)),
    }
}

/// Shapes that train_val files leave to their data.
fn shapes(fixture: &str) -> BTreeMap<String, Shape> {
    let data = match fixture {
        "lenet_train_val.prototxt" => [4, 1, 28, 28],
        _ if fixture.contains("cifar") && fixture.contains("train_val") => [4, 3, 32, 32],
        _ => return BTreeMap::new(),
    };
    let shape = Shape::new(data).unwrap();
    BTreeMap::from([
        ("data".to_string(), shape),
        ("label".to_string(), Shape::new([4]).unwrap()),
    ])
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let input = |&blob: &ir::BlobId| {
        let blob = &graph[blob];
        match blob.name.as_str() {
            "label" => weights::random_labels("label", blob.shape.clone(), 10, 1),
            name => weights::random_input(name, blob.shape.clone(), 1),
        }
    };
    graph.inputs.iter().map(input).collect()
}

fn run(executable: &Executable, threads: usize, inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let mut context = executable.context(threads).unwrap();
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    let ports = &executable.program().outputs;
    let mut outputs: Vec<Vec<f32>> = ports.iter().map(|p| vec![f32::NAN; p.len()]).collect();
    let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    executable.run(&mut context, &inputs, &mut slices).unwrap();
    outputs
}

fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let largest = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let mut worst = (0.0f32, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(!error.is_nan(), "{what}: element {i} is {g}, expected {w}");
        if error > worst.0 {
            worst = (error, i);
        }
    }
    let (error, i) = worst;
    assert!(
        error <= tolerance * largest,
        "{what}: element {i} is {}, expected {} (largest {largest})",
        got[i],
        want[i]
    );
}

fn assert_varied(what: &str, values: &[f32]) {
    let (low, high) = values
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    assert!(values.len() < 2 || low < high, "{what} is constant: {low}");
}

/// Runs a fixture on all engines.
fn check(fixture: &str, batch: Option<usize>, inner: &[&str]) {
    let valid = load(fixture, batch, inner);
    let inputs = inputs(&valid);
    let want = ir::reference::run(&valid, &inputs, &valid.outputs).unwrap();
    let names: Vec<String> = valid
        .outputs
        .iter()
        .map(|&b| valid[b].name.clone())
        .collect();
    for (name, want) in names.iter().zip(&want) {
        assert_varied(&format!("{fixture}: {name}"), &want.data);
    }
    let settings = [
        (Fuse::None, Chains::Never),
        (Fuse::Layers, Chains::Never),
        (Fuse::All, Chains::WhereItPays),
        (Fuse::All, Chains::Always),
    ];
    for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable] {
        if !isa.available() {
            continue;
        }
        for (fuse, chains) in settings {
            let options = Options {
                isa,
                fuse,
                chains,
                engine: Engine::Jit,
            };
            let plan = plan(valid.clone(), &options).unwrap_or_else(|e| panic!("{fixture}: {e}"));
            let weights = plan.pack().unwrap();
            let what = |engine: &str, name: &str| {
                format!("{fixture} {isa} {fuse:?} {chains:?} {engine}: {name}")
            };
            let jit = Executable::new(plan.program, weights, Engine::Jit).unwrap();
            let one = run(&jit, 1, &inputs);
            for ((name, got), want) in names.iter().zip(&one).zip(&want) {
                assert_close(&what("jit", name), got, &want.data, 1e-4);
            }
            assert!(
                one == run(&jit, 2, &inputs),
                "{}",
                what("2 threads", "differs")
            );
        }
    }
}

macro_rules! fixtures {
    ($($test:ident: $file:literal, $batch:expr, [$($inner:literal),*];)*) => {
        $(#[test] fn $test() { check($file, $batch, &[$($inner),*]); })*
    };
}

fixtures! {
    lenet: "lenet.prototxt", None, ["ip2", "pool1"];
    lenet_batch_3: "lenet.prototxt", Some(3), ["ip2"];
    lenet_batch_16: "lenet.prototxt", Some(16), ["ip2"];
    cifar10_quick: "cifar10_quick.prototxt", Some(3), ["ip2", "pool2"];
    cifar10_full: "cifar10_full.prototxt", Some(3), ["ip1", "norm1"];
    chain_borders: "chain_borders.prototxt", None, ["conv1"];
    chain_borders_fused: "chain_borders.prototxt", Some(2), [];
    two_in_two_out: "two_in_two_out.prototxt", None, [];
    nin_cifar10: "nin_cifar10.prototxt", Some(3), [];
    nin_cifar100: "nin_cifar100.prototxt", None, [];
    nin_imagenet: "nin_imagenet.prototxt", None, ["pool3"];
    alexnet: "alexnet.prototxt", None, ["fc8", "norm1"];
    squeezenet_1_1: "squeezenet_v1.1.prototxt", None, ["fire5/concat"];
    mobilenet: "mobilenet_v1.prototxt", None, ["fc7"];
    googlenet: "googlenet.prototxt", None, ["inception_4a/output"];
    resnet50: "resnet50.prototxt", None, ["fc1000", "res3a"];
    lenet_train_val: "lenet_train_val.prototxt", None, [];
}
