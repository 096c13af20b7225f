//! Small programs written by hand.

use caffec::kernel::{
    Addr, Affine, Arg, BinaryOp, Buffer, BufferId, Checked, Expr, Place, Port, Program, Region,
    Step, Stmt, TableId, UnaryOp, Var,
};
use caffec::leaf::{Function, Isa, Leaf};

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

// Boxed as the helpers below make operands.
#[allow(clippy::boxed_local)]
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

pub const MAPS_WEIGHTS: usize = 48;

/// A program with everything that the IR has: several regions, windows, all lane
/// counts and operations, a leaf call, scratch.
pub fn maps(isa: Isa) -> Checked {
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
            count: None,
        }],
        outputs: vec![
            Port {
                name: OUTPUTS[0].into(),
                shape: vec![256],
                count: None,
            },
            Port {
                name: OUTPUTS[1].into(),
                shape: vec![8, 13],
                count: None,
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
        faults: vec![],
        arena_len: 624,
        weights_len: MAPS_WEIGHTS,
        scratch_len: 32,
    };
    program.check().expect("the test's program is right")
}

pub const LEAVES_WEIGHTS: usize = 2 * 32 * 16 + 32;

/// A program that calls leaves from all of their files: a 1 × 1 convolution with ReLU on
/// `[20][5][5]`, sigmoid, LRN, pooling, softmax, ArgMax.
pub fn leaves(isa: Isa) -> Checked {
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
            Arg::Ahead(at(w, 512, &[(1, 512)])),
            len(256),
            len(512),
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
    // Windows of 1 × 2, of which the last is cut.
    let pool = |average, src, dst| {
        let part = |pixel: i64, pixels: usize, columns: usize| {
            let addr = |buffer| Arg::Addr(at(buffer, 16 * pixel, &[(5, 400)]));
            let mut args = vec![addr(src), addr(dst)];
            args.extend([5, pixels, 80, 16, 80, 1, 1, columns, 0, 80].map(len));
            args.push(Arg::F32(columns as f32));
            let leaf = Leaf::Pool { average };
            Stmt::Call { leaf, args }
        };
        vec![region(&[(5, 2)], 3000, vec![part(0, 4, 2), part(4, 1, 1)])]
    };
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
        count: None,
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
            buffer("scratch", Place::Scratch(0), 256),
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
            step(&["largest"], "", pool(false, c, a)),
            step(&["average"], "", pool(true, a, c)),
            step(
                &["lrn"],
                "",
                vec![region(&[(4, 2)], 3000, call(Leaf::ToPlain, to_plain))],
            ),
            step(&["prob"], "", whole(Leaf::Softmax, softmax)),
            step(&["best"], "", whole(Leaf::ArgMax, arg_max)),
        ],
        faults: vec![],
        arena_len: 2400,
        weights_len: LEAVES_WEIGHTS,
        scratch_len: 256,
    };
    program.check().expect("the test's program is right")
}

/// A program for each instruction set.
pub fn for_all_isas(program: fn(Isa) -> Checked) -> Vec<Checked> {
    Isa::ALL.map(program).into()
}
