//! Forward passes of whole nets with stand-in weights: fused against unfused in turns, at
//! batch 1 on one thread and on two.
//!
//! `cargo bench --bench net [fixture…] [--json]`: `caffec bench` for each net. The peak is
//! measured in the same run, on as many threads.

mod common;

use common::{Report, named_or};
use serde_json::Value;
use std::process::Command;

const NETS: [&str; 9] = [
    "lenet",
    "squeezenet_v1.1",
    "mobilenet_v1",
    "alexnet",
    "caffenet",
    "nin_imagenet",
    "googlenet",
    "resnet50",
    "vgg16",
];

fn main() {
    let nets = named_or(&NETS);
    let columns = &[
        "net",
        "threads",
        "fused ms",
        "unfused ms",
        "ratio",
        "GFLOP/s",
        "peak",
        "share of peak",
    ];
    let mut report = Report::new("net", columns);
    for net in nets {
        let path = format!("{}/fixtures/{net}.prototxt", env!("CARGO_MANIFEST_DIR"));
        let answer = Command::new(env!("CARGO_BIN_EXE_caffec"))
            .args(["bench", &path, "--threads", "1,2", "--json"])
            .output()
            .expect("caffec runs");
        assert!(
            answer.status.success(),
            "{}",
            String::from_utf8_lossy(&answer.stderr)
        );
        let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
        for setting in answer["settings"].as_array().expect("settings") {
            let figure = |path: &str| {
                setting
                    .pointer(path)
                    .and_then(Value::as_f64)
                    .expect("a figure")
            };
            let figures = [
                "/threads",
                "/total/fused/median_ms",
                "/total/unfused/median_ms",
                "/total/ratio",
                "/total/fused/gflops",
                "/fma_peak_gflops",
                "/total/fused/share_of_peak",
            ];
            report.row(&net, &figures.map(figure));
        }
    }
}
