//! Every fixture on every engine: the naive reference on the graph as built is the
//! meaning. The interpreter, machine code with every kind of fusion, and emitted Rust
//! must agree with it, and with each other bit for bit where they run the same program.
//!
//! Each net runs twice: with its own outputs, so that all fusion happens, and with inner
//! blobs as further outputs. Nets that take many seconds are called `big_…`; most
//! keep to the CPU's best instruction set.

mod common;

use caffec::ir::{self, Shape, Valid};
use caffec::leaf::Isa;
use common::{TOLERANCE, compare, isas, reference};
use std::collections::{BTreeMap, BTreeSet};

/// Blobs of one value or another: nothing is constant, nothing is lost in the tolerance.
fn assert_varied(what: &str, values: &[f32]) {
    let bounds = |(low, high): (f32, f32), &v: &f32| (low.min(v), high.max(v));
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), bounds);
    assert!(values.iter().all(|v| v.is_finite()), "{what}");
    let scale = TOLERANCE * high.abs().max(low.abs()).max(1.0);
    assert!(
        values.len() < 2 || high - low > 2.0 * scale,
        "{what} is constant: {low} to {high}"
    );
}

/// Shapes that train_val files leave to their data.
fn shapes(file: &str) -> BTreeMap<String, Shape> {
    let data = match file.strip_suffix("_train_val.prototxt") {
        Some("lenet") => [4, 1, 28, 28],
        Some("cifar10_quick" | "cifar10_full" | "nin_cifar10") => [4, 3, 32, 32],
        _ => return BTreeMap::new(),
    };
    let data = Shape::new(data).unwrap();
    let label = Shape::new([4]).unwrap();
    BTreeMap::from([("data".to_string(), data), ("label".to_string(), label)])
}

fn load(file: &str, batch: Option<usize>, inner: &[&str]) -> Valid {
    let options = ir::Options {
        shapes: shapes(file),
        batch,
        blobs: inner.iter().map(|s| s.to_string()).collect(),
        ..Default::default()
    };
    common::graph(&common::fixture(file), &options)
}

/// Runs a fixture on all engines.
fn check(file: &str, batch: Option<usize>, inner: &[&str], isas: &[Isa]) {
    let closed = load(file, batch, &[]);
    let open = load(file, batch, inner);
    let inputs = common::inputs(&open);
    let want = reference(&open, &inputs);
    for (&blob, want) in open.outputs.iter().zip(&want) {
        assert_varied(&format!("{file}: {}", open[blob].name), &want.data);
    }
    let outputs = &want[..closed.outputs.len()];
    compare(file, &closed, &inputs, outputs, isas, true);
    compare(
        &format!("{file}, open"),
        &open,
        &inputs,
        &want,
        &isas[..1],
        true,
    );
}

/// The CPU's best instruction set, for nets that take long.
fn best() -> Vec<Isa> {
    vec![Isa::detect()]
}

/// A test for each line: file, batch, instruction sets, and inner blobs, of which the
/// first is the one before the softmax.
macro_rules! fixtures {
    ($($test:ident: $file:literal, $batch:expr, $isas:ident, [$($inner:literal),*];)*) => {
        $(#[test] fn $test() {
            check(concat!($file, ".prototxt"), $batch, &[$($inner),*], &$isas());
        })*
        const TESTED: &[&str] = &[$(concat!($file, ".prototxt")),*];
    };
}

