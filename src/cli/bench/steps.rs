//! `caffec bench --layers`: each step of one setting, held against what the machine
//! could do.

use super::super::Outcome;
use super::super::args::BenchArgs;
use super::super::model::{self, executable};
use super::super::talk::Progress;
use super::super::tuning::tuned;
use super::{Reports, Stats, WARM_UP, each_batch, heading, milliseconds, more};
use caffec::diag::{Result, Sources, clean};
use caffec::ir::Tensor;
use caffec::kernel::Place;
use caffec::leaf::Isa;
use caffec::runtime::exec::{Engine, Executable};
use caffec::runtime::peak::{fma_peak, read_rate};
use caffec::summary::{Table, human_bytes};
use serde_json::{Value, json};
use std::time::Instant;

pub fn run(args: &BenchArgs, sources: &mut Sources) -> Outcome {
    let isa = model::isa(args.engine.isa)?;
    let mut reports = Reports::new(args);
    each_batch(args, sources, |graph, inputs, batch| {
        let name = graph.name.clone();
        let mut outputs = model::output_tensors(&graph)?;
        let options = model::options(
            args.engine.no_fuse,
            args.engine.conv.into(),
            isa,
            Engine::Jit,
        );
        let options = tuned(&args.engine.tune, &graph, options)?;
        let (exe, ..) = executable(graph, &options)?;
        for &threads in &args.threads {
            let report = measure(&exe, isa, threads, args.runs, &inputs, &mut outputs)?;
            let head = heading(&name, batch, threads, isa);
            reports.add(&head, report.text(), report.json(&name, batch, isa))?;
        }
        Ok(())
    })?;
    reports.finish()
}

fn measure(
    exe: &Executable,
    isa: Isa,
    threads: usize,
    runs: Option<usize>,
    inputs: &[Tensor],
    outputs: &mut [Tensor],
) -> Result<Report> {
    let progress = Progress::new("running");
    let mut context = exe.context(threads)?;
    let program = exe.program();
    let mut times = vec![Vec::new(); program.steps.len()];
    let mut totals = Vec::new();
    let working_set = 4 * (program.weights_len + program.arena_len);
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(|t| &mut t.data[..]).collect();
    let mut peak = fma_peak(isa, threads);
    let mut rate = read_rate(working_set, threads)?;
    for _ in 0..WARM_UP {
        exe.run(&mut context, &inputs, &mut outputs)?;
    }
    let begin = Instant::now();
    while more(totals.len(), runs, begin) {
        let start = Instant::now();
        let steps = exe.run_timed(&mut context, &inputs, &mut outputs)?;
        totals.push(milliseconds(start.elapsed()));
        for (times, step) in times.iter_mut().zip(steps) {
            times.push(milliseconds(step));
        }
    }
    peak = peak.max(fma_peak(isa, threads));
    rate = rate.max(read_rate(working_set, threads)?);
    drop(progress);
    let steps = program.steps.iter().zip(&times).map(|(step, times)| Line {
        layers: step.layers.iter().map(|l| clean(l)).collect(),
        about: clean(&step.about),
        macs: step.macs,
        activations: step.traffic,
        weights: program.weight_bytes(step),
        time: Stats::of(times),
    });
    let mut steps: Vec<Line> = steps.collect();
    let lost = |line: &Line| line.time.median - line.limit(peak, rate);
    steps.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    let weights = program.buffers.iter();
    let weights = weights.filter(|b| matches!(b.place, Place::Weights(_)));
    let total = Line {
        layers: vec!["total".into()],
        about: String::new(),
        macs: steps.iter().map(|s| s.macs).sum(),
        activations: steps.iter().map(|s| s.activations).sum(),
        weights: weights.map(|b| 4 * b.len as u64).sum(),
        time: Stats::of(&totals),
    };
    Ok(Report {
        threads,
        rounds: totals.len(),
        peak,
        rate,
        steps,
        total,
    })
}

struct Report {
    threads: usize,
    rounds: usize,
    /// GFLOP/s.
    peak: f64,
    /// GB/s, of reading as many bytes as the net's weights and arena have.
    rate: f64,
    /// The one that loses most time against its limit first.
    steps: Vec<Line>,
    total: Line,
}

