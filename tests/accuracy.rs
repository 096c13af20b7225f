//! The error of direct sums: of convolutions and inner products with He-scaled weights on
//! rectified values, against the reference, whose sums are in f64. Winograd's is in
//! `tests/winograd.rs`.

mod common;

use caffec::ir;
use caffec::lower::Convolutions;
use common::{isas, plan_with, reference};

/// What the error may be, in shares of a layer's largest output.
const ERROR: f32 = 1e-6;

#[test]
fn direct_sums_lose_little() {
    let convolution = |outputs: usize, kernel: usize| {
        format!(
            "type: 'Convolution' convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {} }}",
            kernel / 2
        )
    };
    for (shape, layer) in [
        ([1, 3, 64, 64], convolution(32, 7)),
        ([1, 512, 14, 14], convolution(32, 3)),
        ([1, 96, 27, 27], convolution(32, 5)),
        ([1, 1024, 6, 6], convolution(64, 1)),
        (
            [1, 512, 7, 7],
            "type: 'InnerProduct' inner_product_param { num_output: 512 }".to_string(),
        ),
    ] {
        let text = format!(
            "layer {{ name: 'data' type: 'Input' top: 'data' input_param {{ shape {{ dim: {shape:?} }} }} }} \
             layer {{ name: 'layer' bottom: 'data' top: 'top' {layer} }}"
        );
        let graph = common::graph(&common::parse("net", text), &ir::Options::default());
        let inputs = common::rectified(&graph);
        let want = reference(&graph, &inputs);
        for isa in isas() {
            let plan = plan_with(Convolutions::Direct, &graph, isa);
            let share = common::error_share(plan, &inputs, &want[0]);
            println!("{layer} on {shape:?}, {isa}: {share:e}");
            assert!(share <= ERROR, "{layer} on {shape:?}, {isa}: {share:e}");
        }
    }
}
