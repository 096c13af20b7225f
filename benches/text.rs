//! Reading prototxt: MB/s of the tree alone, of parsing and binding (all that can be wrong
//! with a text is found by then: what `caffec check --syntax` does), and of these with the
//! decoding into messages.
//!
//! `cargo bench --bench text [fixture…] [--json]`; a fixture's layers are repeated until
//! there are 40 MB of them. Medians of several rounds.

mod common;

use caffec::diag::Sources;
use caffec::frontend::proto::NetParameter;
use caffec::frontend::{Reading, bind_text, parse_text, text};
use common::{Report, named_or};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 5;
const SIZE: usize = 40_000_000;
const NET: &str = "caffe.NetParameter";

fn main() {
    let nets = named_or(&["resnet152", "googlenet_train_val"]);
    let columns = &["layers of", "MB", "tree MB/s", "bind MB/s", "whole MB/s"];
    let mut report = Report::new("text", columns);
    for net in nets {
        measure(&mut report, &net);
    }
}

fn measure(report: &mut Report, net: &str) {
    let path = format!("fixtures/{net}.prototxt");
    let fixture = std::fs::read_to_string(path).expect("a fixture");
    let layers = &fixture[fixture.find("layer {").expect("a layer")..];
    let text = layers.repeat(SIZE.div_ceil(layers.len()));
    let megabytes = text.len() as f64 / 1e6;
    let mut sources = Sources::default();
    let file = sources.add(net, text.into_bytes());
    let speed = |read: &dyn Fn()| {
        let mut seconds: Vec<f64> = (0..ROUNDS).map(|_| timed(read)).collect();
        seconds.sort_by(f64::total_cmp);
        megabytes / seconds[ROUNDS / 2]
    };
    let tree = speed(&|| drop(black_box(text::parse(sources.text(file)))));
    let bound = speed(&|| {
        let bound = bind_text(&sources, file, NET, Reading::default());
        black_box(bound.expect("a right text"));
    });
    let whole = speed(&|| {
        let parsed = parse_text::<NetParameter>(&sources, file, NET);
        black_box(parsed.expect("a right text"));
    });
    report.row(net, &[megabytes, tree, bound, whole]);
}

/// Seconds that it takes, those to free the result included.
fn timed(run: &dyn Fn()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
