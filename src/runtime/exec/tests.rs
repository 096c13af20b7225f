//! The engines against each other, bit for bit.

use super::*;
use crate::kernel::testing::{Random, at, binary, for_loop, load, map, region};
use crate::kernel::{Arg, BinaryOp, BufferId, Expr, Program, Region, Stmt, UnaryOp, Var};
use crate::leaf::{Function, Isa, Leaf};

const I: Var = Var(0);
const J: Var = Var(1);
const K: Var = Var(2);
const L: Var = Var(3);

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// A number's bits, one for all NaNs.
fn bits(x: &f32) -> u32 {
    if x.is_nan() {
        f32::NAN.to_bits()
    } else {
        x.to_bits()
    }
}

fn bits_of(outputs: &[Vec<f32>]) -> Vec<Vec<u32>> {
    outputs
        .iter()
        .map(|o| o.iter().map(bits).collect())
        .collect()
}

fn forward(exe: &Executable, threads: usize, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut context = exe.context(threads).unwrap();
    let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<_> = exe
        .program
        .outputs
        .iter()
        .map(|p| vec![7.0; p.len()])
        .collect();
    let mut slices: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    exe.run(&mut context, &inputs, &mut slices).unwrap();
    outputs
}

/// Runs `p` on seeded numbers on all engines with 1, 2 and 3 threads; returns inputs,
/// weights and outputs.
#[track_caller]
fn all_engines(p: Program, seed: u64) -> (Vec<Vec<f32>>, Vec<f32>, Vec<Vec<f32>>) {
    let mut random = Random(seed);
    let checked = p.check().unwrap();
    let inputs: Vec<_> = checked
        .inputs
        .iter()
        .map(|p| random.numbers(p.len()))
        .collect();
    let weights = random.numbers(checked.weights_len);
    let block = || Block::from_slice(&weights).unwrap();
    let slow = Executable::new(checked.clone(), block(), Engine::Interpreter).unwrap();
    let expected = forward(&slow, 1, &inputs);
    assert_eq!(
        bits_of(&forward(&slow, 3, &inputs)),
        bits_of(&expected),
        "interpreter, 3 threads"
    );
    let fast = Executable::new(checked.clone(), block(), Engine::Jit).unwrap();
    for threads in 1..=3 {
        assert_eq!(
            bits_of(&forward(&fast, threads, &inputs)),
            bits_of(&expected),
            "{threads} threads, seed {seed}\n{}\n{}",
            checked.dump(),
            jit::clif(&checked).unwrap()
        );
    }
    (inputs, weights, expected)
}

// ---- what expressions mean -----------------------------------------------------

type Make = fn(Expr, Expr, Expr) -> Expr;
type Meaning = fn(Isa, f32, f32, f32) -> f32;

fn less(a: f32, b: f32, x: f32, y: f32) -> f32 {
    if a < b { x } else { y }
}

/// Expressions of three values, and what they mean.
fn expressions() -> Vec<(Make, Meaning)> {
    use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
    use UnaryOp::{Abs, Neg, Sqrt};
    fn un(op: UnaryOp, a: Expr) -> Expr {
        Expr::Unary(op, Box::new(a))
    }
    vec![
        (|a, _, _| a, |_, a, _, _| a),
        (|_, _, _| Expr::Const(-0.5), |_, _, _, _| -0.5),
        (|a, _, _| un(Neg, a), |_, a, _, _| -a),
        (|a, _, _| un(Abs, a), |_, a, _, _| a.abs()),
        (|a, _, _| un(Sqrt, a), |_, a, _, _| a.sqrt()),
        (|a, b, _| binary(Add, a, b), |_, a, b, _| a + b),
        (|a, b, _| binary(Sub, a, b), |_, a, b, _| a - b),
        (|a, b, _| binary(Mul, a, b), |_, a, b, _| a * b),
        (|a, b, _| binary(Div, a, b), |_, a, b, _| a / b),
        (|a, b, _| binary(Max, a, b), |_, a, b, _| less(a, b, b, a)),
        (|a, b, _| binary(Min, a, b), |_, a, b, _| less(b, a, b, a)),
        (
            |a, b, c| Expr::Fma(Box::new(a), Box::new(b), Box::new(c)),
            |isa, a, b, c| match isa {
                Isa::Portable => a * b + c,
                _ => a.mul_add(b, c),
            },
        ),
        (
            |a, b, c| binary(Add, binary(Mul, a, b), c),
            |_, a, b, c| a * b + c,
        ),
        (
            |a, b, c| Expr::Less {
                a: Box::new(a.clone()),
                b: Box::new(b),
                x: Box::new(c),
                y: Box::new(a),
            },
            |_, a, b, c| less(a, b, c, a),
        ),
        (
            // PReLU: no value twice, but the same operand in several places.
            |a, b, _| {
                let zero = || Expr::Const(0.0);
                let low = binary(Mul, b, binary(Min, a.clone(), zero()));
                binary(Add, binary(Max, a, zero()), low)
            },
            |_, a, b, _| less(a, 0.0, 0.0, a) + b * less(0.0, a, 0.0, a),
        ),
    ]
}

