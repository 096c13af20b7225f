use super::*;
use crate::kernel::testing::{at, for_loop, load, map, region};
use crate::kernel::{Addr, Affine, Arg, BinaryOp, TableId};
use crate::leaf::{Function, Isa, Leaf};

const I: Var = Var(0);
const J: Var = Var(1);
const K: Var = Var(2);

fn program() -> Program {
    Program::empty(Isa::Portable)
}

/// That the program is refused with exactly this message.
#[track_caller]
fn refused(p: Program, message: &str) {
    match p.check() {
        Ok(_) => panic!("passed the check"),
        Err(bug) => assert_eq!(bug.0, message),
    }
}

/// `out[16·i + 4·j ..][..4] = in[…]`, with `change` applied to the map.
fn copy(change: impl FnOnce(&mut u32, &mut Addr, &mut Addr)) -> Program {
    let mut p = program();
    let (src, dst) = (p.input(48), p.output(48));
    let (mut lanes, terms) = (4, [(I, 16), (J, 4)]);
    let (mut src, mut dst) = (at(src, 0, &terms), at(dst, 0, &terms));
    change(&mut lanes, &mut dst, &mut src);
    p.step(
        &[(I, 3)],
        vec![for_loop(J, 4, vec![map(lanes, dst, load(&src))])],
    );
    p
}

#[test]
fn a_right_program_passes() {
    let checked = copy(|_, _, _| {}).check().unwrap();
    let live = Live { first: 0, last: 0 };
    assert_eq!(checked.live(BufferId(0)), Some(live));
    assert_eq!(checked.var_count(), 2);
}

#[test]
fn addresses_stay_in_bounds_for_all_loop_values() {
    refused(
        copy(|_, _, src| src.offset.base = 1),
        "step 0 (layer0): touches elements 1..49 of b0 `in0`, which has 48",
    );
    refused(
        copy(|_, dst, _| dst.offset = Affine::constant(-1).plus(I, 16).plus(J, 4)),
        "step 0 (layer0): touches elements -1..47 of b1 `out0`, which has 48",
    );
    refused(
        copy(|_, dst, _| dst.offset = Affine::constant(40).plus(I, -21).plus(J, 4)),
        "step 0 (layer0): touches elements -2..56 of b1 `out0`, which has 48",
    );
    refused(
        copy(|_, _, src| src.offset.terms[0].1 = i64::MAX),
        "step 0 (layer0): touches elements 0..18446744073709551630 of b0 `in0`, which has 48",
    );
}

#[test]
fn variables_are_bound_once_and_used_in_scope() {
    refused(
        copy(|_, _, src| src.offset.terms[0].0 = K),
        "step 0 (layer0): i2 is not bound where b0 is used",
    );
    refused(
        copy(|_, _, src| src.offset.terms[0] = (J, 1)),
        "step 0 (layer0): i1 appears twice in an address of b0",
    );
    refused(
        copy(|_, _, src| src.offset.terms[0].1 = 0),
        "step 0 (layer0): i0 has the coefficient 0 in b0",
    );
    let nest = |var, extent| {
        let mut p = copy(|_, _, _| {});
        let body = std::mem::take(&mut p.steps[0].regions[0].body);
        p.steps[0].regions[0].body = vec![for_loop(var, extent, body)];
        p
    };
    assert!(nest(K, 1).check().is_ok());
    refused(nest(I, 2), "step 0 (layer0): i0 is bound twice");
    refused(nest(K, 0), "step 0 (layer0): i2 has no values");
    refused(
        nest(Var(u32::MAX), 1),
        "step 0 (layer0): i4294967295 is numbered too high",
    );
}

#[test]
fn window_variables_are_visible_in_their_value_only() {
    let reduce = |inside: i64, outside: i64| {
        let mut p = program();
        let (src, dst) = (p.input(8), p.output(1));
        let sum = Expr::Reduce {
            op: BinaryOp::Add,
            init: 0.0,
            window: vec![(J, 8)],
            value: Box::new(load(&at(src, 0, &[(J, inside)]))),
        };
        let other = load(&at(src, 0, &[(J, outside)]));
        let value = Expr::Binary(BinaryOp::Mul, Box::new(sum), Box::new(other));
        p.step(&[], vec![map(1, at(dst, 0, &[]), value)]);
        p
    };
    assert!(reduce(1, 0).check().is_ok());
    refused(
        reduce(2, 0),
        "step 0 (layer0): touches elements 0..15 of b0 `in0`, which has 8",
    );
    refused(
        reduce(1, 1),
        "step 0 (layer0): i1 is not bound where b0 is used",
    );
}

