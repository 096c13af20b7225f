//! `caffec bench --worker`: timed runs on request, one JSON object a line.
//!
//! | stdin | stdout |
//! |---|---|
//! | | `{"ready": true, "version": "…", "prec": "f32"}` once the net is compiled |
//! | `run N` | `{"ms": […]}`: N inferences, each timed by itself; the outputs of the last are in `--output-dir` by then |
//! | `quit`, or the end | |
//!
//! What cannot be done is `{"error": "…"}`. Nothing runs before the first `run`.

use super::args::BenchArgs;
use super::bench::Setting;
use super::{Failure, Outcome};
use caffec::diag::{Errors, Sources};
use serde_json::{Value, json};
use std::io::{self, BufRead, Write};

/// Most inferences of one request.
const MOST_RUNS: usize = 1_000_000;

pub fn run(args: &BenchArgs, sources: &mut Sources) -> Outcome {
    let outcome = Setting::new(args, sources).and_then(|mut setting| serve(args, &mut setting));
    if let Err(Failure::Model(errors)) = &outcome {
        say(&error(errors))?;
    }
    outcome
}

fn serve(args: &BenchArgs, setting: &mut Setting) -> Outcome {
    say(&json!({"ready": true, "version": env!("CARGO_PKG_VERSION"), "prec": "f32"}))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["quit"] => break,
            [] => {}
            ["run", count] => {
                let count = count.parse().ok().filter(|n| (1..=MOST_RUNS).contains(n));
                let done = count.map(|n| setting.time(n).and_then(|ms| {
                    setting.write(args)?;
                    Ok(json!({ "ms": ms }))
                }));
                say(&match done {
                    Some(Ok(times)) => times,
                    Some(Err(errors)) => error(&errors),
                    None => json!({"error": format!("run takes a number from 1 to {MOST_RUNS}")}),
                })?;
            }
            _ => say(&json!({"error": "expected `run N` or `quit`"}))?,
        }
    }
    Ok(())
}

fn error(errors: &Errors) -> Value {
    json!({"error": errors.to_string()})
}

fn say(json: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{json}")?;
    out.flush()
}