#[test]
fn every_expression_means_what_it_says_on_every_engine() {
    for isa in isas() {
        for (make, meaning) in expressions() {
            for lanes in [1, 4, 8, 16] {
                let mut p = Program::empty(isa);
                let (x, y) = (p.input(96), p.input(96));
                let w = p.weights(16);
                let out = p.output(96);
                let n = i64::from(lanes);
                let here = |b| at(b, 0, &[(I, n)]);
                let value = make(load(&here(x)), load(&here(y)), Expr::Splat(at(w, 3, &[])));
                let body = map(lanes, here(out), value);
                p.step(&[], vec![for_loop(I, 96 / lanes, vec![body])]);
                let (inputs, weights, outputs) = all_engines(p, u64::from(lanes));
                for (i, result) in outputs[0].iter().enumerate() {
                    let (a, b, c) = (inputs[0][i], inputs[1][i], weights[3]);
                    assert_eq!(bits(result), bits(&meaning(isa, a, b, c)), "{a} {b} {c}");
                }
            }
        }
    }
}

/// Padded windows of `k` × `k` over a 20 × 20 image of blocks of 16, then a chain.
fn windows(isa: Isa, k: u32, op: BinaryOp) -> Program {
    let mut p = Program::empty(isa);
    let image = p.input(2 * 20 * 20 * 16);
    let scale = p.weights(32);
    let side = 20 - i64::from(k) + 1;
    let out = p.output((2 * side * side * 16) as usize);
    let source = at(
        image,
        0,
        &[(I, 6400), (J, 320), (K, 16), (Var(4), 320), (Var(5), 16)],
    );
    let sum = Expr::Reduce {
        op,
        init: -1.0,
        window: vec![(Var(4), k), (Var(5), k)],
        value: Box::new(load(&source)),
    };
    let scaled = Expr::Fma(
        Box::new(sum),
        Box::new(load(&at(scale, 0, &[(I, 16)]))),
        Box::new(Expr::Const(0.25)),
    );
    let dst = at(out, 0, &[(I, side * side * 16), (J, side * 16), (K, 16)]);
    let row = for_loop(K, side as u32, vec![map(16, dst, scaled)]);
    p.step(&[(I, 2), (J, side as u32)], vec![row]);
    p
}

#[test]
fn windows_are_reduced_row_by_row() {
    for isa in isas() {
        for k in [1, 2, 3, 4, 5, 7, 17] {
            for op in [BinaryOp::Max, BinaryOp::Add] {
                let (inputs, weights, outputs) = all_engines(windows(isa, k, op), k.into());
                let (k, side) = (k as usize, 21 - k as usize);
                // One element by hand: block 1, row 1, column 2 of the output, lane 5.
                let column = 2.min(side - 1);
                let row = 1.min(side - 1);
                let mut acc = -1.0f32;
                for i in 0..k * k {
                    let (y, x) = (row + i / k, column + i % k);
                    let v = inputs[0][6400 + (y * 20 + x) * 16 + 5];
                    acc = match op {
                        BinaryOp::Max => less(acc, v, v, acc),
                        _ => acc + v,
                    };
                }
                let scaled = match isa {
                    Isa::Portable => acc * weights[21] + 0.25,
                    _ => acc.mul_add(weights[21], 0.25),
                };
                let found = outputs[0][((side + row) * side + column) * 16 + 5];
                assert_eq!(bits(&found), bits(&scaled));
            }
        }
    }
}

