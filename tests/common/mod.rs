//! What the tests of whole nets share: nets with weights, inputs, engines, comparisons.

// Each test program uses its part.
#![allow(dead_code)]

#[path = "../emitted/harness.rs"]
pub mod harness;

use caffec::diag::Sources;
use caffec::frontend::{self, Net, State};
use caffec::ir::{self, FloatData, Graph, Tensor, Valid};
use caffec::leaf::Isa;
use caffec::lower::{Chains, Convolutions};
use caffec::passes::Fuse;
use caffec::runtime::arena::Block;
use caffec::runtime::exec::{Engine, Executable};
use caffec::runtime::npy::read_npy;
use caffec::weights;
use caffec::{Options, Plan};
use harness::{Emitted, bytes};
use std::ops::Deref;

/// Whole nets are to be so close to the reference, times `max(1, largest)`.
pub const TOLERANCE: f32 = 1e-4;

/// Every way to lower a net, from all by itself to all in one.
pub const SETTINGS: [(Fuse, Chains); 4] = [
    (Fuse::None, Chains::WhereItPays),
    (Fuse::Layers, Chains::WhereItPays),
    (Fuse::All, Chains::WhereItPays),
    (Fuse::All, Chains::Always),
];

/// The instruction sets that this CPU has, best first.
pub fn isas() -> Vec<Isa> {
    let mut isas: Vec<Isa> = Isa::ALL.into_iter().filter(|i| i.available()).collect();
    isas.sort_by_key(|&isa| isa != Isa::detect());
    isas
}

pub fn parse(name: &str, text: impl Into<Vec<u8>>) -> Net {
    let mut sources = Sources::default();
    frontend::load_net(name, text.into(), &mut sources, &State::default())
        .unwrap_or_else(|errors| panic!("{}", sources.render_all(&errors)))
}

pub fn fixture(file: &str) -> Net {
    parse(file, std::fs::read(format!("fixtures/{file}")).unwrap())
}

/// The net's graph with stand-in weights.
pub fn graph(net: &Net, options: &ir::Options) -> Valid {
    match ir::build(net, options).valid() {
        Ok((mut graph, _)) => {
            graph.edit("random weights", |graph| {
                weights::random(graph, 1);
                keep_values(graph);
            });
            graph
        }
        Err(errors) => panic!("{errors}"),
    }
}

/// Stand-in weights are made anew for each reader; these tests read them often.
fn keep_values(graph: &mut Graph) {
    for param in &mut graph.params {
        let data = param.data.as_ref().expect("all parameters got values");
        param.data = Some(FloatData::new(data.floats().into_owned()));
    }
}

/// An input for each of the graph's.
pub fn inputs(graph: &Graph) -> Vec<Tensor> {
    let input = |&blob: &ir::BlobId| {
        let blob = &graph[blob];
        match blob.name.as_str() {
            "label" => weights::random_labels("label", blob.shape.clone(), 10, 1),
            name => weights::random_input(name, blob.shape.clone(), 1),
        }
    };
    graph.inputs.iter().map(input).collect()
}

/// What the layers mean, without any lowering.
pub fn reference(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    ir::reference::run(graph, inputs, &graph.outputs).unwrap()
}

