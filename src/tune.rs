//! The fastest ways to compute the convolutions of a net, by measuring them on this
//! machine.
//!
//! All questions are asked at once: round `i` compiles the net with the `i`-th way of each
//! and runs it in turns with the net as the models would have it, so that a clock that
//! wanders meets both. First the convolutions, one by one; then, with what was found, the
//! chains. Each round runs on one thread and on all of the machine, and both count the
//! same: what is found, and with it a net's results, does not depend on the number of
//! threads that the net is run on.

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

/// Answers what `options.tuning` does not answer yet, and gives all of it. `threads`: those
/// of the machine. `progress` is told the round and the number of rounds.
///
/// Errors: those of [`compile`] and of running.
pub fn tune(
    graph: &Valid,
    options: &Options,
    inputs: &[Tensor],
    threads: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Arc<Tuning>> {
    let mut options = options.clone();
    let whole = options.fuse;
    for fuse in [whole.min(Fuse::Layers), whole] {
        options.fuse = fuse;
        let after = passes::run(graph.clone(), fuse);
        let mut open = questions(&after, &options.lowering());
        open.retain(|question| !options.tuning.contains_key(&question.key));
        let answers = answers(graph, &options, (inputs, threads), &open, &mut progress)?;
        Arc::make_mut(&mut options.tuning).extend(answers);
    }
    Ok(options.tuning)
}

/// A net under measurement.
struct Contestant {
    exe: Executable,
    /// For each number of threads, with the least time of each step.
    sides: Vec<(Context, Vec<Duration>)>,
}

impl Contestant {
    fn new(graph: &Valid, options: &Options, threads: &[usize]) -> Result<Contestant> {
        let exe = compile(graph.clone(), options)?;
        let times = vec![Duration::MAX; exe.program().steps.len()];
        let side = |&threads: &usize| Ok((exe.context(threads)?, times.clone()));
        let sides = threads.iter().map(side).collect::<Result<_>>()?;
        Ok(Contestant { exe, sides })
    }

    fn forget(&mut self) {
        for (_, times) in &mut self.sides {
            times.fill(Duration::MAX);
        }
    }

    /// A forward pass on the `side`-th number of threads.
    fn run(
        &mut self,
        side: usize,
        inputs: &[&[f32]],
        outputs: &mut [Tensor],
        counts: bool,
    ) -> Result<()> {
        let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(|t| &mut t.data[..]).collect();
        let (context, least) = &mut self.sides[side];
        let times = self.exe.run_timed(context, inputs, &mut outputs)?;
        if counts {
            let pairs = least.iter_mut().zip(times);
            pairs.for_each(|(least, time)| *least = time.min(*least));
        }
        Ok(())
    }

    /// The product over the numbers of threads of the seconds of the steps of a question's
    /// nodes.
    fn seconds(&self, question: &Question) -> f64 {
        let layers: HashSet<&String> = question.nodes.iter().flatten().collect();
        let own = |times: &Vec<Duration>| -> f64 {
            let steps = self.exe.program().steps.iter().zip(times);
            let own = steps.filter(|(step, _)| step.layers.iter().any(|l| layers.contains(l)));
            own.map(|(_, time)| time.as_secs_f64()).sum()
        };
        self.sides.iter().map(|(_, times)| own(times)).product()
    }
}

fn answers(
    graph: &Valid,
    options: &Options,
    (inputs, threads): (&[Tensor], usize),
    questions: &[Question],
    progress: &mut impl FnMut(usize, usize),
) -> Result<Tuning> {
    let rounds = questions.iter().map(|q| q.ways.len()).max().unwrap_or(0);
    let mut best: Vec<(f64, &String)> = questions.iter().map(|q| (CLEARLY, &q.ways[0])).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    let shapes = graph.outputs.iter().map(|&blob| graph.shape(blob));
    let mut outputs: Vec<Tensor> = shapes.cloned().map(Tensor::zeros).collect();
    let threads = match threads {
        1 => vec![1],
        all => vec![1, all],
    };
    let mut base = match rounds {
        0 => return Ok(Tuning::new()),
        _ => Contestant::new(graph, options, &threads)?,
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
        let mut other = Contestant::new(graph, &options, &threads)?;
        base.forget();
        for side in 0..threads.len() {
            for run in 0..WARM_UP + RUNS {
                for contestant in [&mut base, &mut other] {
                    contestant.run(side, &inputs, &mut outputs, run >= WARM_UP)?;
                }
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
