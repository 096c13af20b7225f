//! Time of each stage of the compiler: median of several rounds for each net.
//!
//! `cargo bench --bench compile [fixture…] [--json]`; stages, in milliseconds, are those
//! of `caffec::compile`.

mod common;

use caffec::diag::Sources;
use caffec::frontend::{State, load_net};
use caffec::runtime::exec::{Engine, Executable};
use caffec::{Options, ir, lower, passes, weights};
use common::{Report, named_or};
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
const COLUMNS: &[&str] = &[
    "net",
    "load",
    "build",
    "passes",
    "lower",
    "check",
    "jit",
    "pack",
    "without pack",
];

fn main() {
    let nets = named_or(&[
        "lenet",
        "nin_imagenet",
        "googlenet",
        "resnet50",
        "resnet152",
    ]);
    let mut report = Report::new("compile", COLUMNS);
    for net in nets {
        let mut rounds: Vec<Vec<f64>> = (0..ROUNDS).map(|_| stages(&net)).collect();
        let median = |stage: usize| {
            rounds.sort_by(|a, b| a[stage].total_cmp(&b[stage]));
            rounds[ROUNDS / 2][stage]
        };
        let mut medians: Vec<f64> = (0..COLUMNS.len() - 2).map(median).collect();
        medians.push(medians[..medians.len() - 1].iter().sum());
        report.row(&net, &medians);
    }
}

fn stages(net: &str) -> Vec<f64> {
    let mut clock = Clock {
        last: Instant::now(),
        laps: Vec::new(),
    };
    let mut sources = Sources::default();
    let path = format!("fixtures/{net}.prototxt");
    let bytes = std::fs::read(&path).expect("a fixture");
    let net = load_net(&path, bytes, &mut sources, &State::default()).expect("a valid net");
    clock.lap();
    let built = ir::build(&net, &ir::Options::default());
    let (mut graph, _) = built.valid().expect("a valid net");
    clock.lap();
    // Stand-in weights: made when they are packed, so that `pack` includes making them.
    graph.edit("stand-ins", |graph| weights::random(graph, 1));
    clock.last = Instant::now();
    let options = Options::default();
    let graph = passes::run(graph, options.fuse);
    clock.lap();
    let lowered = lower::lower(&graph, &options.lowering()).expect("a lowering");
    clock.lap();
    let program = lowered.program.check().expect("a right program");
    clock.lap();
    // The weights' values do not matter to the code.
    let weights_len = program.weights_len;
    let block = caffec::runtime::arena::Block::zeroed(weights_len).expect("memory");
    clock.last = Instant::now();
    let executable = Executable::new(program, block, Engine::Jit).expect("code");
    clock.lap();
    drop(executable);
    let mut block = caffec::runtime::arena::Block::zeroed(weights_len).expect("memory");
    clock.last = Instant::now();
    lower::pack(&graph, &lowered.packs, &mut block);
    clock.lap();
    clock
        .laps
        .iter()
        .map(|lap| lap.as_secs_f64() * 1e3)
        .collect()
}

struct Clock {
    last: Instant,
    laps: Vec<Duration>,
}

impl Clock {
    fn lap(&mut self) {
        let now = Instant::now();
        self.laps.push(now - self.last);
        self.last = now;
    }
}
