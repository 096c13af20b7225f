//! What was measured goes before what the models say, and every way computes the same.

mod common;

use caffec::Options;
use caffec::ir::{self, Valid};
use caffec::lower::{Question, Tuning, questions};
use caffec::passes;
use caffec::tune::tune;
use common::{inputs, isas, reference};
use std::sync::Arc;

/// A 3 × 3 convolution and a 1 × 1 behind it.
fn graph(channels: usize, side: usize) -> Valid {
    let text = format!(
        "layer {{ name: 'data' type: 'Input' top: 'data' \
         input_param {{ shape {{ dim: [1, {channels}, {side}, {side}] }} }} }} \
         layer {{ name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' \
         convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 }} }} \
         layer {{ name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }} \
         layer {{ name: 'one' type: 'Convolution' bottom: 'conv' top: 'one' \
         convolution_param {{ num_output: {channels} kernel_size: 1 }} }}"
    );
    common::graph(&common::parse("net", text), &ir::Options::default())
}

/// What there is to ask: about the 3 × 3 convolution, and about the chain.
fn asked(graph: &Valid) -> [Question; 2] {
    let options = Options::default();
    let after = passes::run(graph.clone(), options.fuse);
    let found = questions(&after, &options.lowering());
    found.try_into().expect("two questions")
}

fn answered(question: &Question, way: &str) -> Options {
    Options {
        tuning: Arc::new(Tuning::from([(question.key.clone(), way.to_string())])),
        ..Options::default()
    }
}

/// What the steps of the net are about.
fn steps(graph: &Valid, options: &Options) -> Vec<String> {
    let plan = caffec::plan(graph.clone(), options).unwrap();
    let steps = plan.program.steps.iter().map(|s| s.about.clone());
    steps
        .filter(|about| about.contains("convolution"))
        .collect()
}

#[test]
fn answers_go_before_the_models() {
    let graph = graph(64, 56);
    let [conv, chain] = asked(&graph);
    let model = steps(&graph, &Options::default());
    assert!(model[0].starts_with("Winograd"), "{model:?}");
    for isa in isas() {
        let with = |question, way| {
            let options = Options {
                isa,
                ..answered(question, way)
            };
            steps(&graph, &options)
        };
        let direct = with(&conv, "direct");
        assert!(direct[0].starts_with("convolution 3x3"), "{direct:?}");
        let fused = with(&chain, "2 by 8 rows");
        assert_eq!(fused.len(), 1);
        assert!(fused[0].starts_with("chain of convolutions, 8 of 56 rows"));
        assert_eq!(with(&chain, "2 by 1000 rows"), model);
        assert_eq!(with(&conv, "by magic"), model);
    }
}

#[test]
fn all_ways_compute_the_same() {
    let graph = graph(40, 13);
    let inputs = inputs(&graph);
    let want = reference(&graph, &inputs);
    for question in asked(&graph) {
        assert!(question.ways.len() > 3, "{question:?}");
        for way in &question.ways {
            let plan = caffec::plan(graph.clone(), &answered(&question, way)).unwrap();
            let share = common::error_share(plan, &inputs, &want[0]);
            assert!(share < 1e-5, "{way}: {share:e}");
        }
    }
}

#[test]
fn measuring_answers_all_questions_once() {
    let graph = graph(32, 14);
    let inputs = inputs(&graph);
    let mut options = Options::default();
    let mut rounds = 0;
    options.tuning = tune(&graph, &options, &inputs, 2, |_, _| rounds += 1).unwrap();
    assert!(rounds > 0);
    for question in asked(&graph) {
        let way = &options.tuning[&question.key];
        assert!(question.ways.contains(way), "{way}");
    }
    let again = tune(&graph, &options, &inputs, 2, |_, _| panic!("all is known"));
    assert_eq!(again.unwrap(), options.tuning);
}
