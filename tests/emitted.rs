//! Emitted source, compiled by `rustc` as its users would and run.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use caffec::backend::rust::{Emit, Weights, write_weights};
use caffec::kernel::{
    Addr, Affine, Arg, BinaryOp, Buffer, BufferId, Checked, Expr, Place, Port, Program, Region,
    Step, Stmt, TableId, UnaryOp, Var,
};
use caffec::leaf::{Function, Isa, Leaf};
use caffec::runtime::arena::Block;
use caffec::runtime::exec::{Engine, Executable};

const ISAS: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

/// Names that a file may well contain, to hurt printers.
const INPUT: &str = "data*/ \"x\"\n\u{202e}fn";
const OUTPUTS: [&str; 2] = ["loop", "a/b"];

fn at(buffer: u32, base: i64, terms: &[(u32, i64)]) -> Addr {
    let offset = terms
        .iter()
        .fold(Affine::constant(base), |a, &(var, c)| a.plus(Var(var), c));
    Addr {
        buffer: BufferId(buffer),
        offset,
    }
}

fn load(buffer: u32, base: i64, terms: &[(u32, i64)]) -> Box<Expr> {
    Box::new(Expr::Load(at(buffer, base, terms)))
}

fn splat(buffer: u32, base: i64, terms: &[(u32, i64)]) -> Box<Expr> {
    Box::new(Expr::Splat(at(buffer, base, terms)))
}

fn num(value: f32) -> Box<Expr> {
    Box::new(Expr::Const(value))
}

fn op(op: BinaryOp, a: Box<Expr>, b: Box<Expr>) -> Box<Expr> {
    Box::new(Expr::Binary(op, a, b))
}

fn un(op: UnaryOp, a: Box<Expr>) -> Box<Expr> {
    Box::new(Expr::Unary(op, a))
}

fn region(tasks: &[(u32, u32)], cost: u64, body: Vec<Stmt>) -> Region {
    Region {
        tasks: tasks.iter().map(|&(var, n)| (Var(var), n)).collect(),
        body,
        cost,
    }
}

fn step(layers: &[&str], about: &str, regions: Vec<Region>) -> Step {
    Step {
        layers: layers.iter().map(|&name| name.into()).collect(),
        about: about.into(),
        regions,
        macs: 0,
        traffic: 0,
    }
}

fn map(lanes: u32, dst: Addr, value: Box<Expr>) -> Stmt {
    Stmt::Map {
        lanes,
        dst,
        value: *value,
    }
}

/// Buffers of [`maps`].
const IN: u32 = 0;
const OUT: u32 = 1;
const OUT2: u32 = 2;
const A: u32 = 3;
const B: u32 = 4;
const W: u32 = 5;
const S: u32 = 6;

const MAPS_WEIGHTS: usize = 48;

