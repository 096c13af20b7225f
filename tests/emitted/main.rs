//! Emitted source, compiled by `rustc` as its users would and run.

mod harness;
mod programs;

use caffec::kernel::Checked;
use caffec::leaf::Isa;
use caffec::runtime::arena::Block;
use caffec::runtime::exec::{Engine, Executable};
use harness::{Emitted, bytes, noise};
use programs::{LEAVES_WEIGHTS, MAPS_WEIGHTS, for_all_isas, leaves, maps};
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn compiles_in_every_edition_and_place() {
    for (program, weights_len) in [
        (maps as fn(Isa) -> _, MAPS_WEIGHTS),
        (leaves, LEAVES_WEIGHTS),
    ] {
        let programs = for_all_isas(program);
        let programs: Vec<_> = programs.iter().collect();
        let emitted = Emitted::new(&programs, &noise(weights_len, 1), true, true);
        emitted.write("module.rs", "mod net;\npub fn f() {}\n");
        let include = "mod inner { include!(\"net.rs\"); }\npub fn f() {}\n";
        emitted.write("include.rs", include);
        for edition in ["2015", "2018", "2021", "2024"] {
            for file in ["net.rs", "module.rs", "include.rs"] {
                let kind = "--crate-type=lib";
                emitted.rustc(&["--edition", edition, kind, "--emit=metadata", file]);
            }
        }
        as_on_another_machine(&emitted);
        let one = Emitted::new(&programs[..1], &noise(weights_len, 1), false, true);
        one.rustc(&["--crate-type=lib", "--emit=metadata", "net.rs"]);
        as_on_another_machine(&one);
    }
}

fn as_on_another_machine(emitted: &Emitted) {
    let source = fs::read_to_string(emitted.path("net.rs")).unwrap();
    let other = source.replace("target_arch = \"x86_64\"", "target_arch = \"vax\"");
    assert_ne!(source, other);
    emitted.write("other.rs", other);
    let allow = ["-A", "unexpected_cfgs", "--crate-type=lib"];
    emitted.rustc(&[&allow[..], &["--emit=metadata", "other.rs"]].concat());
}

/// What is printed for [`maps`], without the pasted files, is kept beside this file: a
/// change is to be looked at.
#[test]
fn printed_steps_are_as_they_were() {
    let programs = for_all_isas(maps);
    let programs: Vec<_> = programs.iter().collect();
    let emitted = Emitted::new(&programs, &noise(MAPS_WEIGHTS, 1), false, false);
    let source = fs::read_to_string(emitted.path("net.rs")).unwrap();
    // Pasted modules are not indented.
    let end = source.find("\npub mod ").unwrap();
    let is_fingerprint = |line: &&str| line.trim_start().starts_with("fingerprint:");
    let lines = source[..end].lines().filter(|line| !is_fingerprint(line));
    let printed: String = lines.map(|line| format!("{line}\n")).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rust/maps.rs.txt");
    if fs::read_to_string(&golden).ok().as_ref() != Some(&printed) {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, printed).unwrap();
        panic!("{} has changed: see `git diff`", golden.display());
    }
}

/// The bytes of each output blob.
fn compute(engine: Engine, program: &Checked, weights: &[f32], input: &[f32]) -> Vec<Vec<u8>> {
    let weights = Block::from_slice(weights).unwrap();
    let net = Executable::new(program.clone(), weights, engine).unwrap();
    let mut outputs: Vec<_> = program.outputs.iter().map(|p| vec![0.0; p.len()]).collect();
    let mut slices: Vec<_> = outputs.iter_mut().map(|o| &mut o[..]).collect();
    let mut context = net.context(2).unwrap();
    net.run(&mut context, &[input], &mut slices).unwrap();
    outputs.iter().map(|o| bytes(o)).collect()
}