fixtures! {
    lenet: "lenet", None, isas, ["ip2", "pool1"];
    lenet_batch_3: "lenet", Some(3), isas, ["ip2", "conv2"];
    lenet_batch_16: "lenet", Some(16), isas, ["ip2", "ip1"];
    lenet_train_val: "lenet_train_val", None, isas, ["ip2", "pool2"];
    cifar10_quick: "cifar10_quick", None, isas, ["ip2", "pool2"];
    cifar10_quick_batch_3: "cifar10_quick", Some(3), isas, ["ip2", "conv1"];
    cifar10_quick_batch_16: "cifar10_quick", Some(16), isas, ["ip2", "pool1"];
    cifar10_quick_train_val: "cifar10_quick_train_val", None, isas, ["ip2", "conv2"];
    cifar10_full: "cifar10_full", None, isas, ["ip1", "norm1"];
    cifar10_full_batch_3: "cifar10_full", Some(3), isas, ["ip1", "norm2"];
    cifar10_full_batch_16: "cifar10_full", Some(16), isas, ["ip1", "pool3"];
    cifar10_full_train_val: "cifar10_full_train_val", None, isas, ["ip1", "conv3"];
    chain_borders: "chain_borders", None, isas, ["conv1"];
    chain_borders_batch_3: "chain_borders", Some(3), isas, ["cccp1"];
    chain_borders_batch_16: "chain_borders", Some(16), isas, ["conv1"];
    two_in_two_out: "two_in_two_out", None, isas, ["fc1", "gated"];
    two_in_two_out_batch_3: "two_in_two_out", Some(3), isas, ["fc1", "gated"];
    two_in_two_out_batch_16: "two_in_two_out", Some(16), isas, ["fc1", "gated"];
    nin_cifar10: "nin_cifar10", None, isas, ["pool3", "cccp3"];
    nin_cifar10_batch_3: "nin_cifar10", Some(3), best, ["pool3", "conv1"];
    nin_cifar10_batch_16: "nin_cifar10", Some(16), best, ["pool3", "pool2"];
    nin_cifar10_train_val: "nin_cifar10_train_val", Some(2), best, ["pool3", "cccp6"];
    nin_cifar100: "nin_cifar100", None, isas, ["poolg"];
    nin_cifar100_batch_3: "nin_cifar100", Some(3), best, ["poolg"];
    nin_cifar100_train_val: "nin_cifar100_train_val", Some(2), best, ["poolg"];
    big_nin_imagenet: "nin_imagenet", None, isas, ["pool4", "pool3"];
    big_nin_imagenet_227: "nin_imagenet_227", None, best, ["pool4", "conv2"];
    big_nin_imagenet_train_val: "nin_imagenet_train_val", Some(2), best, ["pool4", "cccp4"];
    big_alexnet: "alexnet", None, isas, ["fc8", "norm1"];
    big_alexnet_train_val: "alexnet_train_val", Some(2), best, ["fc8", "pool2"];
    big_caffenet: "caffenet", None, best, ["fc8", "norm2"];
    big_caffenet_train_val: "caffenet_train_val", Some(2), best, ["fc8", "conv3"];
    big_zfnet: "zfnet", None, best, ["fc8", "pool1"];
    big_vgg16: "vgg16", None, best, ["fc8", "pool3"];
    big_vgg19: "vgg19", None, best, ["fc8", "conv5_4"];
    big_googlenet: "googlenet", None, isas, ["loss3/classifier", "inception_4a/output"];
    big_googlenet_train_val: "googlenet_train_val", Some(2), best, ["loss3/classifier", "inception_3a/3x3"];
    big_resnet50: "resnet50", None, isas, ["fc1000", "res3a"];
    big_resnet101: "resnet101", None, best, ["fc1000", "res4b5"];
    big_resnet152: "resnet152", None, best, ["fc1000", "res4b20"];
    squeezenet_1_0: "squeezenet_v1.0", None, best, ["pool10", "fire4/concat"];
    squeezenet_1_0_train_val: "squeezenet_v1.0_train_val", Some(2), best, ["pool10", "fire6/concat"];
    squeezenet_1_1: "squeezenet_v1.1", None, isas, ["pool10", "fire5/concat"];
    squeezenet_1_1_train_val: "squeezenet_v1.1_train_val", Some(2), best, ["pool10", "fire2/expand3x3"];
    mobilenet: "mobilenet_v1", None, isas, ["fc7", "conv3_1/dw"];
}

#[test]
fn no_fixture_is_left_out() {
    let files = std::fs::read_dir("fixtures").unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    let tested = TESTED.iter().map(|s| s.to_string()).collect();
    assert_eq!(names, tested);
}