/// A program with everything that the IR has: several regions, windows, all lane
/// counts and operations, a leaf call, scratch.
fn maps(isa: Isa) -> Checked {
    use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
    let buffer = |name: &str, place, len| Buffer {
        name: name.into(),
        place,
        len,
    };
    // [6][6][16] → scaled, with a bias of each lane.
    let affine = Stmt::For {
        var: Var(1),
        extent: 6,
        body: vec![map(
            16,
            at(A, 0, &[(0, 96), (1, 16)]),
            Box::new(Expr::Fma(
                load(IN, 0, &[(0, 96), (1, 16)]),
                splat(W, 16, &[(1, 1)]),
                load(W, 0, &[]),
            )),
        )],
    };
    let fill = Stmt::Call {
        leaf: Leaf::Fill,
        args: vec![
            Arg::Addr(at(B, 1, &[(2, 20)])),
            Arg::Len(2),
            Arg::Len(10),
            Arg::Len(10),
            Arg::F32(-1.5),
        ],
    };
    // Maximum over 3 × 3, then the mean absolute value over 1 × 2 of two neighbours.
    let window = |kind: BinaryOp, init: f32, kh: u32, kw: u32, value: Box<Expr>| {
        Box::new(Expr::Reduce {
            op: kind,
            init,
            window: vec![(Var(5), kh), (Var(6), kw)],
            value,
        })
    };
    let place = [(3, 96), (4, 16), (5, 96), (6, 16)];
    let max = window(Max, f32::NEG_INFINITY, 3, 3, load(A, 0, &place));
    let mean = op(
        Mul,
        window(Add, 0.0, 1, 2, un(UnaryOp::Abs, load(A, 96, &place))),
        num(0.5),
    );
    let pool = map(
        16,
        at(OUT, 0, &[(3, 64), (4, 16)]),
        Box::new(Expr::Less {
            a: max.clone(),
            b: num(0.25),
            x: op(Sub, un(UnaryOp::Neg, max), num(-0.0)),
            y: mean,
        }),
    );
    // A chain that is nested deeply.
    let chain = (1..12).fold(load(OUT, 0, &[(7, 8)]), |value, n| {
        op(Max, op(Mul, value, num(1.0 + n as f32 / 7.0)), num(-1e3))
    });
    let root = un(UnaryOp::Sqrt, un(UnaryOp::Abs, chain));
    let small = vec![
        map(8, at(S, 0, &[]), root),
        map(
            8,
            at(OUT2, 0, &[(7, 13)]),
            op(Min, load(S, 0, &[]), num(3.5)),
        ),
        map(
            4,
            at(OUT2, 8, &[(7, 13)]),
            op(Div, load(B, 1, &[(7, 4)]), load(W, 20, &[])),
        ),
        map(
            1,
            at(OUT2, 12, &[(7, 13)]),
            Box::new(Expr::Reduce {
                op: Add,
                init: 0.5,
                window: vec![(Var(8), 8)],
                value: op(
                    Mul,
                    splat(S, 0, &[(8, 1)]),
                    Box::new(Expr::Reduce {
                        op: Max,
                        init: -1e10,
                        window: vec![(Var(9), 3)],
                        value: load(W, 24, &[(8, 1), (9, 2)]),
                    }),
                ),
            }),
        ),
    ];
    let program = Program {
        name: "*/ net\n\"`".into(),
        isa,
        inputs: vec![Port {
            name: INPUT.into(),
            shape: vec![1, 16, 6, 6],
        }],
        outputs: vec![
            Port {
                name: OUTPUTS[0].into(),
                shape: vec![256],
            },
            Port {
                name: OUTPUTS[1].into(),
                shape: vec![8, 13],
            },
        ],
        buffers: vec![
            buffer("data", Place::Input(0), 576),
            buffer("out", Place::Output(0), 256),
            buffer("out2", Place::Output(1), 104),
            buffer("a", Place::Arena(0), 576),
            buffer("b", Place::Arena(576), 48),
            buffer("w", Place::Weights(0), MAPS_WEIGHTS),
            buffer("s", Place::Scratch(16), 16),
        ],
        tables: vec![],
        steps: vec![
            step(
                &["fn", "*/\u{202e}"],
                "1×16×6×6\r\n] -> \"",
                vec![
                    region(&[(0, 6)], 5000, vec![affine]),
                    region(&[(2, 2)], 3000, vec![fill]),
                ],
            ),
            step(
                &["Pool 3x3", "x"],
                "window",
                vec![region(&[(3, 4), (4, 4)], 1000, vec![pool])],
            ),
            step(
                &["Pool-3x3"],
                "the rest",
                vec![region(&[(7, 8)], 9000, small)],
            ),
        ],
        arena_len: 624,
        weights_len: MAPS_WEIGHTS,
        scratch_len: 32,
    };
    program.check().expect("the test's program is right")
}

const LEAVES_WEIGHTS: usize = 2 * 32 * 16 + 32;

