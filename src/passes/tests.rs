//! Fused graphs compute what unfused ones do, and only what may be fused is.

use super::*;
use crate::diag::Sources;
use crate::frontend::{State, load_net};
use crate::ir::{Options, Tensor, build, reference};
use crate::layers::Op;
use crate::weights::{Missing, Stream, load, random_input};
use std::collections::BTreeMap;

/// The graph of these layers with random weights. Blob `data` is 2 × 4 × 6 × 6.
fn graph(layers: &str, blobs: &[&str]) -> Valid {
    let input = "layer { name: 'data' type: 'Input' top: 'data' \
                 input_param { shape { dim: [2, 4, 6, 6] } } }";
    net(&format!("{input}\n{layers}"), blobs)
}

/// The graph of a prototxt with random weights.
fn net(text: &str, blobs: &[&str]) -> Valid {
    let mut sources = Sources::default();
    let net = load_net("test", text.into(), &mut sources, &State::default());
    let net = net.unwrap_or_else(|e| panic!("{}", sources.render_all(&e)));
    let options = Options {
        blobs: blobs.iter().map(|b| b.to_string()).collect(),
        ..Options::default()
    };
    let valid = build(&net, &options).valid();
    let (mut graph, _) = valid.unwrap_or_else(|e| panic!("{}", sources.render_all(&e)));
    let random = |g: &mut Graph| load(g, &[], Missing::Random(1));
    graph.edit("weights", random).unwrap();
    graph
}

fn outputs(graph: &Graph) -> Vec<Tensor> {
    let inputs = graph.inputs.iter().map(|&b| &graph[b]);
    let inputs: Vec<Tensor> = inputs
        .map(|b| random_input(&b.name, b.shape.clone(), 1))
        .collect();
    reference::run(graph, &inputs, &graph.outputs).unwrap()
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.outputs.iter().map(|&b| &*graph[b].name).collect()
}

/// Runs all levels, compares them with the graph as built, and returns the last one.
fn fused(layers: &str, blobs: &[&str]) -> Valid {
    let plain = graph(layers, blobs);
    let expected = outputs(&plain);
    let run = |fuse| {
        let graph = run(plain.clone(), fuse);
        assert_eq!(names(&plain), names(&graph));
        for ((name, y), e) in names(&graph).iter().zip(outputs(&graph)).zip(&expected) {
            let largest = e.data.iter().fold(1f32, |m, v| m.max(v.abs()));
            let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-5 * largest && a != b;
            let wrong = y.data.iter().zip(&e.data).any(far);
            assert!(!wrong, "{fuse:?}: `{name}` differs in\n{layers}");
        }
        graph
    };
    run(Fuse::None);
    run(Fuse::Layers);
    run(Fuse::All)
}

/// The layers of each node, as `conv+relu`.
fn merged(graph: &Graph) -> Vec<String> {
    graph.nodes.iter().map(|n| n.layers.join("+")).collect()
}

fn check(layers: &str, blobs: &[&str], expected: &[&str]) {
    assert_eq!(merged(&fused(layers, blobs)), expected, "{layers}");
}

/// A layer without parameters of its own; its top has its name.
fn layer(name: &str, kind: &str, bottoms: &str, rest: &str) -> String {
    let bottoms: Vec<String> = bottoms
        .split(' ')
        .map(|b| format!("bottom: '{b}'"))
        .collect();
    let bottoms = bottoms.join(" ");
    format!("layer {{ name: '{name}' type: '{kind}' {bottoms} top: '{name}' {rest} }}\n")
}

fn conv(name: &str, bottom: &str, kernel: usize, rest: &str) -> String {
    let pad = kernel / 2;
    let own = format!("num_output: 4 kernel_size: {kernel}");
    let pad = if pad > 0 {
        format!("pad: {pad}")
    } else {
        String::new()
    };
    let param = format!("convolution_param {{ {own} {pad} {rest} }}");
    layer(name, "Convolution", bottom, &param)
}

fn relu(name: &str, bottom: &str) -> String {
    layer(name, "ReLU", bottom, "")
}

