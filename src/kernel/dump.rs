//! The readable text form of a program, for `caffec dump` and golden tests.
//!
//! One line per port, buffer, table and statement; the same program always gives the
//! same text. Names of the user's are quoted and escaped.

use std::fmt::Write;

use super::{Addr, Affine, Arg, BinaryOp, Expr, Place, Port, Program, Region, Stmt, UnaryOp};
use crate::diag::clean;

/// Tables longer than this are cut, and told apart by a checksum.
const TABLE_LIMIT: usize = 32;

impl Program {
    /// The program as text.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        self.write_head(&mut out);
        for (i, step) in self.steps.iter().enumerate() {
            let layers: Vec<_> = step.layers.iter().map(|l| quoted(l)).collect();
            let _ = write!(out, "\nstep {i} {}\n", layers.join(" "));
            if !step.about.is_empty() {
                let _ = writeln!(out, "  # {}", clean(&step.about));
            }
            let _ = writeln!(out, "  # {} macs, {} bytes", step.macs, step.traffic);
            for region in &step.regions {
                self.write_region(&mut out, region);
            }
        }
        out
    }

    fn write_head(&self, out: &mut String) {
        let _ = writeln!(out, "program {} for {}", quoted(&self.name), self.isa);
        let _ = writeln!(
            out,
            "arena {}, weights {}, scratch {}",
            self.arena_len, self.weights_len, self.scratch_len
        );
        write_ports(out, "input", &self.inputs);
        write_ports(out, "output", &self.outputs);
        for (i, b) in self.buffers.iter().enumerate() {
            let (place, len, name) = (place(b.place), b.len, quoted(&b.name));
            let _ = writeln!(out, "b{i}: {place}, {len} elements, {name}");
        }
        for (i, table) in self.tables.iter().enumerate() {
            let _ = writeln!(out, "t{i}: {}", table_text(table));
        }
    }

    fn write_region(&self, out: &mut String, region: &Region) {
        let tasks: Vec<_> = region
            .tasks
            .iter()
            .map(|(var, n)| format!("{var} < {n}"))
            .collect();
        let _ = writeln!(out, "  tasks [{}] cost {}", tasks.join(", "), region.cost);
        self.write_body(out, &region.body, 2);
    }

    fn write_body(&self, out: &mut String, body: &[Stmt], depth: usize) {
        let indent = "  ".repeat(depth);
        for stmt in body {
            match stmt {
                Stmt::For { var, extent, body } => {
                    let _ = writeln!(out, "{indent}for {var} < {extent}");
                    self.write_body(out, body, depth + 1);
                }
                Stmt::Map { lanes, dst, value } => {
                    let (dst, value) = (addr(dst), expr(value));
                    let _ = writeln!(out, "{indent}map x{lanes} {dst} = {value}");
                }
                Stmt::Call { leaf, args } => {
                    let args: Vec<_> = leaf
                        .params()
                        .iter()
                        .zip(args)
                        .map(|((name, _), a)| format!("{name}={}", arg(a)))
                        .collect();
                    let name = leaf.name(self.isa);
                    let _ = writeln!(out, "{indent}call {name}({})", args.join(", "));
                }
                Stmt::Routine(call) => {
                    let piece = |(a, len): &(Addr, usize)| format!("{} x{len}", addr(a));
                    let list = |all: &[(Addr, usize)]| {
                        let all: Vec<_> = all.iter().map(piece).collect();
                        all.join(", ")
                    };
                    let (name, reads, writes) =
                        (call.routine.name, list(&call.reads), list(&call.writes));
                    let (sizes, values) = (&call.sizes, &call.values);
                    let _ = writeln!(
                        out,
                        "{indent}routine {name}({reads}) -> ({writes}) {sizes:?} {values:?}"
                    );
                }
            }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", clean(name))
}

fn write_ports(out: &mut String, kind: &str, ports: &[Port]) {
    for (i, port) in ports.iter().enumerate() {
        let name = quoted(&port.name);
        let _ = writeln!(out, "{kind} {i}: {name} {:?}", port.shape);
    }
}

fn place(place: Place) -> String {
    match place {
        Place::Input(n) => format!("input {n}"),
        Place::Output(n) => format!("output {n}"),
        Place::Arena(at) => format!("arena at {at}"),
        Place::Kept(at) => format!("kept in the arena at {at}"),
        Place::Weights(at) => format!("weights at {at}"),
        Place::Scratch(at) => format!("scratch at {at}"),
    }
}

fn table_text(table: &[i32]) -> String {
    if table.len() <= TABLE_LIMIT {
        return format!("{table:?}");
    }
    // FNV-1a
    let sum = table.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &x| {
        (h ^ u64::from(x as u32)).wrapping_mul(0x100_0000_01b3)
    });
    let head: Vec<_> = table[..TABLE_LIMIT].iter().map(i32::to_string).collect();
    format!(
        "[{}, …] {} entries, {sum:016x}",
        head.join(", "),
        table.len()
    )
}

fn addr(a: &Addr) -> String {
    format!("{}[{}]", a.buffer, affine(&a.offset))
}