#[test]
fn tasks_of_several_regions_are_counted_through() {
    for isa in isas() {
        let mut p = Program::empty(isa);
        let out = p.output(2 * 3 * 4 + 5 + 7);
        let src = p.input(100);
        let cell = |base, terms: &[(Var, i64)]| {
            let value = binary(
                BinaryOp::Add,
                load(&at(src, base, terms)),
                Expr::Const(base as f32),
            );
            map(1, at(out, base, terms), value)
        };
        let mut regions = vec![
            region(
                &[(I, 2), (J, 3), (K, 4)],
                vec![cell(0, &[(I, 12), (J, 4), (K, 1)])],
            ),
            region(&[(I, 1), (L, 5), (J, 1)], vec![cell(24, &[(L, 1)])]),
            region(&[], vec![for_loop(I, 7, vec![cell(29, &[(I, 1)])])]),
        ];
        // Threads meet in the middle of regions.
        regions[0].cost = 100_000;
        p.step_of(regions);
        let (inputs, _, outputs) = all_engines(p, 1);
        for (i, x) in outputs[0].iter().enumerate() {
            let base = [0.0f32, 24.0, 29.0][usize::from(i >= 24) + usize::from(i >= 29)];
            assert_eq!(bits(x), bits(&(inputs[0][i] + base)));
        }
    }
}

// ---- leaves --------------------------------------------------------------------

fn pointer(buffer: BufferId, base: i64, terms: &[(Var, i64)]) -> Arg {
    Arg::Addr(at(buffer, base, terms))
}

/// A 1×1 convolution of 32 to 16 channels on 12 pixels through scratch, TanH of it, and a
/// frame of it filled and copied: tables, nulls, floats and loops around calls.
fn calls(isa: Isa) -> Program {
    let mut p = Program::empty(isa);
    let src = p.input(2 * 12 * 16);
    let (weights, bias) = (p.weights(32 * 16), p.weights(16));
    let tile = p.scratch(16);
    let middle = p.arena(12 * 16);
    let (out, framed) = (p.output(12 * 16), p.output(14 * 16));
    let offsets = p.table(vec![0, 192]);
    let convolve = Stmt::Call {
        leaf: Leaf::Tile {
            mr: 1,
            nb: 1,
            px: 0,
            taps: 16,
        },
        args: vec![
            pointer(src, 0, &[(I, 64), (J, 16)]),
            pointer(weights, 0, &[]),
            pointer(bias, 0, &[]),
            Arg::Null,
            Arg::Null,
            pointer(tile, 0, &[]),
            Arg::Table(offsets),
            Arg::Len(2),
            Arg::Len(16),
            Arg::Len(0),
            Arg::Len(0),
            Arg::Len(0),
            Arg::Len(16),
            Arg::Len(16),
            Arg::Len(1),
            Arg::F32(0.125),
            Arg::Ahead(at(weights, 32 * 16, &[(I, 1 << 40), (J, 16)])),
            Arg::Len(16),
            Arg::Len(1 << 30),
        ],
    };
    let double = map(
        8,
        at(middle, 0, &[(I, 64), (J, 16), (K, 8)]),
        binary(
            BinaryOp::Mul,
            Expr::Const(2.0),
            load(&at(tile, 0, &[(K, 8)])),
        ),
    );
    let pixel = vec![convolve, for_loop(K, 2, vec![double])];
    p.step(&[(I, 3)], vec![for_loop(J, 4, pixel)]);
    let tanh = Stmt::Call {
        leaf: Leaf::Unary(Function::TanH),
        args: vec![
            pointer(middle, 0, &[(I, 48)]),
            pointer(out, 0, &[(I, 48)]),
            Arg::Len(48),
            Arg::F32(0.0),
            Arg::F32(0.0),
            Arg::F32(0.0),
        ],
    };
    p.step(&[(I, 4)], vec![tanh]);
    let fill = Stmt::Call {
        leaf: Leaf::Fill,
        args: vec![
            pointer(framed, 0, &[]),
            Arg::Len(2),
            Arg::Len(16),
            Arg::Len(13 * 16),
            Arg::F32(-0.0),
        ],
    };
    let copy = Stmt::Call {
        leaf: Leaf::Copy,
        args: vec![
            pointer(out, 0, &[(I, 96)]),
            pointer(framed, 16, &[(I, 96)]),
            Arg::Len(6),
            Arg::Len(16),
            Arg::Len(16),
            Arg::Len(16),
        ],
    };
    p.step_of(vec![region(&[], vec![fill]), region(&[(I, 2)], vec![copy])]);
    p
}