#[test]
fn normalisation_and_activation_become_an_epilogue() {
    let norm = layer("bn", "BatchNorm", "c", "")
        + &layer("s", "Scale", "bn", "scale_param { bias_term: true }");
    let net = conv("c", "data", 3, "") + &norm + &relu("r", "s");
    check(&net, &[], &["c+bn+s+r"]);
    let graph = fused(&net, &[]);
    let epilogue = &graph.nodes[0].epilogue;
    assert!(epilogue.scale.is_some() && epilogue.shift.is_some());
    // The layers before the blob that somebody wants.
    check(&net, &["bn"], &["c+bn", "s+r"]);
    check(&net, &["c"], &["c", "bn+s+r"]);
    check(&net, &["s"], &["c+bn+s", "r"]);
    let dense = layer(
        "c",
        "InnerProduct",
        "data",
        "inner_product_param { num_output: 5 }",
    );
    check(&(dense + &norm + &relu("r", "s")), &[], &["c+bn+s+r"]);
    let up = layer(
        "c",
        "Deconvolution",
        "data",
        "convolution_param { num_output: 6 kernel_size: 2 stride: 2 }",
    );
    check(&(up + &norm + &relu("r", "s")), &[], &["c+bn+s+r"]);
}

#[test]
fn what_is_not_affine_by_channel_is_not_folded() {
    let c = conv("c", "data", 3, "");
    let batch = layer(
        "bn",
        "BatchNorm",
        "c",
        "batch_norm_param { use_global_stats: false }",
    );
    check(&(c.clone() + &batch), &[], &["c", "bn"]);
    let rows = layer("s", "Scale", "c", "scale_param { axis: 2 }");
    check(&(c.clone() + &rows), &[], &["c", "s"]);
    let by_blob = layer("s", "Scale", "c data", "scale_param { axis: 0 }");
    check(&(c.clone() + &by_blob), &[], &["c", "s"]);
    let square = layer("p", "Power", "c", "power_param { power: 2 }");
    check(&(c.clone() + &square), &[], &["c", "p"]);
    let linear = layer("p", "Power", "c", "power_param { scale: 3 shift: 1 }");
    check(&(c.clone() + &linear), &[], &["c+p"]);
    let huge = linear.replace("scale: 3", "scale: 3e38")
        + &layer("q", "Power", "p", "power_param { scale: 3e38 }");
    check(&(c.clone() + &huge), &["p"], &["c+p", "q"]);
    let two_readers = c + &layer("s", "Scale", "c", "") + &relu("r", "c");
    check(&two_readers, &[], &["c", "s", "r"]);
}

#[test]
fn a_product_of_two_blobs_takes_no_epilogue() {
    let two = "layer { name: 'c' type: 'Convolution' bottom: 'data' bottom: 'r0' \
               top: 'a' top: 'b' convolution_param { num_output: 4 kernel_size: 1 } }\n";
    let net = relu("r0", "data") + two + &relu("r1", "a") + &relu("r2", "b");
    check(&net, &[], &["r0", "c", "r1", "r2"]);
}

#[test]
fn activations() {
    let c = conv("c", "data", 1, "");
    let leaky = layer("r", "ReLU", "c", "relu_param { negative_slope: 0.1 }");
    check(&(c.clone() + &leaky), &[], &["c+r"]);
    for shared in ["true", "false"] {
        let prelu = layer(
            "r",
            "PReLU",
            "c",
            &format!("prelu_param {{ channel_shared: {shared} }}"),
        );
        check(&(c.clone() + &prelu), &[], &["c+r"]);
    }
    // One activation only, and nothing affine after it.
    let twice = c.clone() + &leaky + &relu("r2", "r") + &layer("s", "Scale", "r2", "");
    check(&twice, &[], &["c+r", "r2+s"]);
    check(&(c + &layer("t", "TanH", "c", "")), &[], &["c", "t"]);
}