struct Line {
    layers: Vec<String>,
    about: String,
    /// Of the direct algorithm.
    macs: u64,
    /// Bytes of activations read and written.
    activations: u64,
    /// Bytes of packed weights.
    weights: u64,
    time: Stats,
}

impl Line {
    /// Milliseconds that the direct algorithm needs at least, at `peak` GFLOP/s, or that
    /// reading the weights takes at `rate` GB/s, if that is longer; of a step without
    /// multiply-adds, those of reading and writing its activations.
    fn limit(&self, peak: f64, rate: f64) -> f64 {
        let bytes = match self.macs {
            0 => self.activations + self.weights,
            _ => self.weights,
        };
        let arithmetic = 2.0 * self.macs as f64 / (peak * 1e6);
        arithmetic.max(bytes as f64 / (rate * 1e6))
    }

    fn gflops(&self) -> f64 {
        2.0 * self.macs as f64 / (self.time.median.max(1e-9) * 1e6)
    }
}

impl Report {
    fn text(&self) -> String {
        let head = [
            "",
            "ms",
            "lost ms",
            "% of limit",
            "GFLOP/s",
            "% of peak",
            "traffic",
            "weights",
        ];
        let mut table = Table::new(&head, 1);
        for line in self.steps.iter().chain([&self.total]) {
            let limit = line.limit(self.peak, self.rate);
            let some = |text: String| if line.macs > 0 { text } else { String::new() };
            table.row(vec![
                line.layers.join(", "),
                line.time.to_string(),
                format!("{:.3}", line.time.median - limit),
                format!("{:.1}", 100.0 * limit / line.time.median.max(1e-9)),
                some(format!("{:.1}", line.gflops())),
                some(format!("{:.1}", 100.0 * line.gflops() / self.peak)),
                human_bytes(line.activations),
                human_bytes(line.weights),
            ]);
        }
        let mut text = format!(
            "; FMA peak {:.1} GFLOP/s, reading {:.1} GB/s; {} rounds\n\n",
            self.peak, self.rate, self.rounds
        );
        let table = table.text();
        let abouts = self.steps.iter().map(|step| step.about.as_str());
        for (row, about) in table
            .lines()
            .zip([""].into_iter().chain(abouts).chain([""]))
        {
            text += row;
            if !about.is_empty() {
                text += "  ";
                text += about;
            }
            text.push('\n');
        }
        text
    }

    fn json(&self, name: &str, batch: Option<usize>, isa: Isa) -> Value {
        let line = |line: &Line| {
            let limit = line.limit(self.peak, self.rate);
            json!({
                "layers": line.layers,
                "about": line.about,
                "macs": line.macs,
                "activation_bytes": line.activations,
                "weight_bytes": line.weights,
                "median_ms": line.time.median,
                "quartiles_ms": [line.time.lower, line.time.upper],
                "min_ms": line.time.min,
                "limit_ms": limit,
                "gflops": line.gflops(),
                "share_of_peak": line.gflops() / self.peak,
            })
        };
        json!({
            "net": name,
            "batch": batch,
            "threads": self.threads,
            "isa": isa.name(),
            "fma_peak_gflops": self.peak,
            "read_gb_per_s": self.rate,
            "rounds": self.rounds,
            "steps": self.steps.iter().map(line).collect::<Vec<_>>(),
            "total": line(&self.total),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bound_by_arithmetic_or_by_its_weights() {
        let line = |macs, activations, weights| Line {
            layers: Vec::new(),
            about: String::new(),
            macs,
            activations,
            weights,
            time: Stats::of(&[1.0]),
        };
        // 100 GFLOP/s and 10 GB/s.
        assert_eq!(line(50_000_000, 1 << 30, 1_000).limit(100.0, 10.0), 1.0);
        assert_eq!(line(1_000, 1 << 30, 20_000_000).limit(100.0, 10.0), 2.0);
        assert_eq!(line(0, 30_000_000, 0).limit(100.0, 10.0), 3.0);
    }
}
