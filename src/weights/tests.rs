//! Assigning weights, and what random ones do to whole nets.

use super::*;
use crate::diag::Sources;
use crate::frontend::proto::{BlobProto, BlobShape, LayerParameter, NetParameter};
use crate::frontend::{State, load_net};
use crate::ir::{BlobId, Options, Tensor, Valid, build, reference};
use prost::Message as _;
use std::collections::HashSet;

fn graph(text: &str) -> Valid {
    let mut sources = Sources::default();
    let net = load_net("net", text.into(), &mut sources, &State::default());
    let net = net.unwrap_or_else(|e| panic!("{}", sources.render_all(&e)));
    let valid = build(&net, &Options::default()).valid();
    valid
        .unwrap_or_else(|e| panic!("{}", sources.render_all(&e)))
        .0
}

/// Two inner products of 2 × 3, the second without bias.
fn two_layers() -> Valid {
    graph(
        "layer { name: 'd' type: 'Input' top: 'd' input_param { shape { dim: [1, 3] } } }
        layer { name: 'a' type: 'InnerProduct' bottom: 'd' top: 'a'
            inner_product_param { num_output: 2 bias_filler { value: 0.5 } } }
        layer { name: 'b' type: 'InnerProduct' bottom: 'd' top: 'b'
            inner_product_param { num_output: 2 bias_term: false } }",
    )
}

fn blob(dims: &[i64], value: f32) -> BlobProto {
    BlobProto {
        shape: Some(BlobShape { dim: dims.to_vec() }),
        data: vec![value; dims.iter().product::<i64>() as usize],
        ..BlobProto::default()
    }
}

fn legacy(dims: [i32; 4], value: f32) -> BlobProto {
    let [num, channels, height, width] = dims.map(Some);
    BlobProto {
        num,
        channels,
        height,
        width,
        data: vec![value; dims.iter().product::<i32>() as usize],
        ..BlobProto::default()
    }
}

fn file(layers: &[(&str, Vec<BlobProto>)]) -> WeightsFile {
    let layer = |(name, blobs): &(&str, Vec<BlobProto>)| LayerParameter {
        name: Some(name.to_string()),
        blobs: blobs.clone(),
        ..LayerParameter::default()
    };
    let net = NetParameter {
        layer: layers.iter().map(layer).collect(),
        ..NetParameter::default()
    };
    WeightsFile::from_bytes("w", net.encode_to_vec()).unwrap()
}

/// The first value of each parameter, or the errors.
fn loaded(files: &[&WeightsFile], missing: Missing) -> Result<Vec<f32>, String> {
    let mut graph = two_layers();
    let names = ["one", "two", "three"];
    let files: Vec<Named> = names.into_iter().zip(files.iter().copied()).collect();
    let result = graph.edit("weights", |g| load(g, &files, missing));
    result.map_err(|e| e.to_string())?;
    let first = |p: &crate::ir::Param| p.data.as_ref().unwrap().floats()[0];
    Ok(graph.params.iter().map(first).collect())
}

#[test]
fn later_files_and_layers_win() {
    let one = file(&[
        ("a", vec![blob(&[2, 3], 1.0), blob(&[2], 2.0)]),
        ("b", vec![legacy([1, 1, 2, 3], 3.0)]),
        ("unknown", vec![blob(&[7], 0.0)]),
    ]);
    let two = file(&[
        ("b", vec![blob(&[2, 3], 4.0)]),
        ("b", vec![blob(&[2, 3], 5.0)]),
    ]);
    assert_eq!(loaded(&[&one], Missing::Refuse), Ok(vec![1.0, 2.0, 3.0]));
    assert_eq!(
        loaded(&[&one, &two], Missing::Refuse),
        Ok(vec![1.0, 2.0, 5.0])
    );
    assert_eq!(
        loaded(&[&two, &one], Missing::Refuse),
        Ok(vec![1.0, 2.0, 3.0])
    );
}