#[test]
fn residual_sums() {
    let a = conv("a", "data", 3, "");
    let b = conv("b", "data", 1, "");
    let sum = layer("e", "Eltwise", "a data", "") + &relu("r", "e");
    check(&(a.clone() + &sum), &[], &["a+e+r"]);
    // The later of two products takes the sum, whichever operand it is.
    let both = a.clone() + &b + &layer("e", "Eltwise", "a b", "") + &relu("r", "e");
    check(&both, &[], &["a", "b+e+r"]);
    let swapped = b.clone() + &a + &layer("e", "Eltwise", "a b", "") + &relu("r", "e");
    check(&swapped, &[], &["b", "a+e+r"]);
    // If the later one has other readers, the earlier one moves behind it.
    let moved = both.clone() + &layer("p", "Power", "b", "power_param { power: 2 }");
    check(&moved, &[], &["b", "a+e+r", "p"]);
    // Both have an activation: the sum stays.
    let activated =
        a.clone() + &relu("ra", "a") + &b + &relu("rb", "b") + &layer("e", "Eltwise", "ra rb", "");
    check(&activated, &[], &["a+ra", "b+rb", "e"]);
    let coefficients = layer(
        "e",
        "Eltwise",
        "a data",
        "eltwise_param { coeff: 1 coeff: -1 }",
    );
    check(&(a.clone() + &coefficients), &[], &["a", "e"]);
    let product = layer(
        "e",
        "Eltwise",
        "a data",
        "eltwise_param { operation: PROD }",
    );
    check(&(a.clone() + &product), &[], &["a", "e"]);
    // Twice the same is a scale.
    let itself = layer("e", "Eltwise", "a a", "") + &relu("r", "e");
    check(&(a.clone() + &itself), &[], &["a+e+r"]);
    // A second sum stays a node, with the activation behind it.
    let second = layer("e", "Eltwise", "a data", "")
        + &layer("f", "Eltwise", "e data", "")
        + &relu("r", "f");
    check(&(a + &second), &[], &["a+e", "f+r"]);
}

#[test]
fn trees_of_element_wise_layers_become_one_expression() {
    let left = layer("bn", "BatchNorm", "data", "") + &layer("s", "Scale", "bn", "");
    let right = layer("p", "PReLU", "data", "");
    let top = layer("e", "Eltwise", "s p", "eltwise_param { operation: MAX }") + &relu("r", "e");
    check(&(left.clone() + &right + &top), &[], &["bn+s+p+e+r"]);
    check(&(left + &right + &top), &["s"], &["bn+s", "p+e+r"]);
}

#[test]
fn functions_stay_roots() {
    let sigmoid = |bottom| layer("f", "Sigmoid", bottom, "");
    let into = layer("s", "Scale", "data", "") + &sigmoid("s");
    check(&into, &[], &["s+f"]);
    let out_of = sigmoid("data") + &layer("s", "Scale", "f", "") + &relu("r", "s");
    check(&out_of, &[], &["f", "s+r"]);
    let both = into + &layer("t", "TanH", "f", "");
    check(&both, &[], &["s+f", "t"]);
}

#[test]
fn a_tower_of_rectifiers_stays_small() {
    let mut net = String::new();
    for i in 0..40 {
        let bottom = if i == 0 {
            "data".into()
        } else {
            format!("r{}", i - 1)
        };
        net += &relu(&format!("r{i}"), &bottom);
    }
    let graph = fused(&net, &[]);
    assert!(graph.nodes.len() < 20, "{}", graph.nodes.len());
}

#[test]
fn identities_vanish_and_wanted_ones_are_copies() {
    let net = conv("c", "data", 1, "")
        + &layer("d", "Dropout", "c", "")
        + &layer("one", "Power", "d", "")
        + &relu("r", "one");
    check(&net, &[], &["c+r"]);
    let unfused = run(graph(&net, &[]), Fuse::None);
    assert_eq!(merged(&unfused), ["c", "r"]);
    let wanted = run(graph(&net, &["d", "c"]), Fuse::None);
    assert_eq!(merged(&wanted), ["c", "d", "r"]);
    check(&net, &["d", "c"], &["c", "d", "r"]);
    // A copy of a product's result is its result.
    check(&net, &["d"], &["c+d", "r"]);
    let only = layer("d", "Dropout", "data", "");
    check(&only, &[], &["d"]);
    let twice = "layer { name: 's' type: 'Split' bottom: 'data' top: 'a' top: 'b' }\n";
    check(twice, &[], &["s", "s"]);
    let flat = layer("f", "Flatten", "data", "") + &layer("g", "Flatten", "f", "");
    check(&(flat + &relu("r", "g")), &[], &["f", "r"]);
}