pub fn plan(graph: &Valid, isa: Isa, (fuse, chains): (Fuse, Chains)) -> Plan {
    let options = Options {
        isa,
        fuse,
        chains,
        ..Options::default()
    };
    caffec::plan(graph.clone(), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// With Winograd's algorithm wherever it is possible, or nowhere.
pub fn plan_with(convolutions: Convolutions, graph: &Valid, isa: Isa) -> Plan {
    let options = Options {
        isa,
        convolutions,
        ..Options::default()
    };
    caffec::plan(graph.clone(), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// The inputs of `inputs()`, as behind a ReLU.
pub fn rectified(graph: &Graph) -> Vec<Tensor> {
    let mut inputs = inputs(graph);
    for input in &mut inputs {
        input.data.iter_mut().for_each(|x| *x = x.max(0.0));
    }
    inputs
}

/// The largest error of the first output on the JIT, as a share of its largest value.
pub fn error_share(plan: Plan, inputs: &[Tensor], want: &Tensor) -> f32 {
    let weights = plan.pack().unwrap();
    let executable = Executable::new(plan.program, weights, Engine::Jit).unwrap();
    let got = run(&executable, 1, inputs);
    let errors = got[0].iter().zip(&want.data).map(|(g, w)| (g - w).abs());
    let largest = want.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    errors.fold(0.0, f32::max) / largest
}

/// Numbers, of which any NaN equals any NaN.
pub struct Blobs(Vec<Vec<f32>>);

impl Deref for Blobs {
    type Target = [Vec<f32>];
    fn deref(&self) -> &[Vec<f32>] {
        &self.0
    }
}

impl PartialEq for Blobs {
    fn eq(&self, other: &Blobs) -> bool {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let mut pairs = self.iter().zip(other.iter());
        self.len() == other.len()
            && pairs.all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(same))
    }
}

pub fn run(executable: &Executable, threads: usize, inputs: &[Tensor]) -> Blobs {
    let mut context = executable.context(threads).unwrap();
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    let ports = &executable.program().outputs;
    let mut outputs: Vec<Vec<f32>> = ports.iter().map(|p| vec![f32::NAN; p.len()]).collect();
    let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    executable.run(&mut context, &inputs, &mut slices).unwrap();
    Blobs(outputs)
}

/// Runs a plan as machine code with several numbers of threads and in the interpreter,
/// which must all agree bit for bit.
pub fn run_everywhere(what: &str, plan: Plan, inputs: &[Tensor], threads: &[usize]) -> Blobs {
    let weights = plan.pack().unwrap();
    let copy = Block::from_slice(&weights).unwrap();
    let interpreter = Executable::new(plan.program.clone(), copy, Engine::Interpreter).unwrap();
    let slow = run(&interpreter, 2, inputs);
    drop(interpreter);
    let jit = Executable::new(plan.program, weights, Engine::Jit).unwrap();
    for &threads in threads {
        let fast = run(&jit, threads, inputs);
        assert!(
            fast == slow,
            "{what}: {threads} threads differ from the interpreter"
        );
    }
    slow
}

pub fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let finite = want.iter().filter(|w| w.is_finite());
    let largest = finite.fold(1.0f32, |m, v| m.max(v.abs()));
    let error = |(&g, &w): (&f32, &f32)| match g == w || g.is_nan() && w.is_nan() {
        true => 0.0,
        false if g.is_nan() => f32::INFINITY,
        false => (g - w).abs(),
    };
    let errors = got.iter().zip(want).map(error);
    let worst = errors.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((i, error)) = worst {
        assert!(
            error <= TOLERANCE * largest,
            "{what}: element {i} is {}, expected {} (largest {largest})",
            got[i],
            want[i]
        );
    }
}

/// Holds all engines and settings against `want`, the reference's outputs, and against
/// each other; emitted Rust too if `emit`.
pub fn compare(
    name: &str,
    graph: &Valid,
    inputs: &[Tensor],
    want: &[Tensor],
    isas: &[Isa],
    emit: bool,
) {
    let mut fastest = Vec::new();
    for &isa in isas {
        let results = SETTINGS.map(|setting| {
            let what = format!("{name}: {isa} {setting:?}");
            run_close(&what, graph, plan(graph, isa, setting), inputs, want)
        });
        let [_, layers, paying, always] = results;
        assert!(
            layers == paying && paying == always,
            "{name}: {isa}: chains sum otherwise"
        );
        fastest.push(paying);
        let what = format!("{name}: {isa} Winograd");
        let plan = plan_with(Convolutions::Winograd, graph, isa);
        run_close(&what, graph, plan, inputs, want);
    }
    if emit {
        let plan = |isa| plan(graph, isa, (Fuse::All, Chains::WhereItPays));
        compare_emitted(name, graph, inputs, isas, plan, &fastest);
    }
}

/// [`run_everywhere`] with results close to `want`.
pub fn run_close(
    what: &str,
    graph: &Graph,
    plan: Plan,
    inputs: &[Tensor],
    want: &[Tensor],
) -> Blobs {
    let got = run_everywhere(what, plan, inputs, &[1, 2]);
    for ((&blob, got), want) in graph.outputs.iter().zip(got.iter()).zip(want) {
        assert_close(&format!("{what}: {}", graph[blob].name), got, &want.data);
    }
    got
}

/// The emitted program gives the bits of `want`, which has an entry for each ISA.
pub fn compare_emitted(
    name: &str,
    graph: &Valid,
    inputs: &[Tensor],
    isas: &[Isa],
    plan: impl Fn(Isa) -> Plan,
    want: &[Blobs],
) {
    let plans: Vec<_> = isas.iter().map(|&isa| plan(isa)).collect();
    let packed = plans[0].pack().unwrap();
    for other in &plans[1..] {
        assert!(packed[..] == other.pack().unwrap()[..], "weights differ");
    }
    let programs: Vec<_> = plans.iter().map(|plan| &plan.program).collect();
    let emitted = Emitted::new(&programs, &packed, false, true);
    emitted.rustc(&["-O", "net.rs"]);
    let mut args = vec!["net.weights".to_string(), "--output-dir=out".to_string()];
    for (i, (port, input)) in programs[0].inputs.iter().zip(inputs).enumerate() {
        emitted.write(&format!("{i}.raw"), bytes(&input.data));
        args.push(format!("--input={}={i}.raw", port.name));
    }
    for (isa, want) in isas.iter().zip(want) {
        for threads in [1, 2] {
            let setting = [format!("--isa={isa}"), format!("--threads={threads}")];
            let args = args.iter().chain(&setting).map(String::as_str);
            let output = emitted.run(&args.collect::<Vec<_>>());
            assert!(output.status.success(), "{output:?}");
            let shown = graph.shown_outputs().iter();
            let got = shown.map(|&blob| read_output(&emitted, &graph[blob].name));
            assert!(
                Blobs(got.collect()) == shown_of(graph, want),
                "{name}: emitted {setting:?} differs"
            );
        }
    }
}

/// The elements of the shown outputs that count.
pub fn shown_of(graph: &Graph, all: &Blobs) -> Blobs {
    let tensors = graph.outputs.iter().zip(all.iter());
    let tensors = tensors.map(|(&b, data)| Tensor::new(graph.shape(b).clone(), data.clone()));
    let shown = graph.shown().of(&tensors.collect::<Vec<_>>());
    Blobs(shown.into_iter().map(|t| t.data).collect())
}

fn read_output(emitted: &Emitted, blob: &str) -> Vec<f32> {
    let file = emitted.path(&format!("out/{}.npy", blob.replace('/', "_")));
    read_npy(&file).unwrap().data
}
