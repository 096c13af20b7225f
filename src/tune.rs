//! The fastest ways to compute the convolutions of a net, by measuring them on this
//! machine.
//!
//! All questions are asked at once: round `i` compiles the net with the `i`-th way of each
//! and runs it in turns with the net as the models would have it, so that a clock that
//! wanders meets both. First the convolutions, one by one; then, with what was found, the
//! chains. One thread runs, so what is found, and with it a net's results, does not depend
//! on the number of threads.

use crate::diag::Result;
use crate::ir::{Tensor, Valid};
use crate::lower::{Question, Tuning, questions};
use crate::passes::{self, Fuse};
use crate::runtime::exec::{Context, Executable};
use crate::{Options, compile};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Runs of each contestant, and those before that count for nothing.
const RUNS: usize = 6;
const WARM_UP: usize = 1;

/// What another way's time must be of the model's, to be taken.
const CLEARLY: f64 = 0.98;

/// Answers what `options.tuning` does not answer yet, and gives all of it. `progress` is
/// told the round and the number of rounds.
///
/// Errors: those of [`compile`] and of running.
pub fn tune(
    graph: &Valid,
    options: &Options,
    inputs: &[Tensor],
    mut progress: impl FnMut(usize, usize),
) -> Result<Arc<Tuning>> {
    let mut options = options.clone();
    let whole = options.fuse;
    for fuse in [whole.min(Fuse::Layers), whole] {
        options.fuse = fuse;
        let after = passes::run(graph.clone(), fuse);
        let mut open = questions(&after, &options.lowering());
        open.retain(|question| !options.tuning.contains_key(&question.key));
        let answers = answers(graph, &options, inputs, &open, &mut progress)?;
        Arc::make_mut(&mut options.tuning).extend(answers);
    }
    Ok(options.tuning)
}

/// A net under measurement.
struct Contestant {
    exe: Executable,
    context: Context,
    /// Least time of each step.
    times: Vec<Duration>,
}

impl Contestant {
    fn new(graph: &Valid, options: &Options) -> Result<Contestant> {
        let exe = compile(graph.clone(), options)?;
        let context = exe.context(1)?;
        let times = vec![Duration::MAX; exe.program().steps.len()];
        Ok(Contestant {
            exe,
            context,
            times,
        })
    }

    fn run(&mut self, inputs: &[&[f32]], outputs: &mut [Tensor], counts: bool) -> Result<()> {
        let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(|t| &mut t.data[..]).collect();
        let times = self
            .exe
            .run_timed(&mut self.context, inputs, &mut outputs)?;
        for (least, time) in self.times.iter_mut().zip(times) {
            if counts {
                *least = time.min(*least);
            }
        }
        Ok(())
    }

    /// Seconds of the steps of a question's nodes.
    fn seconds(&self, question: &Question) -> f64 {
        let layers: HashSet<&String> = question.nodes.iter().flatten().collect();
        let steps = self.exe.program().steps.iter().zip(&self.times);
        let own = steps.filter(|(step, _)| step.layers.iter().any(|l| layers.contains(l)));
        own.map(|(_, time)| time.as_secs_f64()).sum()
    }
}

fn answers(
    graph: &Valid,
    options: &Options,
    inputs: &[Tensor],
    questions: &[Question],
    progress: &mut impl FnMut(usize, usize),
) -> Result<Tuning> {
    let rounds = questions.iter().map(|q| q.ways.len()).max().unwrap_or(0);
    let mut best: Vec<(f64, &String)> = questions.iter().map(|q| (CLEARLY, &q.ways[0])).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    let shapes = graph.outputs.iter().map(|&blob| graph.shape(blob));
    let mut outputs: Vec<Tensor> = shapes.cloned().map(Tensor::zeros).collect();
    let mut base = match rounds {
        0 => return Ok(Tuning::new()),
        _ => Contestant::new(graph, options)?,
    };
    for round in 1..rounds {
        progress(round, rounds - 1);
        let asked = questions
            .iter()
            .filter_map(|q| Some((q, q.ways.get(round)?)));
        let mut tuning = options.tuning.clone();
        Arc::make_mut(&mut tuning).extend(asked.map(|(q, way)| (q.key.clone(), way.clone())));
        let options = Options {
            tuning,
            ..options.clone()
        };
        let mut other = Contestant::new(graph, &options)?;
        base.times.fill(Duration::MAX);
        for run in 0..WARM_UP + RUNS {
            for side in [&mut base, &mut other] {
                side.run(&inputs, &mut outputs, run >= WARM_UP)?;
            }
        }
        for (question, best) in questions.iter().zip(&mut best) {
            let ratio = other.seconds(question) / base.seconds(question);
            if let Some(way) = question.ways.get(round).filter(|_| ratio < best.0) {
                *best = (ratio, way);
            }
        }
    }
    let found = questions.iter().zip(best);
    Ok(found
        .map(|(q, (_, way))| (q.key.clone(), way.clone()))
        .collect())
}
