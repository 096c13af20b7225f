//! Emitted source, compiled by `rustc` as its users would and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use caffec::backend::rust::{Emit, Weights, write_weights};
use caffec::kernel::{
    Addr, Affine, Arg, BinaryOp, Buffer, BufferId, Checked, Expr, Place, Port, Program, Region,
    Step, Stmt, UnaryOp, Var,
};
use caffec::leaf::{Isa, Leaf};

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

/// Buffers of [`program`].
const IN: u32 = 0;
const OUT: u32 = 1;
const OUT2: u32 = 2;
const A: u32 = 3;
const B: u32 = 4;
const W: u32 = 5;
const S: u32 = 6;

const WEIGHTS_LEN: usize = 48;

/// A program with everything that the IR has: several regions, windows, all lane
/// counts and operations, a leaf call, scratch.
fn program(isa: Isa) -> Checked {
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
            Arg::Len(7),
            Arg::Len(9),
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
        op(Max, op(Mul, value, num(1.0 + n as f32 / 7.0)), num(-1e30))
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
            op(Div, load(B, 0, &[(7, 4)]), load(W, 20, &[])),
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
            buffer("w", Place::Weights(0), WEIGHTS_LEN),
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
        weights_len: WEIGHTS_LEN,
        scratch_len: 32,
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
        if let Ok(dir) = std::env::var("CAFFEC_KEEP") {
            fs::write(Path::new(&dir).join("net.rs"), &source).unwrap();
        }
        fs::write(emitted.path("net.rs"), source).unwrap();
        let mut file = Vec::new();
        write_weights(&mut file, programs, weights).unwrap();
        fs::write(emitted.path("net.weights"), file).unwrap();
        emitted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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

fn test_programs() -> Vec<Checked> {
    ISAS.map(program).into()
}

#[test]
fn compiles_in_every_edition_and_place() {
    let programs = test_programs();
    let programs: Vec<_> = programs.iter().collect();
    let weights = noise(WEIGHTS_LEN, 1);
    let emitted = Emitted::new(&programs, &weights, true, true);
    fs::write(emitted.path("module.rs"), "mod net;\npub fn f() {}\n").unwrap();
    let include = "mod inner { include!(\"net.rs\"); }\npub fn f() {}\n";
    fs::write(emitted.path("include.rs"), include).unwrap();
    for edition in ["2015", "2018", "2021", "2024"] {
        for file in ["net.rs", "module.rs", "include.rs"] {
            emitted.rustc(&[
                "--edition",
                edition,
                "--crate-type=lib",
                "--emit=metadata",
                file,
            ]);
        }
    }
    // As on a machine of another kind.
    let source = fs::read_to_string(emitted.path("net.rs")).unwrap();
    let source = source.replace("target_arch = \"x86_64\"", "target_arch = \"vax\"");
    fs::write(emitted.path("other.rs"), source).unwrap();
    emitted.rustc(&[
        "-A",
        "unexpected_cfgs",
        "--crate-type=lib",
        "--emit=metadata",
        "other.rs",
    ]);
}

#[test]
fn runs_from_files() {
    let programs = test_programs();
    let programs: Vec<_> = programs.iter().collect();
    let weights = noise(WEIGHTS_LEN, 1);
    let input = noise(576, 2);
    let emitted = Emitted::new(&programs, &weights, false, true);
    emitted.rustc(&["-O", "net.rs"]);
    fs::write(emitted.path("x.raw"), bytes(&input)).unwrap();
    for program in programs.iter().filter(|p| available(p.isa)) {
        let isa = format!("--isa={}", isa_name(program.isa));
        for threads in ["1", "2", "5"] {
            let args = ["net.weights", "x.raw", "--output-dir", "out"];
            let output = emitted.run(&[&args[..], &[&isa, "--threads", threads]].concat());
            assert!(output.status.success(), "{output:?}");
            let out = fs::read(emitted.path("out/loop.npy")).unwrap();
            assert!(out.starts_with(b"\x93NUMPY\x01\x00"));
            assert_eq!(out.len() % 64, 0);
            let out2 = fs::read(emitted.path("out/a_b.npy")).unwrap();
            println!("{isa} {threads} {:?} {:?}", &out[200..210], &out2[200..210]);
        }
    }
}

fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512 => "avx512",
        Isa::Avx2 => "avx2",
        Isa::Portable => "portable",
    }
}

fn available(isa: Isa) -> bool {
    match isa {
        Isa::Avx512 => is_x86_feature_detected!("avx512dq"),
        Isa::Avx2 => is_x86_feature_detected!("fma"),
        Isa::Portable => true,
    }
}

#[test]
fn wrong_weights_are_named() {
    let programs = test_programs();
    let programs: Vec<_> = programs.iter().collect();
    let weights = noise(WEIGHTS_LEN, 1);
    let emitted = Emitted::new(&programs, &weights, false, true);
    emitted.rustc(&["-O", "net.rs"]);
    fs::write(emitted.path("x.raw"), bytes(&noise(576, 2))).unwrap();
    let good = fs::read(emitted.path("net.weights")).unwrap();
    let fails = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        fs::write(emitted.path("bad"), file).unwrap();
        emitted.fails(&["bad", "x.raw", "--output-dir", "out"], 1)
    };
    println!("{}", fails(&|f| f[0] = 0));
    println!("{}", fails(&|f| f[8] = 2));
    println!("{}", fails(&|f| f[16] ^= 2));
    println!("{}", fails(&|f| f[70] ^= 2));
    println!("{}", fails(&|f| f.truncate(100)));
    println!("{}", fails(&|f| f.truncate(20)));
    println!("{}", fails(&|f| f.clear()));
    println!("{}", fails(&|f| f.push(1)));
}
