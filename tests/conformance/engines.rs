//! The ways to compute a net that are held against Caffe.

use caffec::diag::Result;
use caffec::ir::{Graph, Shape, Tensor, Valid, reference};
use caffec::kernel::Port;
use caffec::passes::{self, Fuse};
use caffec::runtime::{self, exec::Executable};

/// Something that computes all of `graph.outputs` from `graph.inputs`, in so many forward
/// passes on the same inputs, of which the last one counts.
pub struct Engine {
    pub name: &'static str,
    pub run: fn(Valid, &[Tensor], usize) -> Result<Vec<Tensor>>,
}

pub const ENGINES: &[Engine] = &[
    Engine {
        name: "reference",
        run: |graph, inputs, forwards| on_reference(&graph, inputs, forwards),
    },
    Engine {
        name: "passes",
        run: |graph, inputs, forwards| {
            on_reference(&passes::run(graph, Fuse::All), inputs, forwards)
        },
    },
    Engine {
        name: "interpreter",
        run: |graph, inputs, forwards| {
            let graph = compile(graph, runtime::exec::Engine::Interpreter, Fuse::All)?;
            execute(&graph, inputs, forwards)
        },
    },
    Engine {
        name: "jit",
        run: |graph, inputs, forwards| {
            let graph = compile(graph, runtime::exec::Engine::Jit, Fuse::All)?;
            execute(&graph, inputs, forwards)
        },
    },
    Engine {
        name: "jit unfused",
        run: |graph, inputs, forwards| {
            let graph = compile(graph, runtime::exec::Engine::Jit, Fuse::None)?;
            execute(&graph, inputs, forwards)
        },
    },
];

fn on_reference(graph: &Graph, inputs: &[Tensor], forwards: usize) -> Result<Vec<Tensor>> {
    let mut state = reference::State::default();
    for _ in 1..forwards {
        reference::run_on(graph, &mut state, inputs, &[])?;
    }
    reference::run_on(graph, &mut state, inputs, &graph.outputs)
}

fn compile(graph: Valid, engine: runtime::exec::Engine, fuse: Fuse) -> Result<Executable> {
    let options = caffec::Options {
        engine,
        fuse,
        ..caffec::Options::default()
    };
    caffec::compile(graph, &options)
}

fn execute(executable: &Executable, inputs: &[Tensor], forwards: usize) -> Result<Vec<Tensor>> {
    let ports = executable.program().outputs.iter();
    let zeros = |port: &Port| Shape::new(port.shape.clone()).map(Tensor::zeros);
    let mut outputs = ports.map(zeros).collect::<Result<Vec<Tensor>>>()?;
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| &t.data[..]).collect();
    let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(|t| &mut t.data[..]).collect();
    let mut context = executable.context(1)?;
    for _ in 0..forwards {
        executable.run(&mut context, &inputs, &mut slices)?;
    }
    Ok(outputs)
}