#[test]
fn computes_what_the_other_engines_do() {
    for (program, weights_len) in [
        (maps as fn(Isa) -> _, MAPS_WEIGHTS),
        (leaves, LEAVES_WEIGHTS),
    ] {
        let programs = for_all_isas(program);
        let programs: Vec<_> = programs.iter().collect();
        let weights = noise(weights_len, 1);
        let input = noise(programs[0].inputs[0].len(), 2);
        let emitted = Emitted::new(&programs, &weights, false, true);
        emitted.rustc(&["-O", "net.rs"]);
        emitted.write("x.raw", bytes(&input));
        for program in programs.iter().filter(|p| p.isa.available()) {
            let expected = compute(Engine::Interpreter, program, &weights, &input);
            assert_eq!(compute(Engine::Jit, program, &weights, &input), expected);
            let distinct: HashSet<_> = expected.iter().flat_map(|o| o.chunks(4)).collect();
            assert!(distinct.len() > 50, "a test on almost nothing");
            for threads in ["1", "2", "5"] {
                let isa = format!("--isa={}", program.isa);
                let args = [
                    "net.weights",
                    "x.raw",
                    "--output-dir",
                    "out",
                    "--threads",
                    threads,
                ];
                let output = emitted.run(&[&args[..], &[&isa]].concat());
                assert!(output.status.success(), "{output:?}");
                for (port, expected) in program.outputs.iter().zip(&expected) {
                    let file = format!("out/{}.npy", port.name.replace('/', "_"));
                    let file = fs::read(emitted.path(&file)).unwrap();
                    assert_eq!(file.len() % 64, expected.len() % 64);
                    assert!(file.ends_with(expected), "{} {isa} {threads}", port.name);
                }
            }
        }
    }
}

#[test]
fn no_function_of_the_c_library_computes() {
    for program in [maps, leaves] {
        let programs = for_all_isas(program);
        let programs: Vec<_> = programs.iter().collect();
        let len = programs[0].weights_len;
        let emitted = Emitted::new(&programs, &noise(len, 1), false, false);
        emitted.rustc(&["-O", "--crate-type=lib", "--emit=asm", "net.rs"]);
        let assembly = fs::read_to_string(emitted.path("net.s")).unwrap();
        assert!(assembly.contains("vfmadd"));
        for line in assembly.lines().filter(|line| line.contains("call")) {
            let callee = line.split_whitespace().last().unwrap();
            let name = callee.trim_start_matches('*').split('@').next().unwrap();
            let math = [
                "fma", "exp", "exp2", "log", "pow", "tanh", "floor", "sqrt", "fmax", "fmin",
            ];
            for math in math {
                assert!(name != math && name != format!("{math}f"), "{line}");
            }
        }
    }
}

/// The program [`maps`] for the tests of the main program and the interface.
fn maps_emitted(embed: bool) -> Emitted {
    let programs = for_all_isas(maps);
    let programs: Vec<_> = programs.iter().collect();
    let emitted = Emitted::new(&programs, &noise(MAPS_WEIGHTS, 1), embed, true);
    emitted.rustc(&["-O", "net.rs"]);
    emitted.write("x.raw", bytes(&noise(576, 2)));
    emitted
}

#[test]
fn wrong_files_are_told() {
    let emitted = maps_emitted(false);
    let good = fs::read(emitted.path("net.weights")).unwrap();
    let fails = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        emitted.write("bad", file);
        emitted.fails(&["bad", "x.raw", "--output-dir", "out"], 1)
    };
    assert_eq!(
        fails(&|f| f[0] = 0),
        "bad: not a weights file made by caffec"
    );
    assert_eq!(
        fails(&|f| f.clear()),
        "bad: not a weights file made by caffec"
    );
    assert_eq!(
        fails(&|f| f[8] = 2),
        "bad: weights file of version 2, this source reads version 1"
    );
    let other = fails(&|f| f[16] ^= 2);
    assert!(other.starts_with("bad: the weights file belongs to other source (fingerprint "));
    let damaged = "bad: the weights file is damaged: its checksum is wrong";
    assert_eq!(fails(&|f| f[70] ^= 2), damaged);
    assert_eq!(fails(&|f| f[255] ^= 128), damaged);
    assert_eq!(
        fails(&|f| f.truncate(100)),
        "bad: the weights file is cut off: 100 of 256 bytes"
    );
    assert_eq!(
        fails(&|f| f.truncate(20)),
        "bad: the weights file is cut off: 20 of 256 bytes"
    );
    assert_eq!(
        fails(&|f| f.push(1)),
        "bad: the weights file is too long: 257 instead of 256 bytes"
    );
    assert!(!emitted.path("out").exists());

    emitted.write("short.raw", [0; 40]);
    let fails = |input: &str| emitted.fails(&["net.weights", input, "--output-dir", "out"], 1);
    assert_eq!(
        fails("short.raw"),
        "short.raw: 40 bytes of values instead of 2304 (f32, 1x16x6x6)"
    );
    assert!(fails("none.npy").starts_with("none.npy: No such file"));
    let usage = emitted.fails(&["net.weights", "x.raw"], 2);
    assert_eq!(usage, "no output given");
    assert!(!emitted.path("out").exists());
}