#[test]
fn lanes_are_those_of_vectors() {
    refused(
        copy(|lanes, _, _| *lanes = 3),
        "step 0 (layer0): a map of 3 lanes",
    );
}

#[test]
fn inputs_and_weights_are_read_only() {
    refused(
        copy(|_, dst, src| std::mem::swap(dst, src)),
        "step 0 (layer0): writes to b0 `in0`",
    );
    let mut p = program();
    let w = p.weights(4);
    p.step(&[], vec![map(4, at(w, 0, &[]), Expr::Const(0.0))]);
    refused(p, "step 0 (layer0): writes to b0 `w0`");
}

#[test]
fn buffers_lie_in_their_blocks() {
    for place in [
        Place::Arena(1),
        Place::Output(7),
        Place::Input(0),
        Place::Weights(usize::MAX),
    ] {
        let mut p = program();
        p.arena_len = 4;
        p.buffers.push(Buffer {
            name: "x".into(),
            place,
            len: 4,
        });
        refused(p, "buffer b0 `x` is not inside its block");
    }
}

#[test]
fn a_map_works_in_place_or_apart() {
    let shifted = |by: i64| {
        let mut p = program();
        let b = p.output(64);
        let clear = map(16, at(b, 0, &[(I, 16)]), Expr::Const(1.0));
        p.step(&[(I, 4)], vec![clear]);
        let value = load(&at(b, by, &[]));
        p.step(&[], vec![map(16, at(b, 0, &[]), value)]);
        p
    };
    assert!(shifted(0).check().is_ok());
    assert!(shifted(16).check().is_ok());
    refused(
        shifted(8),
        "step 1 (layer1): a map overwrites its source b0",
    );
}

/// Writes, over two steps, a buffer at 0 and one at `second`; the first is read in
/// step `last`.
fn two_buffers(second: usize, last: usize) -> Program {
    let mut p = program();
    let out = p.output(32);
    let (a, b) = (p.arena_at(0, 16), p.arena_at(second, 16));
    let one = |b| map(16, at(b, 0, &[]), Expr::Const(1.0));
    let read = |n, b| map(16, at(out, n, &[]), load(&at(b, 0, &[])));
    p.step(&[], vec![one(a)]);
    p.step(&[], vec![one(b)]);
    p.step(&[], vec![read(16, b)]);
    p.steps[last].regions.push(region(&[], vec![read(0, a)]));
    p
}

#[test]
fn live_buffers_do_not_share_memory() {
    assert!(two_buffers(16, 2).check().is_ok());
    assert!(
        two_buffers(8, 0).check().is_err(),
        "reads while it is written"
    );
    let mut p = two_buffers(0, 1);
    p.steps.insert(1, p.steps[1].clone());
    p.steps[1].regions.remove(0);
    p.steps[2].regions.remove(1);
    assert!(
        p.check().is_ok(),
        "the first is dead when the second is born"
    );
    for second in [0, 8, 15] {
        let message = format!(
            "memory plan: b2 `a{second}` and b1 `a0` overlap while both are live in step 1"
        );
        refused(two_buffers(second, 2), &message);
    }
}

#[test]
fn what_is_read_was_written() {
    let mut p = two_buffers(16, 2);
    p.steps.swap(0, 2);
    refused(
        p,
        "step 0 (layer2): b1 is read before anything is written to it",
    );
    let mut p = program();
    p.output(1);
    refused(p, "nothing writes the output `out0`");
}

#[test]
fn scratch_is_private_in_content() {
    let scratch = |first: usize, second: usize| {
        let mut p = program();
        let out = p.output(16);
        let s = [p.scratch(8), p.scratch(8)];
        let write = |b| map(8, at(b, 0, &[]), Expr::Const(1.0));
        let read = |n, b| map(8, at(out, n, &[]), load(&at(b, 0, &[])));
        p.step(&[], vec![write(s[first]), read(0, s[0])]);
        p.step(&[], vec![write(s[second]), read(8, s[1])]);
        p
    };
    assert!(scratch(0, 1).check().is_ok());
    refused(
        scratch(0, 0),
        "step 1 (layer1): scratch b2 is read before it is written",
    );
    let mut p = scratch(0, 1);
    let body = p.steps.remove(1).regions.remove(0).body;
    p.steps[0].regions[0].body.extend(body);
    p.buffers[2].place = Place::Scratch(7);
    refused(
        p,
        "step 0 (layer0): scratch b1 and b2 of one region overlap",
    );
}