#[test]
fn missing_layers_are_listed_or_filled() {
    let some = file(&[("b", vec![blob(&[2, 3], 4.0)])]);
    let error = |files: &[&WeightsFile]| loaded(files, Missing::Refuse).unwrap_err();
    assert_eq!(error(&[]), "no weights for 2 layers: `a`, `b`");
    assert_eq!(error(&[&some]), "no weights for 1 layer: `a`");
    assert_eq!(loaded(&[&some], Missing::Fill(1)), Ok(vec![0.0, 0.5, 4.0]));
    let random = loaded(&[&some], Missing::Random(1)).unwrap();
    assert!(random[0] != 0.0 && random[1] != 0.0 && random[2] == 4.0);
    assert_eq!(loaded(&[&some], Missing::Random(1)).unwrap(), random);
    assert_ne!(loaded(&[&some], Missing::Random(2)).unwrap(), random);
}

#[test]
fn blobs_that_do_not_fit() {
    let error = |blobs: Vec<BlobProto>| {
        let file = file(&[("b", blobs)]);
        loaded(&[&file], Missing::Fill(1)).unwrap_err()
    };
    assert_eq!(
        error(vec![]),
        "layer `b`: one: expected 1 weight blob, found 0"
    );
    assert_eq!(
        error(vec![blob(&[3, 2], 0.0)]),
        "layer `b`: one: weight blob 0: expected shape 2×3, found 3×2"
    );
    assert_eq!(
        error(vec![blob(&[1, 1, 2, 3], 0.0)]),
        "layer `b`: one: weight blob 0: expected shape 2×3, found 1×1×2×3"
    );
    assert_eq!(
        error(vec![legacy([1, 2, 3, 1], 0.0)]),
        "layer `b`: one: weight blob 0: expected shape 2×3, \
         found 1×2×3×1 (num × channels × height × width)"
    );
    let mut short = blob(&[2, 3], 0.0);
    short.data.pop();
    assert_eq!(
        error(vec![short]),
        "layer `b`: one: weight blob 0: expected 6 numbers, found 5"
    );
    let shapeless = BlobProto {
        data: vec![0.0; 6],
        ..BlobProto::default()
    };
    assert!(error(vec![shapeless]).ends_with("expected shape 2×3, found none"));
}

#[test]
fn shared_parameters_have_one_value() {
    let product = "bottom: 'd' inner_product_param { num_output: 2 bias_term: false } \
                   param { name: 'w' }";
    let mut graph = graph(&format!(
        "layer {{ name: 'd' type: 'Input' top: 'd' input_param {{ shape {{ dim: [1, 3] }} }} }}
        layer {{ name: 'a' type: 'InnerProduct' top: 'a' {product} }}
        layer {{ name: 'b' type: 'InnerProduct' top: 'b' {product} }}"
    ));
    let file = file(&[("b", vec![blob(&[2, 3], 4.0)])]);
    load(
        &mut graph.clone().into_graph(),
        &[("w", &file)],
        Missing::Refuse,
    )
    .unwrap();
    graph.edit("weights", |g| random(g, 1));
    assert_eq!(graph.params.len(), 1);
    let (_, deviation) = moments(&graph.params[0].data.as_ref().unwrap().floats());
    assert!((0.2..1.2).contains(&deviation));
}

