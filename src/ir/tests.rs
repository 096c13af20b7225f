//! The builder on small nets: what Caffe accepts, refuses and means.

use super::{Built, Options, Shape, Tensor, build, reference};
use crate::diag::{Errors, Sources};
use crate::frontend::{Dialect, State, load_net};
use std::collections::BTreeSet;

fn built(text: &str, options: &Options) -> (Sources, Built) {
    let mut sources = Sources::default();
    let net = load_net("n", text.into(), &mut sources, &State::default());
    let built = build(&net.unwrap(), options);
    (sources, built)
}

fn errors(text: &str) -> String {
    let (sources, built) = built(text, &Options::default());
    sources.render_all(&Errors(built.errors))
}

fn notes(built: &Built) -> Vec<&str> {
    built.notes.iter().map(|n| n.message.as_str()).collect()
}

fn feeding(names: &[&str]) -> Options {
    Options {
        fed: Some(names.iter().map(|n| n.to_string()).collect()),
        ..Options::default()
    }
}

fn output_names(built: &Built) -> Vec<&str> {
    let outputs = built.graph.outputs.iter();
    outputs.map(|&b| built.graph[b].name.as_str()).collect()
}

fn input_names(built: &Built) -> Vec<&str> {
    let inputs = built.graph.inputs.iter();
    inputs.map(|&b| built.graph[b].name.as_str()).collect()
}

/// The final values of some blobs of a net whose only input is −1, 2, −3, 4, ….
fn values(text: &str, blobs: &[&str]) -> Vec<Vec<f32>> {
    let (sources, built) = built(text, &Options::default());
    let (graph, _) = built.valid().map_err(|e| sources.render_all(&e)).unwrap();
    let shape = graph.shape(graph.inputs[0]).clone();
    let data = (1..=shape.count()).map(|i| if i % 2 == 1 { -(i as f32) } else { i as f32 });
    let input = Tensor::new(shape.clone(), data.collect());
    let wanted: Vec<_> = blobs.iter().map(|&n| graph.names[n]).collect();
    let tensors = reference::run(&graph, &[input], &wanted).unwrap();
    tensors.into_iter().map(|t| t.data).collect()
}

const INPUT: &str =
    "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 2 } } }\n";

#[test]
fn in_place_layers_change_all_names_of_the_memory() {
    let text = format!(
        "{INPUT}
        layer {{ name: 's' type: 'Split' bottom: 'x' top: 'a' top: 'b' }}
        layer {{ name: 'f' type: 'Flatten' bottom: 'a' top: 'f' flatten_param {{ axis: 0 }} }}
        layer {{ name: 'r' type: 'ReLU' bottom: 'f' top: 'f' }}
        layer {{ name: 'd' type: 'Dropout' bottom: 'f' top: 'd' }}
        layer {{ name: 'l' type: 'ReLU' bottom: 'd' top: 'd' relu_param {{ negative_slope: 9 }} }}
        layer {{ name: 'late' type: 'Concat' bottom: 'b' bottom: 'b' top: 'late' }}"
    );
    let rectified = vec![0.0, 2.0, 0.0, 4.0];
    let got = values(&text, &["x", "a", "b", "f", "d", "late"]);
    assert_eq!(got[..5], vec![rectified; 5]);
    assert_eq!(got[5], [0.0, 2.0, 0.0, 2.0, 0.0, 4.0, 0.0, 4.0]);
}

