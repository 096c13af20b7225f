//! `caffec bench`: fused against unfused, or one setting by itself, as a whole or step by
//! step.
//!
//! Both contestants run in turns in one process, so that a clock that wanders
//! meets both; the machine's multiply-add peak is measured in between.

mod steps;

use super::args::{Backend, BenchArgs, EngineArgs};
use super::model::{self, Machine, executable};
use super::talk::Progress;
use super::tuning::tuned;
use super::{Failure, Outcome, inputs, run, worker};
use caffec::diag;
use caffec::diag::{Result, Sources};
use caffec::ir::{Blob, BlobId, Graph, Tensor, Valid, room};
use caffec::leaf::Isa;
use caffec::runtime::exec::{Context, Engine, Executable};
use caffec::runtime::peak::fma_peak;
use caffec::summary::{Table, human_bytes};
use caffec::weights::random_input;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How long a comparison lasts, if the number of runs is not given.
const TIME: Duration = Duration::from_secs(3);
const LEAST_RUNS: usize = 5;
const WARM_UP: usize = 2;

pub fn run(args: &BenchArgs, sources: &mut Sources) -> Outcome {
    if args.worker {
        return worker::run(args, sources);
    }
    if args.layers {
        return steps::run(args, sources);
    }
    let single = args.output_dir.is_some()
        || !args.inputs.inputs.is_empty()
        || args.engine.no_fuse
        || args.engine.backend != Backend::Jit;
    match single {
        true => one_setting(args, sources),
        false => compare(args, sources),
    }
}

// ---------------------------------------------------------------- one setting

/// A net with its inputs, ready to be timed.
pub struct Setting {
    machine: Machine,
    inputs: Vec<Tensor>,
    names: Vec<(String, caffec::ir::Shape)>,
    outputs: Vec<Tensor>,
    shown: caffec::ir::Shown,
    pub isa: Isa,
    pub threads: usize,
}

impl Setting {
    pub fn new(args: &BenchArgs, sources: &mut Sources) -> Result<Setting, Failure> {
        let (&[threads], [] | [_]) = (args.threads.as_slice(), args.batch.as_slice()) else {
            let message = "one setting has one --threads and one --batch";
            return Err(Failure::Usage(message.into()));
        };
        let isa = model::isa(args.engine.isa)?;
        let loaded = model::load(&args.net, sources)?;
        let wishes = model::wishes(&args.net, args.batch.first().copied(), &[]);
        let (mut graph, inputs) = match args.inputs.inputs.is_empty() {
            true => stand_ins(&loaded, wishes, sources)?,
            false => inputs::feed(&args.inputs, &loaded, wishes, sources)?,
        };
        let names = model::outputs(&graph);
        if let Some(folder) = &args.output_dir {
            run::files(folder, &names)?;
        }
        model::note_stand_ins(&args.weights);
        model::fill_weights(&args.weights, &args.net, &mut graph)?;
        let (outputs, shown) = (model::output_tensors(&graph)?, graph.shown());
        Ok(Setting {
            machine: Machine::new(graph, &args.engine, isa, threads)?,
            outputs,
            shown,
            inputs,
            names,
            isa,
            threads,
        })
    }

    /// Milliseconds of each of `runs` inferences.
    pub fn time(&mut self, runs: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(runs.min(1 << 20));
        for _ in 0..runs {
            let start = Instant::now();
            self.machine.run(&self.inputs, &mut self.outputs)?;
            times.push(milliseconds(start.elapsed()));
        }
        Ok(times)
    }

    /// Writes the outputs of the last inference, if they are wanted.
    pub fn write(&self, args: &BenchArgs) -> Result<()> {
        match &args.output_dir {
            Some(folder) => run::write(
                folder,
                &run::files(folder, &self.names)?,
                &self.shown.of(&self.outputs),
            ),
            None => Ok(()),
        }
    }
}

type Fed = (Valid, Vec<Tensor>);

/// The graph as nobody feeds its labels, and random inputs for the rest.
fn stand_ins(
    loaded: &model::Model,
    mut wishes: caffec::ir::Options,
    sources: &Sources,
) -> Result<Fed> {
    wishes.fed = Some(BTreeSet::new());
    let graph = loaded.graph(&wishes, sources)?;
    room(graph.inputs.iter().map(|&b| graph.shape(b).count()))?;
    let stand_in = |input: &BlobId| {
        let Blob { name, shape, .. } = &graph[*input];
        match graph.defaults.get(input) {
            Some(values) => Tensor::new(shape.clone(), values.floats().into_owned()),
            None => random_input(name, shape.clone(), 1),
        }
    };
    let inputs = graph.inputs.iter().map(stand_in).collect();
    Ok((graph, inputs))
}