/// A program that calls leaves from all of their files: a 1 × 1 convolution with ReLU on
/// `[20][5][5]`, sigmoid, LRN, softmax, ArgMax.
fn leaves(isa: Isa) -> Checked {
    const PIXELS: usize = 25;
    let buffer = |name: &str, place, len| Buffer {
        name: name.into(),
        place,
        len,
    };
    let [input, prob, best, a, b, c, w, bias, scratch] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    let addr = |buffer, terms: &[(u32, i64)]| Arg::Addr(at(buffer, 0, terms));
    let len = Arg::Len;
    let call = |leaf, args: Vec<Arg>| vec![Stmt::Call { leaf, args }];
    // The last block has 4 channels.
    let to_blocked = |block: i64, channels| {
        let args = vec![
            Arg::Addr(at(input, block * 16 * PIXELS as i64, &[])),
            Arg::Addr(at(a, block * 16 * PIXELS as i64, &[])),
            len(channels),
            len(5),
            len(5),
            len(PIXELS),
            len(5),
            len(80),
        ];
        region(&[], 3000, call(Leaf::ToBlocked, args))
    };
    let mr: u8 = if isa == Isa::Portable { 1 } else { 5 };
    let groups = PIXELS as u32 / u32::from(mr);
    let tile = call(
        Leaf::Tile {
            mr,
            nb: 1,
            px: 16,
            taps: 16,
        },
        vec![
            addr(a, &[(0, 16 * i64::from(mr))]),
            addr(w, &[(1, 512)]),
            addr(bias, &[(1, 16)]),
            Arg::Null,
            Arg::Null,
            addr(b, &[(0, 16 * i64::from(mr)), (1, 400)]),
            Arg::Table(TableId(0)),
            len(2),
            len(16),
            len(512),
            len(400),
            len(0),
            len(16),
            len(16),
            len(1),
            Arg::F32(0.1),
        ],
    );
    let sigmoid = vec![
        addr(b, &[(2, 80)]),
        addr(b, &[(2, 80)]),
        len(80),
        Arg::F32(0.0),
        Arg::F32(0.0),
        Arg::F32(0.0),
    ];
    let lrn = vec![
        addr(b, &[(3, 80)]),
        addr(c, &[(3, 80)]),
        addr(scratch, &[]),
        len(32),
        len(5),
        len(400),
        len(400),
        len(5),
        Arg::F32(0.2),
        Arg::F32(0.75),
        Arg::F32(1.0),
        len(0),
    ];
    let to_plain = vec![
        addr(c, &[(4, 400)]),
        addr(b, &[(4, 400)]),
        len(16),
        len(5),
        len(5),
        len(80),
        len(PIXELS),
        len(5),
    ];
    let softmax = vec![addr(b, &[]), addr(prob, &[]), len(32), len(PIXELS)];
    let arg_max = vec![
        addr(prob, &[]),
        addr(best, &[]),
        len(32),
        len(PIXELS),
        len(1),
        len(0),
    ];
    let port = |name: &str, shape: &[usize]| Port {
        name: name.into(),
        shape: shape.into(),
    };
    let whole = |leaf, args| vec![region(&[], 9000, call(leaf, args))];
    let program = Program {
        name: "leaves".into(),
        isa,
        inputs: vec![port("data", &[1, 20, 5, 5])],
        outputs: vec![port("prob", &[1, 32, 5, 5]), port("best", &[1, 1, 5, 5])],
        buffers: vec![
            buffer("data", Place::Input(0), 20 * PIXELS),
            buffer("prob", Place::Output(0), 32 * PIXELS),
            buffer("best", Place::Output(1), PIXELS),
            buffer("a", Place::Arena(0), 32 * PIXELS),
            buffer("b", Place::Arena(800), 32 * PIXELS),
            buffer("c", Place::Arena(1600), 32 * PIXELS),
            buffer("w", Place::Weights(0), 1024),
            buffer("bias", Place::Weights(1024), 32),
            buffer("scratch", Place::Scratch(0), 48),
        ],
        tables: vec![vec![0, 400]],
        steps: vec![
            step(&["data"], "", vec![to_blocked(0, 16), to_blocked(1, 4)]),
            step(
                &["conv"],
                "",
                vec![region(&[(0, groups), (1, 2)], 3000, tile)],
            ),
            step(
                &["sigmoid"],
                "",
                vec![region(
                    &[(2, 10)],
                    3000,
                    call(Leaf::Unary(Function::Sigmoid), sigmoid),
                )],
            ),
            step(
                &["lrn"],
                "",
                vec![region(&[(3, 5)], 3000, call(Leaf::Lrn, lrn))],
            ),
            step(
                &["lrn"],
                "",
                vec![region(&[(4, 2)], 3000, call(Leaf::ToPlain, to_plain))],
            ),
            step(&["prob"], "", whole(Leaf::Softmax, softmax)),
            step(&["best"], "", whole(Leaf::ArgMax, arg_max)),
        ],
        arena_len: 2400,
        weights_len: LEAVES_WEIGHTS,
        scratch_len: 48,
    };
    program.check().expect("the test's program is right")
}

/// Values without a pattern, none of them zero.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 0.9999
    };
    (0..len).map(|_| next()).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A folder with `net.rs` and `net.weights`.
struct Emitted {
    dir: tempfile::TempDir,
}

impl Emitted {
    fn new(programs: &[&Checked], weights: &[f32], embed: bool, main: bool) -> Self {
        let emitted = Emitted {
            dir: tempfile::tempdir().unwrap(),
        };
        let emit = Emit {
            programs,
            prototxt: "net.prototxt",
            prototxt_sha256: "00",
            weights_sha256: "11",
            weights: match embed {
                true => Weights::Embed("net.weights"),
                false => Weights::File,
            },
            main,
        };
        let source = emit.source();
        assert_eq!(source, emit.source(), "not deterministic");
        emitted.write("net.rs", source);
        let mut file = Vec::new();
        write_weights(&mut file, programs, weights).unwrap();
        emitted.write("net.weights", file);
        emitted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Compiles without a warning.
    fn rustc(&self, args: &[&str]) {
        let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
        let output = Command::new(rustc)
            .args(["-D", "warnings"])
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .expect("rustc starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rustc {args:?}:\n{errors}");
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("net"))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Runs it and gives the one line on stderr, without `error: `.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        let first = errors.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_string()
    }
}

fn for_all_isas(program: fn(Isa) -> Checked) -> Vec<Checked> {
    ISAS.map(program).into()
}

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
