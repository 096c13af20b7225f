//! The ways to compute a net that are held against Caffe.

use caffec::diag::Result;
use caffec::ir::{Tensor, Valid, reference};
use caffec::passes::{self, Fuse};
use caffec::runtime;

/// Something that computes `graph.outputs` from `graph.inputs`.
pub struct Engine {
    pub name: &'static str,
    pub run: fn(Valid, &[Tensor]) -> Result<Vec<Tensor>>,
}

pub const ENGINES: &[Engine] = &[
    Engine {
        name: "reference",
        run: |graph, inputs| reference::run(&graph, inputs, &graph.outputs),
    },
    Engine {
        name: "passes",
        run: |graph, inputs| {
            let graph = passes::run(graph, Fuse::All);
            reference::run(&graph, inputs, &graph.outputs)
        },
    },
    Engine {
        name: "interpreter",
        run: |graph, inputs| execute(graph, inputs, runtime::exec::Engine::Interpreter, Fuse::All),
    },
    Engine {
        name: "jit",
        run: |graph, inputs| execute(graph, inputs, runtime::exec::Engine::Jit, Fuse::All),
    },
    Engine {
        name: "jit unfused",
        run: |graph, inputs| execute(graph, inputs, runtime::exec::Engine::Jit, Fuse::None),
    },
];

fn execute(
    graph: Valid,
    inputs: &[Tensor],
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
    executable.run(&mut executable.context(1)?, &inputs, &mut slices)?;
    Ok(outputs)
}