fn one_setting(args: &BenchArgs, sources: &mut Sources) -> Outcome {
    let mut setting = Setting::new(args, sources)?;
    let progress = Progress::new("running");
    setting.time(WARM_UP)?;
    let mut ms = Vec::new();
    let begin = Instant::now();
    while more(ms.len(), args.runs, begin) {
        ms.extend(setting.time(1)?);
    }
    drop(progress);
    setting.write(args)?;
    let stats = Stats::of(&ms);
    let mut out = io::stdout().lock();
    if args.json {
        let json = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "prec": "f32",
            "isa": setting.isa.name(),
            "threads": setting.threads,
            "median_ms": stats.median,
            "ms": ms,
        });
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{} ms, {} runs, {}", stats, ms.len(), setting.isa)?;
    }
    Ok(out.flush()?)
}

fn more(done: usize, runs: Option<usize>, begin: Instant) -> bool {
    match runs {
        Some(runs) => done < runs,
        None => done < LEAST_RUNS || begin.elapsed() < TIME,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median and quartiles.
#[derive(Clone, Copy)]
struct Stats {
    median: f64,
    lower: f64,
    upper: f64,
    min: f64,
}

impl Stats {
    fn of(values: &[f64]) -> Stats {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (
                sorted[place.floor() as usize],
                sorted[place.ceil() as usize],
            );
            low + (high - low) * place.fract()
        };
        Stats {
            median: at(0.5),
            lower: at(0.25),
            upper: at(0.75),
            min: at(0.0),
        }
    }

    fn json(&self, all: &[f64]) -> Value {
        json!({
            "median_ms": self.median,
            "quartiles_ms": [self.lower, self.upper],
            "min_ms": self.min,
            "ms": all,
        })
    }
}

impl std::fmt::Display for Stats {
    /// The median, and half the distance of the quartiles.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} ±{:.3}",
            self.median,
            (self.upper - self.lower) / 2.0
        )
    }
}

// ---------------------------------------------------------------- the comparison

fn compare(args: &BenchArgs, sources: &mut Sources) -> Outcome {
    let isa = model::isa(args.engine.isa)?;
    let mut reports = Reports::new(args);
    each_batch(args, sources, |graph, inputs, batch| {
        let name = graph.name.clone();
        let mut duel = Duel::new(graph, inputs, &args.engine, isa)?;
        for &threads in &args.threads {
            let report = duel.fight(threads, args.runs)?;
            let head = heading(&name, batch, threads, isa);
            reports.add(&head, report.text(), report.json(&name, batch, isa))?;
        }
        Ok(())
    })?;
    reports.finish()
}

/// Prints the report of each setting when it is there or, with `--json`, all of them at
/// the end.
struct Reports {
    json: Option<Vec<Value>>,
}

impl Reports {
    fn new(args: &BenchArgs) -> Reports {
        Reports {
            json: args.json.then(Vec::new),
        }
    }

