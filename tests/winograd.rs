//! Winograd's algorithm in nets: its error, and emitted Rust.

mod common;

use caffec::ir::{self, Tensor, Valid};
use caffec::leaf::Isa;
use caffec::lower::Convolutions;
use common::{inputs, isas, plan_with, reference};
use std::collections::BTreeSet;

/// What the error may be, in shares of a layer's largest output.
const ERROR: f32 = 3e-6;

fn graph(text: &str) -> Valid {
    common::graph(&common::parse("net", text), &ir::Options::default())
}

/// One convolution with He-scaled weights on rectified values.
fn layer(kernel: usize, [inputs, outputs]: [usize; 2], side: usize) -> (Valid, Vec<Tensor>) {
    let graph = graph(&format!(
        "layer {{ name: 'data' type: 'Input' top: 'data' \
         input_param {{ shape {{ dim: [1, {inputs}, {side}, {side}] }} }} }} \
         layer {{ name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' \
         convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {} }} }}",
        kernel / 2
    ));
    let inputs = common::rectified(&graph);
    (graph, inputs)
}

#[test]
fn errors_stay_small() {
    let mut seen = BTreeSet::new();
    for (kernel, channels, side) in [
        (3, [512, 16], 28),
        (3, [256, 512], 14),
        (3, [256, 64], 7),
        (3, [320, 128], 10),
        (5, [96, 64], 27),
        (5, [256, 32], 14),
        (5, [192, 32], 6),
    ] {
        let (graph, inputs) = layer(kernel, channels, side);
        let want = reference(&graph, &inputs);
        for isa in isas() {
            let plan = plan_with(Convolutions::Winograd, &graph, isa);
            let steps = plan.program.steps.iter();
            seen.extend(steps.map(|s| s.about.split(':').next().unwrap().to_string()));
            let share = common::error_share(plan, &inputs, &want[0]);
            println!("{kernel} {channels:?} {side} {isa}: {share:e}");
            assert!(
                share <= ERROR,
                "{kernel} {channels:?} {side} {isa}: {share:e}"
            );
        }
    }
    for tile in [
        "2x2 convolution 3x3",
        "4x4 convolution 3x3",
        "3x3 convolution 5x5",
    ] {
        let used = seen.iter().any(|about| about.contains(tile));
        assert!(used, "{tile} was not tried: {seen:?}");
    }
}

/// Groups, a residual, slopes, odd sizes, places inside a Concat, tiles beyond the map.
const NET: &str = "
    name: 'all of it'
    layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [3, 40, 13, 11] } } }
    layer { name: 'a' type: 'Convolution' bottom: 'data' top: 'a'
            convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
    layer { name: 'a relu' type: 'ReLU' bottom: 'a' top: 'a' }
    layer { name: 'b' type: 'Convolution' bottom: 'a' top: 'b'
            convolution_param { num_output: 35 kernel_size: 5 pad: 2 } }
    layer { name: 'b slopes' type: 'PReLU' bottom: 'b' top: 'b' }
    layer { name: 'both' type: 'Concat' bottom: 'a' bottom: 'b' top: 'both' }
    layer { name: 'c' type: 'Convolution' bottom: 'both' top: 'c'
            convolution_param { num_output: 32 kernel_size: 3 pad: 1 bias_term: false } }
    layer { name: 'sum' type: 'Eltwise' bottom: 'c' bottom: 'a' top: 'sum' }
    layer { name: 'sum relu' type: 'ReLU' bottom: 'sum' top: 'sum'
            relu_param { negative_slope: 0.1 } }
    layer { name: 'd' type: 'Convolution' bottom: 'sum' top: 'd'
            convolution_param { num_output: 96 kernel_size: 5 group: 2 } }
    layer { name: 'e' type: 'Convolution' bottom: 'd' top: 'e'
            convolution_param { num_output: 9 kernel_size: 3 group: 3 pad: 2 } }";

#[test]
fn emitted_rust_computes_the_same_bits() {
    let graph = graph(NET);
    let inputs = inputs(&graph);
    let want = reference(&graph, &inputs);
    let plan = |isa: Isa| plan_with(Convolutions::Winograd, &graph, isa);
    let run = |&isa: &Isa| common::run_close("Winograd", &graph, plan(isa), &inputs, &want);
    let results: Vec<_> = isas().iter().map(run).collect();
    common::compare_emitted("Winograd", &graph, &inputs, &isas(), plan, &results);
}