#[test]
fn what_nobody_needs_vanishes() {
    let net = conv("c", "data", 1, "")
        + &relu("r", "data")
        + "layer { name: 'x' type: 'Silence' bottom: 'c' }\n";
    check(&net, &[], &["r"]);
    let graph = fused(&net, &[]);
    assert!(!graph.names.contains_key("c") && graph.names.contains_key("r"));
}

#[test]
fn names_follow_in_place_layers() {
    let in_place = "layer { name: 'r' type: 'ReLU' bottom: 'c' top: 'c' }\n\
                    layer { name: 'd' type: 'Dropout' bottom: 'c' top: 'c' }\n";
    let net = conv("c", "data", 1, "") + in_place + &relu("s", "c");
    let graph = fused(&net, &[]);
    assert_eq!(merged(&graph), ["c+r", "s"]);
    assert_eq!(graph.names["c"], graph.nodes[0].tops[0]);
}

#[test]
fn chains_of_1x1_convolutions() {
    let chains = |net: &str, blobs: &[&str]| -> Vec<String> {
        let graph = fused(net, blobs);
        let name = |id: &crate::ir::NodeId| graph[*id].name.clone();
        let chain = |c: &Vec<_>| c.iter().map(name).collect::<Vec<_>>().join(" ");
        graph.chains.iter().map(chain).collect()
    };
    let nin = conv("a", "data", 3, "stride: 2")
        + &relu("ra", "a")
        + &conv("b", "ra", 1, "")
        + &relu("rb", "b")
        + &conv("c", "rb", 1, "")
        + &relu("rc", "c");
    assert_eq!(chains(&nin, &[]), ["a b c"]);
    assert_eq!(chains(&nin, &["rb"]), ["a b"]);
    assert_eq!(chains(&nin, &["ra", "rb"]), [""; 0]);
    for no in ["stride: 2", "group: 2", "pad: 1"] {
        let broken = nin.replace(&conv("b", "ra", 1, ""), &conv("b", "ra", 1, no));
        assert_eq!(chains(&broken, &[]), ["b c"], "{no}");
    }
    let wide = nin.replace(&conv("b", "ra", 1, ""), &conv("b", "ra", 3, ""));
    assert_eq!(chains(&wide, &[]), ["b c"]);
    // A residual that is made between the nodes of a chain comes before all of them.
    let residual = conv("a", "data", 3, "")
        + &layer("f", "Sigmoid", "data", "")
        + &conv("b", "a", 1, "")
        + &layer("e", "Eltwise", "b f", "")
        + &conv("c", "e", 1, "");
    assert_eq!(chains(&residual, &[]), ["a b c"]);
    assert_eq!(merged(&fused(&residual, &[])), ["f", "a", "b+e", "c"]);
    // The residual is what the first one makes: no chain through it.
    let through =
        conv("a", "data", 3, "") + &conv("b", "data", 1, "") + &layer("e", "Eltwise", "a b", "");
    assert_eq!(chains(&through, &[]), [""; 0]);
}

fn fixture(name: &str) -> Valid {
    let path = format!("{}/fixtures/{name}.prototxt", env!("CARGO_MANIFEST_DIR"));
    run(net(&std::fs::read_to_string(path).unwrap(), &[]), Fuse::All)
}

/// How many nodes there are of each type.
fn types(graph: &Graph) -> BTreeMap<&str, usize> {
    let mut types = BTreeMap::new();
    for node in &graph.nodes {
        *types.entry(node.op.type_name()).or_default() += 1;
    }
    types
}

#[test]
fn known_nets_fuse_whole() {
    let nin = fixture("nin_imagenet");
    let chains = nin.chains.iter().map(|c| c.len());
    assert_eq!(chains.collect::<Vec<_>>(), [3; 4]);
    let resnet = fixture("resnet50");
    let expected = [
        ("Convolution", 53),
        ("InnerProduct", 1),
        ("Pooling", 2),
        ("Softmax", 1),
    ];
    assert_eq!(types(&resnet), BTreeMap::from(expected));
    let sums = resnet.nodes.iter().filter(|n| n.epilogue.residual);
    assert_eq!(sums.count(), 16);
    let expected = [("Convolution", 28), ("Pooling", 1), ("Softmax", 1)];
    assert_eq!(types(&fixture("mobilenet_v1")), BTreeMap::from(expected));
}