    fn add(&mut self, heading: &str, text: String, json: Value) -> io::Result<()> {
        match &mut self.json {
            Some(reports) => reports.push(json),
            None => {
                let mut out = io::stdout().lock();
                writeln!(out, "{heading}{text}")?;
                out.flush()?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        if let Some(reports) = self.json {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", json!({"version": 1, "settings": reports}))?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Calls `each` with the net, with weights, and random inputs for each batch size
/// asked for.
fn each_batch(
    args: &BenchArgs,
    sources: &mut Sources,
    mut each: impl FnMut(Valid, Vec<Tensor>, Option<usize>) -> Outcome,
) -> Outcome {
    let loaded = model::load(&args.net, sources)?;
    model::note_stand_ins(&args.weights);
    let batches: Vec<Option<usize>> = match args.batch.as_slice() {
        [] => vec![None],
        batches => batches.iter().copied().map(Some).collect(),
    };
    for batch in batches {
        let wishes = model::wishes(&args.net, batch, &[]);
        let (mut graph, inputs) = stand_ins(&loaded, wishes, sources)?;
        model::fill_weights(&args.weights, &args.net, &mut graph)?;
        let batch = inputs.first().and_then(|t| t.shape.first().copied());
        each(graph, inputs, batch)?;
    }
    Ok(())
}

/// What a report is about.
fn heading(net: &str, batch: Option<usize>, threads: usize, isa: Isa) -> String {
    format!(
        "{}, batch {}, {threads} {}, {isa}",
        diag::clean(net),
        batch.unwrap_or(1),
        if threads == 1 { "thread" } else { "threads" },
    )
}

/// Layers that are reported together.
struct Group {
    name: String,
    /// How it was cut.
    why: String,
    layers: BTreeSet<String>,
}

/// The chains of a graph, with how they were cut.
fn chains(graph: &Graph, why: Vec<String>) -> Vec<Group> {
    let group = |(chain, why): (&Vec<caffec::ir::NodeId>, String)| {
        let nodes = chain.iter().map(|&id| &graph[id]);
        Group {
            name: nodes
                .clone()
                .map(|n| n.name.as_str())
                .collect::<Vec<_>>()
                .join(" → "),
            why,
            layers: nodes.flat_map(|n| n.layers.iter().cloned()).collect(),
        }
    };
    graph.chains.iter().zip(why).map(group).collect()
}

/// A contestant: the executable and the group of each of its steps.
struct Contestant {
    exe: Executable,
    /// Index of the chain, or the number of chains for all other layers.
    group_of: Vec<usize>,
}

impl Contestant {
    fn new(exe: Executable, groups: &[Group]) -> Contestant {
        let belongs = |step: &caffec::kernel::Step| {
            let holds = |g: &Group| step.layers.iter().any(|l| g.layers.contains(l));
            groups.iter().position(holds).unwrap_or(groups.len())
        };
        let group_of = exe.program().steps.iter().map(belongs).collect();
        Contestant { exe, group_of }
    }

    /// A figure of the steps, summed over each group, and in the end over all.
    fn sums(&self, groups: usize, figure: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; groups + 2];
        for (step, &group) in self.group_of.iter().enumerate() {
            sums[group] += figure(step);
            sums[groups + 1] += figure(step);
        }
        sums
    }

    /// Milliseconds of one forward pass, by group.
    fn time(
        &self,
        context: &mut Context,
        inputs: &[&[f32]],
        outputs: &mut [Tensor],
        groups: usize,
    ) -> Result<Vec<f64>> {
        let mut outputs: Vec<&mut [f32]> =
            outputs.iter_mut().map(|t| t.data.as_mut_slice()).collect();
        let start = Instant::now();
        let steps = self.exe.run_timed(context, inputs, &mut outputs)?;
        let total = milliseconds(start.elapsed());
        let mut sums = self.sums(groups, |step| milliseconds(steps[step]));
        sums[groups + 1] = total;
        Ok(sums)
    }
}

/// The fused and the unfused net.
struct Duel {
    groups: Vec<Group>,
    sides: [Contestant; 2],
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    isa: Isa,
}

impl Duel {
    fn new(graph: Valid, inputs: Vec<Tensor>, engine: &EngineArgs, isa: Isa) -> Result<Duel> {
        let options = |no_fuse| {
            let options = model::options(no_fuse, engine.conv.into(), isa, Engine::Jit);
            tuned(&engine.tune, &graph, options)
        };
        let (fused, unfused) = (options(false)?, options(true)?);
        let outputs = model::output_tensors(&graph)?;
        let (fused, after, why) = executable(graph.clone(), &fused)?;
        let (unfused, ..) = executable(graph, &unfused)?;
        let groups = chains(&after, why);
        Ok(Duel {
            sides: [fused, unfused].map(|exe| Contestant::new(exe, &groups)),
            groups,
            inputs,
            outputs,
            isa,
        })
    }

    /// Times both in turns.
    fn fight(&mut self, threads: usize, runs: Option<usize>) -> Result<Report> {
        let progress = Progress::new("running");
        let groups = self.groups.len();
        let mut contexts = [
            self.sides[0].exe.context(threads)?,
            self.sides[1].exe.context(threads)?,
        ];
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|t| t.data.as_slice()).collect();
        let mut times = [Vec::new(), Vec::new()];
        let mut peaks = vec![fma_peak(self.isa, threads)];
        let mut begin = Instant::now();
        let mut round = 0;
        while round < WARM_UP || more(round - WARM_UP, runs, begin) {
            if round == WARM_UP {
                begin = Instant::now();
            }
            for side in 0..2 {
                let contestant = &self.sides[side];
                let ms =
                    contestant.time(&mut contexts[side], &inputs, &mut self.outputs, groups)?;
                if round >= WARM_UP {
                    times[side].push(ms);
                }
            }
            round += 1;
        }
        peaks.push(fma_peak(self.isa, threads));
        drop(progress);
        Ok(self.report(threads, &times, &peaks))
    }

    fn report(&self, threads: usize, times: &[Vec<Vec<f64>>; 2], peaks: &[f64]) -> Report {
        let groups = self.groups.len();
        let named = self
            .groups
            .iter()
            .map(|g| (g.name.as_str(), g.why.as_str()));
        let named = named.chain([("other layers", ""), ("total", "")]);
        let figures = |figure: fn(&caffec::kernel::Step) -> u64| {
            [0, 1].map(|s: usize| {
                let side = &self.sides[s];
                side.sums(groups, |step| {
                    figure(&side.exe.program().steps[step]) as f64
                })
            })
        };
        let (macs, traffic) = (figures(|s| s.macs), figures(|s| s.traffic));
        let lines = named.enumerate().map(|(g, (name, why))| Line {
            name: diag::clean(name),
            why: diag::clean(why),
            macs: macs[1][g],
            ms: [0, 1].map(|side: usize| times[side].iter().map(|round| round[g]).collect()),
            traffic: [traffic[0][g], traffic[1][g]],
        });
        Report {
            threads,
            peak: peaks.iter().copied().fold(0.0, f64::max),
            lines: lines.collect(),
        }
    }
}

/// Sides are fused, unfused.
struct Report {
    threads: usize,
    /// GFLOP/s.
    peak: f64,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    /// How a chain was cut.
    why: String,
    macs: f64,
    ms: [Vec<f64>; 2],
    traffic: [f64; 2],
}

impl Line {
    fn stats(&self) -> [Stats; 2] {
        [0, 1].map(|side: usize| Stats::of(&self.ms[side]))
    }

    /// Unfused over fused, round by round.
    fn ratio(&self) -> Stats {
        let rounds = self.ms[0].iter().zip(&self.ms[1]);
        let ratios: Vec<f64> = rounds.map(|(f, u)| u / f.max(1e-9)).collect();
        Stats::of(&ratios)
    }

    fn gflops(&self) -> [f64; 2] {
        self.stats()
            .map(|s| 2.0 * self.macs / (s.median.max(1e-9) * 1e6))
    }
}

impl Report {
    fn text(&self) -> String {
        let rounds = self.lines[0].ms[0].len();
        let mut table = Table::new(
            &[
                "",
                "fused ms",
                "unfused ms",
                "ratio",
                "GFLOP/s",
                "unfused",
                "% of peak",
                "unfused",
                "traffic",
                "unfused",
            ],
            1,
        );
        for line in &self.lines {
            let [fused, unfused] = line.stats();
            let some = |text: String| if line.macs > 0.0 { text } else { String::new() };
            let gflops = line.gflops();
            let share = gflops.map(|g| format!("{:.1}", 100.0 * g / self.peak));
            let traffic = line.traffic.map(|bytes| human_bytes(bytes as u64));
            table.row(vec![
                line.name.clone(),
                fused.to_string(),
                unfused.to_string(),
                format!("{:.3}", line.ratio().median),
                some(format!("{:.1}", gflops[0])),
                some(format!("{:.1}", gflops[1])),
                some(share[0].clone()),
                some(share[1].clone()),
                traffic[0].clone(),
                traffic[1].clone(),
            ]);
        }
        let mut text = format!(
            "; FMA peak {:.1} GFLOP/s; {rounds} rounds in turns\n\n{}",
            self.peak,
            table.text()
        );
        for line in self.lines.iter().filter(|line| !line.why.is_empty()) {
            text += &format!("  {}\n", line.why);
        }
        text
    }

    fn json(&self, name: &str, batch: Option<usize>, isa: Isa) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(|line| self.line_json(line)).collect();
        let (total, parts) = lines.split_last().expect("a report has a total");
        json!({
            "net": name,
            "batch": batch,
            "threads": self.threads,
            "isa": isa.name(),
            "fma_peak_gflops": self.peak,
            "rounds": self.lines[0].ms[0].len(),
            "chains": parts[..parts.len() - 1],
            "other": parts.last(),
            "total": total,
        })
    }

    fn line_json(&self, line: &Line) -> Value {
        let stats = line.stats();
        let gflops = line.gflops();
        let side = |s: usize| {
            let mut json = stats[s].json(&line.ms[s]);
            json["gflops"] = json!(gflops[s]);
            json["share_of_peak"] = json!(gflops[s] / self.peak);
            json["activation_bytes"] = json!(line.traffic[s] as u64);
            json
        };
        let ratio = line.ratio();
        json!({
            "layers": line.name,
            "why": line.why,
            "macs": line.macs as u64,
            "ratio": ratio.median,
            "ratio_quartiles": [ratio.lower, ratio.upper],
            "fused": side(0),
            "unfused": side(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        let s = Stats::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.min, s.lower, s.median, s.upper), (1.0, 1.75, 2.5, 3.25));
        assert_eq!(s.to_string(), "2.500 ±0.750");
        assert_eq!(Stats::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let line = Line {
            name: "x".into(),
            why: String::new(),
            macs: 2e6,
            ms: [vec![1.0, 2.0, 4.0], vec![2.0, 4.0, 4.0]],
            traffic: [0.0, 0.0],
        };
        assert_eq!(line.ratio().median, 2.0);
        assert_eq!(line.gflops(), [2.0, 1.0]);
    }
}