#[test]
fn a_worker_answers() {
    let emitted = maps_emitted(true);
    let mut worker = Command::new(emitted.path("net"))
        .args([
            "x.raw",
            "--output-dir",
            "out",
            "--runs",
            "1",
            "--json",
            "--worker",
        ])
        .current_dir(emitted.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut requests = worker.stdin.take().unwrap();
    let mut answers = BufReader::new(worker.stdout.take().unwrap()).lines();
    let mut answer = || -> serde_json::Value {
        serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
    };
    let ready = answer();
    assert_eq!(
        (&ready["ready"], &ready["prec"]),
        (&true.into(), &"f32".into())
    );
    for runs in [1, 5] {
        assert!(!emitted.path("out/loop.npy").exists());
        writeln!(requests, "run {runs}").unwrap();
        assert_eq!(answer()["ms"].as_array().unwrap().len(), runs);
        fs::remove_file(emitted.path("out/loop.npy")).unwrap();
    }
    writeln!(requests, "run \"").unwrap();
    assert!(answer()["error"].is_string());
    writeln!(requests, "quit").unwrap();
    assert!(worker.wait().unwrap().success());
}

#[test]
fn times_are_reported() {
    let emitted = maps_emitted(true);
    let output = emitted.run(&["x.raw", "--runs", "7", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ms"].as_array().unwrap().len(), 7);
    let output = emitted.run(&["x.raw", "--runs", "7"]);
    assert!(output.stdout.starts_with(b"7 runs, 1 threads, "));
    let output = emitted.run(&["--help"]);
    assert!(output.status.success() && output.stdout.starts_with(b"usage: "));
}

/// A crate that uses the emitted module as its documentation says.
const USER: &str = r#"
mod net;
use net::{Error, Net};
use std::sync::Arc;

fn infer(net: &Net, threads: usize, times: usize) -> (Vec<u32>, Vec<u32>) {
    let mut context = net.context(threads);
    assert_eq!(context.threads(), threads);
    let mut x = [0.0; net::INPUT_DATA_X_FN_LEN];
    for (i, x) in x.iter_mut().enumerate() {
        *x = (i % 17) as f32 - 8.0;
    }
    let mut a = [0.0; net::OUTPUT_BLOB_LOOP_LEN];
    let mut b = [0.0; net::OUTPUT_A_B_LEN];
    for _ in 0..times {
        a = [0.0; net::OUTPUT_BLOB_LOOP_LEN];
        net.forward(&mut context, &x, &mut a, &mut b);
    }
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    (bits(&a), bits(&b))
}

fn main() {
    let net = Arc::new(Net::load("net.weights").unwrap());
    let expected = infer(&net, 1, 1);
    assert!(expected.0.iter().any(|&bits| bits != 0));
    let users: Vec<_> = (0..4)
        .map(|user| {
            let net = net.clone();
            std::thread::spawn(move || infer(&net, 1 + user % 2, 200))
        })
        .collect();
    for user in users {
        assert_eq!(user.join().unwrap(), expected);
    }

    let file = std::fs::read("net.weights").unwrap();
    assert_eq!(infer(&Net::from_bytes(&file).unwrap(), 2, 1), expected);
    assert_eq!(infer(&Net::embedded().unwrap(), 2, 1), expected);
    let best = net.isa();
    assert_eq!(Net::embedded().unwrap().with_isa(best).unwrap().isa(), best);
    assert!(Net::embedded().unwrap().with_isa(net::Isa::Portable).is_ok());
    match Net::from_bytes(&file[..100]) {
        Err(Error::Length { expected: 256, found: 100 }) => {}
        other => panic!("{:?}", other.err()),
    }

    let mut context = net.context(1);
    let mut out = vec![0.0; 400];
    let (a, b) = out.split_at_mut(256);
    let wrong = net.forward_slices(&mut context, &[&[0.0; 576]], &mut [&mut a[..], b]);
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "blob `a/b` has 104 elements, not 144"
    );
    let wrong = net.forward_slices(&mut context, &[], &mut []);
    assert_eq!(wrong.unwrap_err().to_string(), "1 blobs expected, 0 given");
    assert_eq!(net::INPUT_DATA_X_FN_SHAPE, [1, 16, 6, 6]);
    assert_eq!(net::OUTPUT_BLOB_LOOP_NAME, "loop");
}
"#;

#[test]
fn the_interface_is_as_documented() {
    let programs = for_all_isas(maps);
    let programs: Vec<_> = programs.iter().collect();
    let emitted = Emitted::new(&programs, &noise(MAPS_WEIGHTS, 1), true, false);
    emitted.write("user.rs", USER);
    // Debug assertions and overflow checks on.
    emitted.rustc(&["-C", "debug-assertions", "-o", "net", "user.rs"]);
    let output = emitted.run(&[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
