//! Compiled nets as a program around them uses them: many at once, from many threads, one
//! after the other. One test at a time, because memory is measured.

mod common;

use caffec::ir::{Tensor, Valid};
use caffec::kernel::{Place, Program};
use caffec::leaf::Isa;
use caffec::runtime::exec::Executable;
use caffec::{Options, compile};
use common::{fixture, graph, inputs, plan, run};
use std::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|failed| failed.into_inner())
}

fn lenet() -> (Valid, Vec<Tensor>) {
    let graph = graph(&fixture("lenet.prototxt"), &Default::default());
    let inputs = inputs(&graph);
    (graph, inputs)
}

fn compiled(graph: &Valid) -> Executable {
    compile(graph.clone(), &Options::default()).unwrap()
}

/// Inputs that differ from `inputs` and from those of other numbers.
fn variant(inputs: &[Tensor], number: usize) -> Vec<Tensor> {
    let mut inputs = inputs.to_vec();
    for x in inputs.iter_mut().flat_map(|t| &mut t.data) {
        *x = *x * (1.0 + number as f32) - number as f32 / 8.0;
    }
    inputs
}

#[test]
fn four_threads_share_one_net() {
    let _alone = alone();
    let (graph, inputs) = lenet();
    let net = compiled(&graph);
    let inputs: Vec<_> = (0..4).map(|n| variant(&inputs, n)).collect();
    let expected: Vec<_> = inputs.iter().map(|x| run(&net, 1, x)).collect();
    assert!(expected[0] != expected[1], "inputs do not matter");
    std::thread::scope(|scope| {
        for (number, (input, expected)) in inputs.iter().zip(&expected).enumerate() {
            let net = &net;
            scope.spawn(move || {
                let mut context = net.context(1 + number % 2).unwrap();
                for _ in 0..50 {
                    let mut prob = vec![f32::NAN; 10];
                    let data = &[&input[0].data[..]];
                    net.run(&mut context, data, &mut [&mut prob]).unwrap();
                    assert_eq!(prob, expected[0], "thread {number}");
                }
            });
        }
    });
}

#[test]
fn many_nets_live_at_once() {
    let _alone = alone();
    let (graph, inputs) = lenet();
    let nets: Vec<_> = (0..20).map(|_| compiled(&graph)).collect();
    let expected = run(&nets[0], 1, &inputs);
    for net in nets.iter().rev() {
        assert!(run(net, 1, &inputs) == expected);
    }
}

/// Resident bytes and the number of mappings of this process.
#[cfg(target_os = "linux")]
fn memory() -> (usize, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (pages * 4096, maps.lines().count())
}

#[test]
#[cfg(target_os = "linux")]
fn a_thousand_nets_leave_nothing_behind() {
    let _alone = alone();
    let (graph, inputs) = lenet();
    let expected = run(&compiled(&graph), 1, &inputs);
    let cycles = |count| {
        for i in 0..count {
            assert!(run(&compiled(&graph), 1 + i % 2, &inputs) == expected);
        }
    };
    cycles(100);
    let (resident, maps) = memory();
    cycles(1000);
    let (resident_after, maps_after) = memory();
    // One net's weights alone would be 1.7 GB in all, its code 10 MB.
    let grown = resident_after.saturating_sub(resident);
    assert!(grown < 4 << 20, "grew by {grown} bytes");
    assert!(
        maps_after < maps + 20,
        "{maps} mappings became {maps_after}"
    );
}

/// Moves each buffer of the arena onto each other one. Those that live at different
/// times may share; the checker must refuse all others.
#[test]
fn planted_overlaps_are_found() {
    let _alone = alone();
    let graph = graph(&fixture("two_in_two_out.prototxt"), &Default::default());
    let plan = plan(&graph, Isa::detect(), common::SETTINGS[0]);
    let program = plan.program;
    let arena = |p: &Program| -> Vec<(usize, usize)> {
        let in_arena = p.buffers.iter().enumerate().filter(|(_, b)| b.len > 0);
        in_arena
            .filter_map(|(i, b)| match b.place {
                Place::Arena(start) => Some((i, start)),
                _ => None,
            })
            .collect()
    };
    let buffers = arena(&program);
    let lives: Vec<_> = program.buffers_with_life().map(|(_, live)| live).collect();
    let (mut refused, mut allowed) = (0, 0);
    for &(moved, _) in &buffers {
        for &(other, start) in buffers.iter().filter(|(other, _)| *other != moved) {
            let mut planted: Program = (*program).clone();
            planted.buffers[moved].place = Place::Arena(start);
            planted.arena_len *= 2;
            let (a, b) = (lives[moved].unwrap(), lives[other].unwrap());
            let together = a.first <= b.last && b.first <= a.last;
            match planted.check() {
                Ok(_) => {
                    assert!(!together, "b{moved} on b{other} went unnoticed");
                    allowed += 1;
                }
                // Some fail another check before.
                Err(bug) => refused += usize::from(bug.to_string().contains("memory plan")),
            }
        }
    }
    assert!(
        refused > 5 && allowed > 0,
        "{refused} refused, {allowed} allowed"
    );
}