#[test]
fn a_sum_of_very_many_is_no_deep_expression() {
    let bottoms = vec!["data"; 50_000].join(" ");
    let graph = run(graph(&layer("e", "Eltwise", &bottoms, ""), &[]), Fuse::All);
    let sizes = graph.nodes.iter().map(|node| match &node.op {
        Op::Pointwise(expr) => expr.size(),
        other => panic!("{}", other.type_name()),
    });
    assert!(sizes.max() < Some(1024));
}

#[test]
fn long_runs_take_linear_time() {
    let mut net = conv("c", "data", 1, "") + &relu("p0", "data") + &relu("c0", "c");
    for i in 1..5000 {
        for run in ["p", "c"] {
            let [top, bottom] = [i, i - 1].map(|i| format!("{run}{i}"));
            net += &layer(
                &top,
                "Power",
                &bottom,
                "power_param { scale: -1 shift: 0.5 }",
            );
        }
    }
    let graph = run(graph(&net, &[]), Fuse::All);
    // Behind the rectifier `p0` one expression is as large as may be, then a new one.
    assert_eq!(graph.nodes.len(), 4);
}

/// Random nets of up to 12 layers over blobs of one shape, some blobs wanted.
#[test]
fn random_nets_keep_their_outputs() {
    for seed in 0..150 {
        let mut bits = (0..).map(|i| Stream::new(seed).bits(i) as usize);
        let mut draw = |n: usize| bits.next().expect("endless") % n;
        let mut blobs = vec!["data".to_string()];
        let mut net = String::new();
        for i in 0..2 + draw(11) {
            let name = format!("l{i}");
            let recent = |d: usize| blobs[blobs.len() - 1 - d.min(blobs.len() - 1)].clone();
            let a = recent([0, 0, 0, 1, 2][draw(5)]);
            let b = recent(draw(4));
            net += &match draw(14) {
                0 => conv(&name, &a, 3, ""),
                1 | 2 => conv(&name, &a, 1, ""),
                3 => conv(&name, &a, 3, "group: 4 bias_term: false"),
                4 => layer(&name, "BatchNorm", &a, ""),
                5 => layer(&name, "Scale", &a, "scale_param { bias_term: true }"),
                6 => layer(&name, "Bias", &a, ""),
                7 => layer(&name, "PReLU", &a, ""),
                8 => layer(&name, "Power", &a, "power_param { scale: 0.5 shift: 0.25 }"),
                9 => layer(&name, "Eltwise", &format!("{a} {b}"), ""),
                10 => layer(&name, "Dropout", &a, ""),
                11 => layer(&name, "Sigmoid", &a, ""),
                _ => relu(&name, &a),
            };
            blobs.push(name);
        }
        let wanted: Vec<String> = blobs[1..]
            .iter()
            .filter(|_| draw(6) == 0)
            .cloned()
            .collect();
        let wanted: Vec<&str> = wanted.iter().map(|b| &**b).collect();
        fused(&net, &wanted);
    }
}

#[test]
fn an_eltwise_of_many_bottoms_comes_in_parts() {
    let bottoms = ["data", "a", "b"]
        .map(|b| format!("bottom: '{b}' "))
        .concat();
    let bottoms = bottoms.repeat(201);
    let coefficients = "coeff: 0.5 coeff: 0 coeff: -1 ".repeat(201);
    for rest in [
        "operation: SUM",
        "operation: MAX",
        "operation: PROD",
        &coefficients,
    ] {
        let layers = format!(
            "{}{}layer {{ name: 'wide' type: 'Eltwise' {bottoms} top: 'wide'
             eltwise_param {{ {rest} }} }}",
            layer("a", "TanH", "data", ""),
            layer("b", "AbsVal", "data", ""),
        );
        let fused = fused(&layers, &["a", "b"]);
        let left = fused.nodes.iter().any(|n| matches!(n.op, Op::Eltwise(_)));
        assert!(!left, "{rest}");
    }
}
