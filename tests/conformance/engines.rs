//! The ways to compute a net that are held against Caffe.

use caffec::diag::Result;
use caffec::ir::{Tensor, Valid, reference};
use caffec::passes::{self, Fuse};
use caffec::runtime;

/// Something that computes `graph.outputs` from `graph.inputs`, so many times on the
/// same state, and gives the last.
pub struct Engine {
    pub name: &'static str,
    pub run: fn(Valid, &[Tensor], forwards: usize) -> Result<Vec<Tensor>>,
}

pub const ENGINES: &[Engine] = &[
    Engine {
        name: "reference",
        run: |graph, inputs, forwards| by_layers(&graph, inputs, forwards),
    },
    Engine {
        name: "passes",
        run: |graph, inputs, forwards| by_layers(&passes::run(graph, Fuse::All), inputs, forwards),
    },
    Engine {
        name: "interpreter",
        run: |graph, inputs, forwards| {
            let engine = runtime::exec::Engine::Interpreter;
            execute(graph, inputs, forwards, engine, Fuse::All)
        },
    },
    Engine {
        name: "jit",
        run: |graph, inputs, forwards| {
            let engine = runtime::exec::Engine::Jit;
            execute(graph, inputs, forwards, engine, Fuse::All)
        },
    },
    Engine {
        name: "jit unfused",
        run: |graph, inputs, forwards| {
            let engine = runtime::exec::Engine::Jit;
            execute(graph, inputs, forwards, engine, Fuse::None)
        },
    },
];

fn by_layers(graph: &Valid, inputs: &[Tensor], forwards: usize) -> Result<Vec<Tensor>> {
    let mut state = reference::State::default();
    for _ in 1..forwards {
        reference::run_on(graph, &mut state, inputs, &graph.outputs)?;
    }
    reference::run_on(graph, &mut state, inputs, &graph.outputs)
}

fn execute(
    graph: Valid,
    inputs: &[Tensor],
    forwards: usize,
    engine: runtime::exec::Engine,
    fuse: Fuse,
) -> Result<Vec<Tensor>> {
    let mut outputs: Vec<Tensor> = graph
        .outputs
        .iter()
        .map(|&b| Tensor::zeros(graph.shape(b).clone()))
        .collect();
    let options = caffec::Options {
        engine,
        fuse,
        ..caffec::Options::default()
    };
    let executable = caffec::compile(graph, &options)?;
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| &t.data[..]).collect();
    let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(|t| &mut t.data[..]).collect();
    let mut context = executable.context(1)?;
    for _ in 0..forwards {
        executable.run(&mut context, &inputs, &mut slices)?;
    }
    Ok(outputs)
}