#[test]
fn what_is_fetched_ahead_may_lie_anywhere() {
    let tile = |ahead: Arg| {
        let mut p = program();
        let (src, dst) = (p.input(16), p.output(16));
        let weights = p.weights(16 * 16);
        let bias = p.weights(16);
        let offsets = p.table(vec![0]);
        let pointer = |buffer| Arg::Addr(at(buffer, 0, &[]));
        let sizes = [1, 16, 0, 0, 0, 16, 16, 0].map(Arg::Len);
        let mut args = vec![pointer(src), pointer(weights), pointer(bias)];
        args.extend([Arg::Null, Arg::Null, pointer(dst), Arg::Table(offsets)]);
        args.extend(sizes);
        args.extend([Arg::F32(0.0), ahead, Arg::Len(16), Arg::Len(0)]);
        let leaf = Leaf::Tile {
            mr: 1,
            nb: 1,
            px: 0,
            taps: 16,
        };
        p.step(&[(I, 1)], vec![Stmt::Call { leaf, args }]);
        p.check()
    };
    assert!(tile(Arg::Null).is_ok());
    let beyond = at(BufferId(2), 1 << 40, &[(I, -7)]);
    assert!(tile(Arg::Ahead(beyond.clone())).is_ok());
    assert!(tile(Arg::Addr(beyond)).is_err());
    let unbound = tile(Arg::Ahead(at(BufferId(2), 0, &[(J, 1)]))).unwrap_err();
    assert!(unbound.0.contains("i1 is not bound"), "{unbound}");
    assert!(tile(Arg::Ahead(at(BufferId(9), 0, &[]))).is_err());
}

#[test]
fn leaves_get_what_they_list() {
    let unary = |args: Vec<Arg>| {
        let mut p = program();
        p.output(8);
        p.input(8);
        p.step(
            &[],
            vec![Stmt::Call {
                leaf: Leaf::Unary(Function::TanH),
                args,
            }],
        );
        p
    };
    let pointer = |n, base| Arg::Addr(at(BufferId(n), base, &[]));
    let rest = [Arg::Len(8), Arg::F32(0.0), Arg::F32(0.0), Arg::F32(0.0)];
    let with = |src, dst| unary([&[src, dst], &rest[..]].concat());
    assert!(with(pointer(1, 0), pointer(0, 0)).check().is_ok());
    refused(
        unary(vec![]),
        "step 0 (layer0): Unary(TanH) takes 6 arguments, not 0",
    );
    refused(
        with(pointer(1, 0), Arg::Len(3)),
        "step 0 (layer0): Unary(TanH) takes a Dst as `dst`, not Len(3)",
    );
    refused(
        with(pointer(1, 1), pointer(0, 0)),
        "step 0 (layer0): Unary(TanH): `src` touches elements 1..9 of b1 `in0`, which has 8",
    );
    refused(
        with(pointer(0, 0), pointer(1, 0)),
        "step 0 (layer0): Unary(TanH): `dst` writes to b1 `in0`",
    );
    assert!(with(Arg::Null, pointer(0, 0)).check().is_err());
    let mut p = program();
    let table = vec![Arg::Table(TableId(0)); Leaf::Fill.params().len()];
    p.step(
        &[],
        vec![Stmt::Call {
            leaf: Leaf::Fill,
            args: table,
        }],
    );
    assert!(p.check().is_err());
}

/// A step that races is found by the enumeration of tasks alone.
#[track_caller]
fn races(p: Program, message: &str) {
    let error = p.check().expect_err("passed the check");
    assert_eq!(error.0, message);
}

#[test]
fn tasks_do_not_write_what_others_touch() {
    races(
        copy(|_, dst, _| dst.offset.terms = vec![(I, 15), (J, 4)]),
        "step 0 (layer0): tasks 0 and 1 race for element 15 of Output(0)",
    );
    // Rows of 4 elements, 8 apart, of one task between those of the other.
    let interleaved = |shift| {
        let mut p = program();
        let b = p.output(64);
        let write = |base| {
            let row = map(4, at(b, base, &[(J, 8)]), Expr::Const(0.0));
            region(&[], vec![for_loop(J, 4, vec![row])])
        };
        p.step_of(vec![write(0), write(shift)]);
        p
    };
    assert!(interleaved(4).check().is_ok());
    races(
        interleaved(3),
        "step 0 (layer0): tasks 0 and 1 race for element 3 of Output(0)",
    );
    // A region that reads what another of the same step writes.
    let mut p = two_buffers(16, 1);
    let reader = p.steps[1].regions.remove(1);
    p.steps[0].regions.push(reader);
    races(
        p,
        "step 0 (layer0): tasks 0 and 1 race for element 0 of Arena",
    );
}