#[test]
fn hdf5_has_shared_parameters_at_their_owner() {
    // In the file `block/conv` has parameters 0 and 2, `ip` has 0 and 1.
    let bytes = include_bytes!("../../tests/hdf5/classic.h5").to_vec();
    let weights = WeightsFile::from_bytes("w.h5", bytes).unwrap();
    let net = |shared: &str| {
        graph(&format!(
            "layer {{ name: 'd' type: 'Input' top: 'd' input_param {{ shape {{ dim: [1, 3] }} }} }}
            layer {{ name: 'first' type: 'InnerProduct' bottom: 'd' top: 'first'
                param {{ name: 'w' }} inner_product_param {{ num_output: 2 bias_term: false }} }}
            layer {{ name: 'ip' type: 'InnerProduct' bottom: 'd' top: 'ip' {shared}
                inner_product_param {{ num_output: 2 }} }}"
        ))
    };
    let load = |shared: &str, file: &WeightsFile| {
        let mut graph = net(shared);
        let loaded = graph.edit("weights", |g| load(g, &[("w.h5", file)], Missing::Fill(1)));
        loaded.map(|()| graph.params.len())
    };
    assert_eq!(load("", &weights), Ok(3));
    let mut without = weights.clone();
    let ip = without.layers.iter_mut().find(|l| l.name == "ip").unwrap();
    ip.blobs[0] = None;
    assert_eq!(load("param { name: 'w' }", &without), Ok(2));
    let message = "layer `ip`: w.h5: expected 2 weight blobs, found 1";
    assert_eq!(load("", &without).unwrap_err().to_string(), message);
}

fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
    (mean, (square - mean * mean).max(0.0).sqrt())
}

/// Runs a fixture with random weights and inputs.
fn run_fixture(name: &str) -> (Valid, Vec<(BlobId, Tensor)>) {
    let path = format!("{}/fixtures/{name}.prototxt", env!("CARGO_MANIFEST_DIR"));
    let mut graph = graph(&std::fs::read_to_string(path).unwrap());
    graph.edit("weights", |g| random(g, 1));
    let inputs = graph.inputs.iter().map(|&b| &graph[b]);
    let inputs: Vec<Tensor> = inputs
        .map(|b| random_input(&b.name, b.shape.clone(), 1))
        .collect();
    let made: Vec<BlobId> = graph.nodes.iter().flat_map(|n| n.tops.clone()).collect();
    let values = reference::run(&graph, &inputs, &made).unwrap();
    (graph, made.into_iter().zip(values).collect())
}

/// Every blob varies and is neither tiny nor huge; logits spread as promised.
fn check_fixture(name: &str) {
    let (graph, values) = run_fixture(name);
    let mut probabilities = HashSet::new();
    for (blob, tensor) in &values {
        let (mean, deviation) = moments(&tensor.data);
        let size = mean.hypot(deviation);
        let node = &graph[graph.producer(*blob).unwrap()];
        let to_softmax = graph
            .nodes
            .iter()
            .any(|n| n.bottoms.first() == Some(blob) && matches!(n.op, Op::Softmax(_)));
        let from_softmax = node.bottoms.iter().any(|b| probabilities.contains(b));
        if from_softmax || matches!(node.op, Op::Softmax(_)) {
            probabilities.insert(*blob);
        }
        let range = match &node.op {
            _ if from_softmax => 1e-4..1e4,
            Op::Softmax(_) => 1e-4..1.0,
            Op::ArgMax(_) => 0.5..1e4,
            _ if to_softmax => 0.5..5.0,
            _ => 0.1..12.0,
        };
        let what = format!(
            "{name}: `{}`: mean {mean}, deviation {deviation}",
            node.name
        );
        assert!(range.contains(&size), "{what}");
        assert!(deviation > 0.05 * size || tensor.data.len() < 3, "{what}");
        if matches!(node.op, Op::Softmax(_)) {
            let largest = tensor.data.iter().fold(0f32, |m, &v| m.max(v));
            assert!(largest < 0.95, "{what}, largest {largest}");
        }
    }
}

#[test]
fn random_weights_keep_small_nets_alive() {
    for name in [
        "lenet",
        "cifar10_quick",
        "cifar10_full",
        "two_in_two_out",
        "chain_borders",
    ] {
        check_fixture(name);
    }
}

#[test]
fn random_weights_keep_big_nets_alive() {
    for name in ["nin_cifar10", "squeezenet_v1.1", "mobilenet_v1"] {
        check_fixture(name);
    }
}
