//! Emitted Rust for many cases at once: one crate with a module for each.

use crate::engines::ENGINES;
use crate::net::Run;
use crate::{Outcome, Verdict};
use caffec::Plan;
use caffec::backend::rust::{Emit, Weights, write_weights};
use caffec::diag::{Result, Sources};
use caffec::ir::Tensor;
use caffec::kernel::Port;
use caffec::passes::Fuse;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// A case and what the JIT makes of it.
struct Compiled {
    id: String,
    group: String,
    want: Vec<Tensor>,
}

/// Holds emitted source against the JIT, whose results are held against Caffe: all bits
/// must be the same. Cases that do not compile are left to the other engines' tests.
pub fn outcomes(cases: Vec<(String, String, Run)>) -> Vec<Outcome> {
    let dir = tempfile::tempdir().unwrap();
    let mut compiled = Vec::new();
    let (mut modules, mut calls) = (String::new(), String::new());
    for (id, group, run) in cases {
        let forwards = run.forwards;
        let name = format!("case{}", compiled.len());
        let Ok((plan, inputs, want)) = on_jit(run) else {
            continue;
        };
        write(dir.path(), &name, &plan, &inputs);
        let ports = |ports: &[Port]| -> Vec<usize> { ports.iter().map(Port::len).collect() };
        let (from, to) = (ports(&plan.program.inputs), ports(&plan.program.outputs));
        let _ = writeln!(modules, "mod {name};");
        let _ = writeln!(
            calls,
            "    {{
        let net = {name}::Net::embedded().unwrap();
        let mut context = net.context(2);
        let (from, mut to) = (read(\"{name}\", &{from:?}), zeros(&{to:?}));
        for _ in 0..{forwards} {{
            let from: Vec<&[f32]> = from.iter().map(|v| &v[..]).collect();
            let mut to: Vec<&mut [f32]> = to.iter_mut().map(|v| &mut v[..]).collect();
            net.forward_slices(&mut context, &from, &mut to).unwrap();
        }}
        write(\"{name}\", &to);
    }}"
        );
        compiled.push(Compiled { id, group, want });
    }
    if compiled.is_empty() {
        return Vec::new();
    }
    let main = format!("{modules}{HELPERS}fn main() {{\n{calls}}}\n");
    std::fs::write(dir.path().join("main.rs"), main).unwrap();
    build_and_run(dir.path());
    let judge = |(i, case): (usize, Compiled)| {
        let file = dir.path().join(format!("case{i}.out"));
        Outcome::of(case.id, case.group, "emitted", || same(&file, &case.want))
    };
    compiled.into_iter().enumerate().map(judge).collect()
}

fn on_jit(run: Run) -> Result<(Plan, Vec<Tensor>, Vec<Tensor>)> {
    let forwards = run.forwards;
    let (graph, inputs) = run.graph(&mut Sources::default())?;
    let options = caffec::Options {
        fuse: Fuse::All,
        ..caffec::Options::default()
    };
    let plan = caffec::plan(graph.clone(), &options)?;
    let jit = ENGINES.iter().find(|e| e.name == "jit").unwrap();
    let want = (jit.run)(graph, &inputs, forwards)?;
    Ok((plan, inputs, want))
}

fn write(dir: &Path, name: &str, plan: &Plan, inputs: &[Tensor]) {
    let weights = format!("{name}.weights");
    let programs = [&plan.program];
    let emit = Emit {
        programs: &programs,
        prototxt: "net.prototxt",
        prototxt_sha256: "00",
        weights_sha256: "11",
        weights: Weights::Embed(&weights),
        main: false,
    };
    std::fs::write(dir.join(format!("{name}.rs")), emit.source()).unwrap();
    let mut file = Vec::new();
    write_weights(&mut file, &programs, &plan.pack().unwrap()).unwrap();
    std::fs::write(dir.join(&weights), file).unwrap();
    let values = inputs.iter().flat_map(|t| &t.data);
    let bytes: Vec<u8> = values.flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.join(format!("{name}.in")), bytes).unwrap();
}

/// Of the crate's main file: blobs of a case one after the other in a file.
const HELPERS: &str = r#"
fn zeros(lens: &[usize]) -> Vec<Vec<f32>> {
    lens.iter().map(|&len| vec![0.0; len]).collect()
}

fn read(name: &str, lens: &[usize]) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(format!("{name}.in")).unwrap();
    let mut floats = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    lens.iter().map(|&len| floats.by_ref().take(len).collect()).collect()
}

fn write(name: &str, blobs: &[Vec<f32>]) {
    let bytes: Vec<u8> = blobs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(format!("{name}.out"), bytes).unwrap();
}

"#;

fn build_and_run(dir: &Path) {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut build = Command::new(rustc);
    build.args(["--edition=2021", "-D", "warnings", "-C", "opt-level=1"]);
    build.args(["-C", "codegen-units=16", "-o", "cases", "main.rs"]);
    for mut command in [build, Command::new(dir.join("cases"))] {
        let output = command.current_dir(dir).output().expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}:\n{errors}");
    }
}

fn same(file: &Path, want: &[Tensor]) -> Verdict {
    let bytes = std::fs::read(file).unwrap();
    let got = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let want = want.iter().flat_map(|t| &t.data);
    assert_eq!(got.len(), want.clone().count());
    let same = |(g, w): (f32, &f32)| g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
    let differ = got.zip(want).filter(|&pair| !same(pair)).count();
    match differ {
        0 => Verdict::Pass,
        _ => Verdict::Fail(format!("{differ} values are not the JIT's")),
    }
}