#[test]
fn what_caffe_refuses() {
    let relu = |bottom: &str, top: &str| {
        format!("layer {{ name: '{bottom}{top}' type: 'ReLU' bottom: '{bottom}' top: '{top}' }}\n")
    };
    for (layers, message) in [
        (
            relu("x", "y") + &relu("x", "y"),
            "n:3:45: error: layer `xy`: top `y` is already made by another layer\n\
             n:2:1: note: first made here",
        ),
        (
            relu("x", "y") + &relu("x", "x"),
            "n:3:45: error: layer `xx`: `x` is read by other layers as well, so this one \
             cannot work in place\nn:2:1: note: also read here",
        ),
        (
            relu("xx", "y"),
            "n:2:34: error: layer `xxy`: no layer makes bottom `xx`\n  help: did you mean `x`?",
        ),
        (
            relu("y", "z") + &relu("x", "y"),
            "n:2:33: error: layer `yz`: no layer makes bottom `y`\n\
             n:3:1: note: a later layer makes it",
        ),
        (
            relu("t", "y") + "layer { name: 'd' type: 'Data' top: 't' include { phase: TRAIN } }",
            "n:2:33: error: layer `ty`: no layer makes bottom `t`\n\
             n:3:1: note: a layer of another phase, level or stage makes it",
        ),
        (
            "layer { name: 'a' type: 'Foo' bottom: 'x' top: 'y' }\n\
             layer { name: 'b' type: 'ReLu' bottom: 'y' top: 'z' }"
                .to_string(),
            "n:2:19: error: layer `a`: unsupported: layer type `Foo`\n\
             n:3:19: error: layer `b`: unsupported: layer type `ReLu`\n  help: did you mean `ReLU`?",
        ),
    ] {
        assert_eq!(errors(&(INPUT.to_string() + &layers)), message);
    }
    assert_eq!(errors(""), "error: the net has no layers");
}

#[test]
fn shapes_go_as_far_as_they_can() {
    let text = format!(
        "{INPUT}
        layer {{ name: 'a' type: 'ReLU' bottom: 'x' top: 'a' }}
        layer {{ name: 'b' type: 'Foo' bottom: 'a' top: 'b' }}
        layer {{ name: 'c' type: 'ReLU' bottom: 'b' top: 'c' }}
        layer {{ name: 'd' type: 'ReLU' bottom: 'a' top: 'd' }}"
    );
    let (_, built) = built(&text, &Options::default());
    let nodes: Vec<&str> = built.graph.nodes.iter().map(|n| n.name.as_str()).collect();
    let incomplete: Vec<&str> = built.incomplete.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(nodes, ["a", "d"]);
    assert_eq!(incomplete, ["b", "c"]);
    assert_eq!(built.errors.len(), 1);
}

const TRAIN_VAL: &str = "
    layer { name: 'd' type: 'MemoryData' top: 'x' top: 'label'
        memory_data_param { batch_size: 4 channels: 3 height: 1 width: 1 } }
    layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }
    layer { name: 'acc' type: 'Accuracy' bottom: 'y' bottom: 'label' top: 'acc' }
    layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'y' bottom: 'label' top: 'loss' }";

#[test]
fn losses_stay_while_labels_may_come() {
    let (_, built) = built(TRAIN_VAL, &Options::default());
    assert_eq!(output_names(&built), ["acc", "loss"]);
    assert_eq!(input_names(&built), ["x", "label"]);
}

#[test]
fn losses_go_without_fed_labels() {
    let (_, built) = built(TRAIN_VAL, &feeding(&["x"]));
    assert_eq!(output_names(&built), ["y"]);
    assert_eq!(input_names(&built), ["x"]);
    assert_eq!(
        notes(&built),
        [
            "Accuracy drops out: nobody feeds its label `label`",
            "SoftmaxWithLoss drops out: nobody feeds its label `label`"
        ]
    );
}

#[test]
fn fed_labels_or_wanted_results_keep_them() {
    let (_, fed) = built(TRAIN_VAL, &feeding(&["x", "label"]));
    assert_eq!(output_names(&fed), ["acc", "loss"]);
    let mut options = feeding(&["x"]);
    options.blobs = vec!["loss".into()];
    let (_, wanted) = built(TRAIN_VAL, &options);
    assert_eq!(output_names(&wanted), ["acc", "loss"]);
    assert_eq!(input_names(&wanted), ["x", "label"]);
}

#[test]
fn losses_without_any_label_go() {
    let text = TRAIN_VAL.replace("top: 'label'", "top: 'other'");
    let (_, built) = built(&text, &Options::default());
    assert_eq!(output_names(&built), ["other", "y"]);
    assert_eq!(
        notes(&built)[0],
        "Accuracy drops out: no layer makes its label `label`"
    );
}