#[test]
fn leaves_are_called_with_all_kinds_of_arguments() {
    for isa in isas() {
        let (_, _, outputs) = all_engines(calls(isa), 3);
        assert_eq!(
            bits_of(&[outputs[1][16..208].to_vec()])[0],
            bits_of(&outputs)[0]
        );
        assert!(outputs[1][..16].iter().all(|x| x.to_bits() == 1 << 31));
    }
}

#[test]
fn the_interpreter_shows_what_nothing_wrote() {
    let mut p = Program::empty(Isa::Portable);
    let (a, out) = (p.arena(8), p.output(8));
    p.step(&[], vec![map(4, at(a, 0, &[]), Expr::Const(1.0))]);
    let copy = map(8, at(out, 0, &[]), load(&at(a, 0, &[])));
    p.step(&[], vec![copy]);
    let exe = Executable::new(
        p.check().unwrap(),
        Block::zeroed(0).unwrap(),
        Engine::Interpreter,
    );
    let outputs = forward(&exe.unwrap(), 1, &[]);
    assert!(outputs[0][..4].iter().all(|&x| x == 1.0));
    assert!(outputs[0][4..].iter().all(|x| x.is_nan()));
}

#[test]
fn multiply_and_add_are_fused_where_the_ir_says_so_only() {
    for isa in isas() {
        let text = |value: fn(Box<Expr>, Box<Expr>, Box<Expr>) -> Expr| {
            let mut p = Program::empty(isa);
            let (src, out) = (p.input(16), p.output(16));
            let x = || Box::new(load(&at(src, 0, &[])));
            p.step(&[], vec![map(16, at(out, 0, &[]), value(x(), x(), x()))]);
            jit::clif(&p.check().unwrap()).unwrap()
        };
        let fused = text(Expr::Fma).contains(" fma ");
        assert_eq!(fused, isa != Isa::Portable);
        let apart = text(|a, b, c| {
            let product = Expr::Binary(BinaryOp::Mul, a, b);
            Expr::Binary(BinaryOp::Add, Box::new(product), c)
        });
        assert!(!apart.contains(" fma "));
        assert!(apart.contains(" fmul ") && apart.contains(" fadd "));
    }
}

// ---- random programs -----------------------------------------------------------

/// Makes legal programs: each region writes a buffer of its own completely, reading
/// from any that earlier steps wrote.
struct Generator {
    random: Random,
    p: Program,
    readable: Vec<BufferId>,
    next_var: u32,
}

impl Generator {
    fn program(isa: Isa, seed: u64) -> Program {
        let mut g = Generator {
            random: Random(seed),
            p: Program::empty(isa),
            readable: Vec::new(),
            next_var: 0,
        };
        let input = g.p.input(64 + g.random.below(200) as usize);
        let weights = g.p.weights(40 + g.random.below(60) as usize);
        g.readable = vec![input, weights];
        for _ in 0..1 + g.random.below(4) {
            let regions = (0..1 + g.random.below(3)).map(|_| g.region());
            let (regions, written): (Vec<_>, Vec<_>) =
                regions.collect::<Vec<_>>().into_iter().unzip();
            g.p.step_of(regions);
            g.readable.extend(written);
        }
        g.observe();
        g.p
    }

    /// Copies what is in the arena to outputs.
    fn observe(&mut self) {
        let arena: Vec<_> = (0..self.p.buffers.len())
            .filter(|&i| matches!(self.p.buffers[i].place, Place::Arena(_)))
            .collect();
        for i in arena {
            let len = self.p.buffers[i].len;
            let out = self.p.output(len);
            let here = |b| at(b, 0, &[(I, 1)]);
            let copy = map(1, here(out), load(&here(BufferId(i as u32))));
            self.p.step(&[], vec![for_loop(I, len as u32, vec![copy])]);
        }
    }

    fn vars(&mut self, count: u64) -> Vec<(Var, u32)> {
        let var = |g: &mut Self| {
            g.next_var += 1;
            (Var(g.next_var), 1 + g.random.below(4) as u32)
        };
        (0..count).map(|_| var(self)).collect()
    }