fn affine(a: &Affine) -> String {
    let mut out = String::new();
    for &(var, c) in &a.terms {
        let sign = match (out.is_empty(), c < 0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        out += sign;
        match c.unsigned_abs() {
            1 => out += &var.to_string(),
            c => out += &format!("{c}·{var}"),
        }
    }
    match a.base {
        base if out.is_empty() => base.to_string(),
        0 => out,
        base if base < 0 => format!("{out} - {}", base.unsigned_abs()),
        base => format!("{out} + {base}"),
    }
}

fn arg(a: &Arg) -> String {
    match a {
        Arg::Addr(a) | Arg::Ahead(a) => addr(a),
        Arg::Null => "null".to_string(),
        Arg::Table(id) => id.to_string(),
        Arg::Len(n) => n.to_string(),
        Arg::F32(x) => format!("{x:?}"),
    }
}

fn expr(e: &Expr) -> String {
    match e {
        Expr::Load(a) => addr(a),
        Expr::Splat(a) => format!("splat {}", addr(a)),
        Expr::Const(x) => format!("{x:?}"),
        Expr::Unary(op, a) => format!("{}({})", unary(*op), expr(a)),
        Expr::Binary(op, a, b) => format!("{}({}, {})", binary(*op), expr(a), expr(b)),
        Expr::Fma(a, b, c) => format!("fma({}, {}, {})", expr(a), expr(b), expr(c)),
        Expr::Less { a, b, x, y } => {
            let (a, b, x, y) = (expr(a), expr(b), expr(x), expr(y));
            format!("if({a} < {b}, {x}, {y})")
        }
        Expr::Reduce {
            op,
            init,
            window,
            value,
        } => {
            let window: Vec<_> = window.iter().map(|(v, n)| format!("{v} < {n}")).collect();
            let (op, window) = (binary(*op), window.join(", "));
            format!("reduce {op} [{window}] from {init:?} ({})", expr(value))
        }
    }
}

fn unary(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Neg => "neg",
        UnaryOp::Abs => "abs",
        UnaryOp::Sqrt => "sqrt",
    }
}

fn binary(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "add",
        BinaryOp::Sub => "sub",
        BinaryOp::Mul => "mul",
        BinaryOp::Div => "div",
        BinaryOp::Max => "max",
        BinaryOp::Min => "min",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{at, for_loop, load, map};
    use crate::kernel::{TableId, Var};
    use crate::leaf::{Isa, Leaf};

    #[test]
    fn a_program_reads_line_by_line() {
        let (i, j, k) = (Var(0), Var(1), Var(2));
        let mut p = Program::empty(Isa::Portable);
        p.name = "a\u{1b}b".into();
        let (src, w) = (p.input(64), p.weights(4));
        let (middle, out) = (p.arena(48), p.output(48));
        p.table((0..40).collect());
        p.table(vec![-1, 2]);
        let max = Expr::Reduce {
            op: BinaryOp::Max,
            init: f32::NEG_INFINITY,
            window: vec![(k, 2)],
            value: Box::new(load(&at(src, 3, &[(j, 4), (i, -16), (k, 1)]))),
        };
        let sum = Expr::Fma(
            Box::new(max),
            Box::new(Expr::Splat(at(w, 0, &[]))),
            Box::new(Expr::Unary(UnaryOp::Neg, Box::new(Expr::Const(0.5)))),
        );
        let body = vec![for_loop(j, 4, vec![map(4, at(middle, 0, &[(i, -1)]), sum)])];
        p.step(&[(i, 3)], body);
        p.steps[0].about = "a\nline".into();
        let args = vec![
            Arg::Addr(at(middle, -2, &[(i, 1)])),
            Arg::Null,
            Arg::Table(TableId(1)),
            Arg::Len(7),
            Arg::F32(-0.0),
        ];
        let leaf = Leaf::Copy;
        p.step(&[], vec![Stmt::Call { leaf, args }]);
        let less = Expr::Less {
            a: Box::new(load(&at(middle, 0, &[]))),
            b: Box::new(Expr::Const(f32::NAN)),
            x: Box::new(Expr::Const(1.0e-40)),
            y: Box::new(Expr::Const(1.0)),
        };
        p.step(&[], vec![map(1, at(out, 47, &[]), less)]);
        let expected = "\
program `a\\u{1b}b` for portable
arena 48, weights 4, scratch 0
input 0: `in0` [64]
output 0: `out0` [48]
b0: input 0, 64 elements, `in0`
b1: weights at 0, 4 elements, `w0`
b2: arena at 0, 48 elements, `a0`
b3: output 0, 48 elements, `out0`
t0: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, \
24, 25, 26, 27, 28, 29, 30, 31, …] 40 entries, SUM
t1: [-1, 2]

step 0 `layer0`
  # a\\nline
  # 0 macs, 0 bytes
  tasks [i0 < 3] cost 1000000
    for i1 < 4
      map x4 b2[-i0] = fma(reduce max [i2 < 2] from -inf (b0[4·i1 - 16·i0 + i2 + 3]), \
splat b1[0], neg(0.5))

step 1 `layer1`
  # 0 macs, 0 bytes
  tasks [] cost 1000000
    call NAME(src=b2[i0 - 2], dst=null, rows=t1, len=7, src_stride=-0.0)

step 2 `layer2`
  # 0 macs, 0 bytes
  tasks [] cost 1000000
    map x1 b3[47] = if(b2[0] < NaN, 1e-40, 1.0)
";
        let sum = p.dump().split("40 entries, ").nth(1).unwrap()[..16].to_string();
        let expected = expected
            .replace("SUM", &sum)
            .replace("NAME", &leaf.name(Isa::Portable));
        assert_eq!(p.dump(), expected);
        p.tables[0][39] = 0;
        assert_ne!(p.dump(), expected, "what is cut still counts");
    }
}
