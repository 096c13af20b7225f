//! Small programs for the tests of the checker and of the engines.

use super::{
    Addr, Affine, BinaryOp, Buffer, BufferId, Expr, Place, Port, Program, Region, Step, Stmt,
    TableId, Var,
};
use crate::leaf::Isa;

impl Program {
    pub(crate) fn empty(isa: Isa) -> Program {
        Program {
            name: "test".into(),
            isa,
            inputs: Vec::new(),
            outputs: Vec::new(),
            buffers: Vec::new(),
            tables: Vec::new(),
            steps: Vec::new(),
            faults: Vec::new(),
            arena_len: 0,
            weights_len: 0,
            scratch_len: 0,
        }
    }

    fn buffer(&mut self, name: String, place: Place, len: usize) -> BufferId {
        self.buffers.push(Buffer { name, place, len });
        BufferId(self.buffers.len() as u32 - 1)
    }

    pub(crate) fn input(&mut self, len: usize) -> BufferId {
        let n = self.inputs.len();
        let name = format!("in{n}");
        self.inputs.push(Port {
            name: name.clone(),
            shape: vec![len],
            count: None,
        });
        self.buffer(name, Place::Input(n), len)
    }

    pub(crate) fn output(&mut self, len: usize) -> BufferId {
        let n = self.outputs.len();
        let name = format!("out{n}");
        self.outputs.push(Port {
            name: name.clone(),
            shape: vec![len],
            count: None,
        });
        self.buffer(name, Place::Output(n), len)
    }

    /// A buffer in fresh memory of the arena.
    pub(crate) fn arena(&mut self, len: usize) -> BufferId {
        let at = self.arena_len;
        self.arena_len += len;
        self.buffer(format!("a{at}"), Place::Arena(at), len)
    }

    /// A buffer at a given place of the arena.
    pub(crate) fn arena_at(&mut self, at: usize, len: usize) -> BufferId {
        self.arena_len = self.arena_len.max(at + len);
        self.buffer(format!("a{at}"), Place::Arena(at), len)
    }

    pub(crate) fn weights(&mut self, len: usize) -> BufferId {
        let at = self.weights_len;
        self.weights_len += len;
        self.buffer(format!("w{at}"), Place::Weights(at), len)
    }

    pub(crate) fn scratch(&mut self, len: usize) -> BufferId {
        let at = self.scratch_len;
        self.scratch_len += len;
        self.buffer(format!("s{at}"), Place::Scratch(at), len)
    }

    pub(crate) fn table(&mut self, entries: Vec<i32>) -> TableId {
        self.tables.push(entries);
        TableId(self.tables.len() as u32 - 1)
    }

    /// A step of one region.
    pub(crate) fn step(&mut self, tasks: &[(Var, u32)], body: Vec<Stmt>) {
        self.step_of(vec![region(tasks, body)]);
    }

    pub(crate) fn step_of(&mut self, regions: Vec<Region>) {
        self.steps.push(Step {
            layers: vec![format!("layer{}", self.steps.len())],
            about: String::new(),
            regions,
            macs: 0,
            traffic: 0,
        });
    }
}

pub(crate) fn region(tasks: &[(Var, u32)], body: Vec<Stmt>) -> Region {
    Region {
        tasks: tasks.to_vec(),
        body,
        // So much that a step is divided among all threads.
        cost: 1_000_000,
    }
}

pub(crate) fn at(buffer: BufferId, base: i64, terms: &[(Var, i64)]) -> Addr {
    let offset = terms
        .iter()
        .fold(Affine::constant(base), |a, &(v, c)| a.plus(v, c));
    Addr { buffer, offset }
}

pub(crate) fn load(addr: &Addr) -> Expr {
    Expr::Load(addr.clone())
}

pub(crate) fn binary(op: BinaryOp, a: Expr, b: Expr) -> Expr {
    Expr::Binary(op, Box::new(a), Box::new(b))
}

pub(crate) fn map(lanes: u32, dst: Addr, value: Expr) -> Stmt {
    Stmt::Map { lanes, dst, value }
}

pub(crate) fn for_loop(var: Var, extent: u32, body: Vec<Stmt>) -> Stmt {
    Stmt::For { var, extent, body }
}

/// Splitmix64: the same numbers for the same seed, everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `n` − 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Mostly around 0, at times something special.
    pub(crate) fn f32(&mut self) -> f32 {
        const SPECIAL: [f32; 9] = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1.0e-40,
            -1.0,
        ];
        if self.below(12) == 0 {
            self.pick(&SPECIAL)
        } else {
            (self.next() >> 40) as f32 / (1u64 << 21) as f32 - 4.0
        }
    }

    pub(crate) fn numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.f32()).collect()
    }
}