    fn region(&mut self) -> (Region, BufferId) {
        self.next_var = 0;
        let (tasks, loops) = (self.random.below(4), self.random.below(3));
        let tasks = self.vars(tasks);
        let loops = self.vars(loops);
        let lanes = self.random.pick(&[1, 4, 8, 16]);
        let scope = [&tasks[..], &loops[..]].concat();
        // Variables count the elements in any order, not only in that of the loops.
        let mut order = scope.clone();
        for i in (1..order.len()).rev() {
            order.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        let mut len = i64::from(lanes);
        let mut terms = Vec::new();
        for &(var, n) in &order {
            terms.push((var, len));
            len *= i64::from(n);
        }
        let buffer = match self.random.below(2) {
            0 => self.p.arena(len as usize),
            _ => self.p.output(len as usize),
        };
        let dst = at(buffer, 0, &terms);
        let value = self.expr(&scope, lanes, 3, None);
        let mut body = vec![map(lanes, dst.clone(), value)];
        if self.random.below(2) == 0 {
            let value = self.expr(&scope, lanes, 2, Some(&dst));
            body.push(map(lanes, dst, value));
        }
        if self.random.below(3) == 0 {
            body = self.through_scratch(&scope, lanes, body);
        }
        for &(var, n) in loops.iter().rev() {
            body = vec![for_loop(var, n, body)];
        }
        (region(&tasks, body), buffer)
    }

    /// Puts in front of `body` a loop that fills scratch memory, and lets its first
    /// statement add some of it.
    fn through_scratch(
        &mut self,
        scope: &[(Var, u32)],
        lanes: u32,
        mut body: Vec<Stmt>,
    ) -> Vec<Stmt> {
        let scratch = self.p.scratch(16 * 3);
        let var = self.vars(1)[0].0;
        let inner = [scope, &[(var, 3)]].concat();
        let value = self.expr(&inner, 16, 2, None);
        let fill = map(16, at(scratch, 0, &[(var, 16)]), value);
        let Stmt::Map { value, .. } = &mut body[0] else {
            unreachable!("bodies begin with a map");
        };
        let source = self.address(scratch, scope, lanes.into());
        *value = binary(BinaryOp::Add, value.clone(), load(&source));
        body.insert(0, for_loop(var, 3, vec![fill]));
        body
    }

    fn expr(
        &mut self,
        scope: &[(Var, u32)],
        lanes: u32,
        depth: u32,
        in_place: Option<&crate::kernel::Addr>,
    ) -> Expr {
        if depth == 0 || self.random.below(6) == 0 {
            return self.source(scope, lanes, in_place);
        }
        let mut sub = || Box::new(self.expr(scope, lanes, depth - 1, in_place));
        let (a, b, c) = (sub(), sub(), sub());
        match self.random.below(5) {
            0 => Expr::Unary(
                self.random
                    .pick(&[UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sqrt]),
                a,
            ),
            1 => Expr::Fma(a, b, c),
            2 => Expr::Less {
                a: a.clone(),
                b,
                x: a,
                y: c,
            },
            3 if in_place.is_none() => {
                let window_vars = 1 + self.random.below(3);
                let window = self.vars(window_vars);
                let inner = [scope, &window].concat();
                let value = Box::new(self.expr(&inner, lanes, depth - 1, None));
                Expr::Reduce {
                    op: self.op(),
                    init: self.random.f32(),
                    window,
                    value,
                }
            }
            _ => Expr::Binary(self.op(), a, b),
        }
    }

    fn op(&mut self) -> BinaryOp {
        use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
        self.random.pick(&[Add, Sub, Mul, Div, Max, Min])
    }

    fn source(
        &mut self,
        scope: &[(Var, u32)],
        lanes: u32,
        in_place: Option<&crate::kernel::Addr>,
    ) -> Expr {
        let from = self.readable.clone();
        let buffer = self.random.pick(&from);
        let fits = self.p.buffers[buffer.0 as usize].len >= lanes as usize;
        match (self.random.below(5), in_place) {
            (0, _) => Expr::Const(self.random.f32()),
            (1 | 2, Some(dst)) => load(dst),
            (3 | 4, _) if fits => load(&self.address(buffer, scope, lanes.into())),
            _ => Expr::Splat(self.address(buffer, scope, 1)),
        }
    }

    /// Any address of `len` elements inside `buffer`.
    fn address(&mut self, buffer: BufferId, scope: &[(Var, u32)], len: u64) -> crate::kernel::Addr {
        let mut room = self.p.buffers[buffer.0 as usize].len as u64 - len;
        let (mut base, mut terms) = (0, Vec::new());
        for &(var, n) in scope {
            let most = room / u64::from(n - 1).max(1);
            let c = self.random.below(most + 1) as i64;
            if c == 0 || self.random.below(3) == 0 {
                continue;
            }
            let far = c * i64::from(n - 1);
            room -= far as u64;
            if self.random.below(4) == 0 {
                base += far;
                terms.push((var, -c));
            } else {
                terms.push((var, c));
            }
        }
        base += self.random.below(room + 1) as i64;
        at(buffer, base, &terms)
    }
}

#[test]
fn random_programs_agree_on_all_engines() {
    let mut results = Vec::new();
    for isa in isas() {
        for seed in 0..150 {
            let (_, _, outputs) = all_engines(Generator::program(isa, seed), seed);
            results.extend(outputs.into_iter().flatten());
        }
    }
    let numbers = results.iter().filter(|x| x.is_finite() && **x != 0.0);
    assert!(
        numbers.count() > results.len() / 3,
        "the programs compute too little to tell engines apart"
    );
}

// ---- executables and contexts --------------------------------------------------

fn executable(p: Program, engine: Engine) -> Executable {
    let checked = p.check().unwrap();
    let weights = Block::from_slice(&Random(9).numbers(checked.weights_len)).unwrap();
    Executable::new(checked, weights, engine).unwrap()
}

#[test]
fn wrong_arguments_are_errors() {
    let exe = executable(calls(Isa::Portable), Engine::Jit);
    let other = executable(calls(Isa::Portable), Engine::Jit);
    let mut context = exe.context(1).unwrap();
    let input = vec![0.0; 384];
    let (mut a, mut b) = (vec![0.0; 192], vec![0.0; 224]);
    let mut run = |exe: &Executable, inputs: &[&[f32]], outputs: &mut [&mut [f32]]| {
        exe.run(&mut context, inputs, outputs)
            .map_err(|e| e.to_string())
    };
    assert_eq!(run(&exe, &[&input], &mut [&mut a, &mut b]), Ok(()));
    let cases: [(&Executable, &[&[f32]], bool, &str); 4] = [
        (
            &other,
            &[&input],
            true,
            "this context belongs to another executable",
        ),
        (&exe, &[], true, "the net has 1 inputs, but 0 are given"),
        (
            &exe,
            &[&input],
            false,
            "the net has 2 outputs, but 1 are given",
        ),
        (
            &exe,
            &[&input[1..]],
            true,
            "input `in0` of shape [384] has 384 elements, but 383 are given",
        ),
    ];
    for (exe, inputs, both, message) in cases {
        let mut outputs: Vec<&mut [f32]> = vec![&mut a];
        if both {
            outputs.push(&mut b);
        }
        assert_eq!(run(exe, inputs, &mut outputs), Err(message.to_string()));
    }
    let timed = exe.run_timed(&mut context, &[&input], &mut [&mut a, &mut b]);
    assert_eq!(timed.unwrap().len(), 3);
}

#[test]
fn one_executable_serves_many_threads() {
    let exe = executable(windows(Isa::detect(), 3, BinaryOp::Max), Engine::Jit);
    let expected = |seed| forward(&exe, 1, &[Random(seed).numbers(12_800)]);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (exe, expected) = (&exe, bits_of(&expected(t)));
            scope.spawn(move || {
                let input = [Random(t).numbers(12_800)];
                for round in 0..30 {
                    let threads = 1 + round % 2;
                    assert_eq!(bits_of(&forward(exe, threads, &input)), expected);
                }
            });
        }
    });
}

#[test]
fn contexts_can_be_used_again_and_moved() {
    let exe = executable(calls(Isa::detect()), Engine::Jit);
    let mut context = exe.context(2).unwrap();
    let mut results = Vec::new();
    for _ in 0..3 {
        let input = Random(5).numbers(384);
        let (mut a, mut b) = (vec![0.0; 192], vec![0.0; 224]);
        exe.run(&mut context, &[&input], &mut [&mut a, &mut b])
            .unwrap();
        results.push(bits_of(&[a, b]));
        let elsewhere = vec![context];
        context = elsewhere.into_iter().next().unwrap();
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

/// Resident memory in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[cfg(target_os = "linux")]
fn cycles(count: usize) {
    for _ in 0..count {
        let exe = executable(calls(Isa::detect()), Engine::Jit);
        forward(&exe, 1, &[vec![1.0; 384]]);
    }
}

/// Other tests allocate in this process too, so the bound is wide; a leak of a page for
/// each function would pass it many times over.
#[test]
#[cfg(target_os = "linux")]
fn code_is_freed() {
    cycles(20);
    let before = resident();
    cycles(1000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}