#[test]
fn a_batch_replaces_axis_0_of_every_input() {
    let options = Options {
        batch: Some(7),
        ..Options::default()
    };
    let (_, built) = built(TRAIN_VAL, &options);
    let shape = |name: &str| built.graph.shape(built.graph.names[name]).to_vec();
    assert_eq!(shape("y"), [7, 3, 1, 1]);
    assert_eq!(shape("label"), [7]);
}

#[test]
fn inputs_without_a_shape_take_one_from_the_options() {
    let text = "layer { name: 'd' type: 'HDF5Data' top: 'x' hdf5_data_param { batch_size: 2 } }
        layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }";
    assert!(errors(text).contains("--shape x="));
    let mut options = Options::default();
    options
        .shapes
        .insert("x".into(), Shape::new([2, 3]).unwrap());
    let (_, built) = built(text, &options);
    assert!(built.errors.is_empty());
    assert_eq!(output_names(&built), ["y"]);
}

#[test]
fn names_given_as_options_must_exist() {
    let options = Options {
        blobs: vec!["labell".into()],
        fed: Some(BTreeSet::new()),
        ..Options::default()
    };
    let (sources, built) = built(TRAIN_VAL, &options);
    assert_eq!(
        sources.render_all(&Errors(built.errors)),
        "error: the net has no blob `labell`\n  help: did you mean `label`?"
    );
}

#[test]
fn broken_graphs_are_noticed() {
    let (_, built) = built(
        &format!("{INPUT} layer {{ name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }}"),
        &Options::default(),
    );
    let (graph, _) = built.valid().unwrap();
    let broken = |change: &dyn Fn(&mut super::Graph)| {
        let mut graph = graph.clone().into_graph();
        change(&mut graph);
        graph.verify().unwrap_err()
    };
    assert_eq!(
        broken(&|g| g.nodes[0].bottoms.swap_with_slice(&mut [super::BlobId(1)])),
        "node `r`: %1 is read before it is written"
    );
    assert_eq!(
        broken(&|g| g.blobs[1].shape = Shape::default()),
        "node `r`: %1 is scalar, not 2×2"
    );
    assert_eq!(
        broken(&|g| g.inputs.push(super::BlobId(1))),
        "node `r`: %1 is written twice"
    );
    assert_eq!(
        broken(&|g| g.outputs[0].0 = 9),
        "%9 is read before it is written"
    );
}

#[test]
fn a_net_of_c3d_has_inner_products_of_five_axes() {
    let net = |pool: &str, product: &str| {
        format!(
            "layer {{ name: 'in' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 1 dim: 2 dim: 2 dim: 2 }} }} }}
             layer {{ name: 'p' type: 'Pooling3D' bottom: 'x' top: 'p' {pool} {{ kernel_size: 2 kernel_depth: 2 }} }}
             layer {{ name: 'f' type: 'InnerProduct' bottom: 'p' top: 'f' inner_product_param {{ num_output: 3 {product} }} }}"
        )
    };
    let shape = |text: &str, dialect: Option<Dialect>| {
        let options = Options {
            dialect,
            ..Options::default()
        };
        let (_, built) = built(text, &options);
        let graph = built.valid().unwrap().0;
        graph.shape(graph.names["f"]).to_string()
    };
    let (c3d, mnn) = (net("pooling_param", ""), net("pooling3d_param", ""));
    assert_eq!(shape(&c3d, None), "2×3×1×1×1");
    assert_eq!(shape(&c3d, Some(Dialect::Bvlc)), "2×3");
    assert_eq!(shape(&mnn, None), "2×3");
    assert_eq!(shape(&mnn, Some(Dialect::C3d)), "2×3×1×1×1");
    let axis = errors(&net("pooling_param", "axis: 2"));
    assert!(
        axis.contains("inner products of C3D have no axis"),
        "{axis}"
    );
}
