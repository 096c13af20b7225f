//! Pooling, and LRN within channels, as expressions over windows.
//!
//! Windows at a border are cut, so outputs fall into classes of equal windows along
//! each axis; every pair of classes becomes loops around one `Map`, unless there are too
//! many.

use super::view::{Blocked, Halo};
use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::Node;
use crate::kernel::{Addr, BinaryOp, Expr, Region, Stmt, Var};
use crate::layers::lrn::Lrn;
use crate::layers::pooling::{Geometry, Method};
use crate::leaf::{BLOCK, Function, Leaf};

/// Consecutive outputs along one axis whose windows have the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    first: usize,
    count: usize,
    /// First input of the first window; the next one starts a step later: the stride, or
    /// 0 for windows that all begin before the picture.
    start: usize,
    step: usize,
    len: usize,
    /// The window's length for the divisor of an average.
    counted: i64,
}

fn classes(g: &Geometry, axis: usize) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for output in 0..g.output[axis] {
        let window = g.window(axis, output);
        let (start, len, counted) = (
            window.start,
            window.end.saturating_sub(window.start),
            window.counted,
        );
        if let Some(last) = classes.last_mut() {
            let same = (last.len, last.counted) == (len, counted);
            if same && (len == 0 || last.takes(start, g.stride[axis])) {
                last.count += 1;
                continue;
            }
        }
        classes.push(Class {
            first: output,
            count: 1,
            start,
            step: 0,
            len,
            counted,
        });
    }
    classes
}

impl Class {
    /// Whether the next window may start at `start`. The second one decides on the step.
    fn takes(&mut self, start: usize, stride: usize) -> bool {
        if self.count == 1 && [self.start, self.start + stride].contains(&start) {
            self.step = start - self.start;
        }
        start == self.start + self.count * self.step
    }
}

/// One class: every input is an output.
fn each(count: usize) -> Vec<Class> {
    vec![Class {
        first: 0,
        count,
        start: 0,
        step: 1,
        len: 1,
        counted: 1,
    }]
}

/// Most pairs of classes that become loops of their own.
const PAIRS: usize = 256;

/// Puts `method` of `f` of the elements of each window into `dst`.
///
/// Windows of many classes are large and would make much code, so they are cut in two:
/// first along the height, into a blob between, then along the width.
fn windows(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    g: &Geometry,
    planes: (Var, Var),
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Result<Vec<Stmt>> {
    let (rows, columns) = (classes(g, 0), classes(g, 1));
    if rows.len() * columns.len() <= PAIRS {
        return Ok(passes(b, (src, dst), (&rows, &columns), planes, method, f));
    }
    let dims = [src.n, src.c, dst.h, src.w];
    let between = b.new_blocked("pooled along the height", dims, Halo::default())?;
    let (all_rows, all_columns) = (each(dst.h), each(src.w));
    let (first, second) = ((&*rows, &*all_columns), (&*all_rows, &*columns));
    let mut body = passes(b, (src, &between), first, planes, method, f);
    body.extend(passes(b, (&between, dst), second, planes, method, |x| x));
    Ok(body)
}

/// One `Map` for every pair of classes.
fn passes(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    (rows, columns): (&[Class], &[Class]),
    (image, block): (Var, Var),
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Vec<Stmt> {
    let mut body = Vec::new();
    for row in rows {
        for column in columns {
            let (y, x) = (b.var(), b.var());
            let from = src
                .plane(image, block)
                .offset(row.start as i64 * src.row + (column.start * BLOCK) as i64)
                .plus(y, row.step as i64 * src.row)
                .plus(x, (column.step * BLOCK) as i64);
            let to = dst
                .plane(image, block)
                .offset(row.first as i64 * dst.row + (column.first * BLOCK) as i64)
                .plus(y, dst.row)
                .plus(x, BLOCK as i64);
            let from = Addr {
                buffer: src.buffer,
                offset: from,
            };
            let map = Stmt::Map {
                lanes: BLOCK as u32,
                dst: Addr {
                    buffer: dst.buffer,
                    offset: to,
                },
                value: value(b, (from, src.row), (row, column), method, &f),
            };
            let line = for_loop(x, column.count, vec![map]);
            body.extend(for_loop(y, row.count, line));
        }
    }
    body
}

/// `method` of `f` of the elements of the window whose first one is `from`.
fn value(
    b: &mut Builder,
    from: (Addr, i64),
    (rows, columns): (&Class, &Class),
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Expr {
    let window = (rows, columns);
    match method {
        Method::Max => reduce(b, (BinaryOp::Max, -f32::MAX), from, window, f),
        Method::Ave => {
            let sum = reduce(b, (BinaryOp::Add, 0.0), from, window, f);
            let area = (rows.counted * columns.counted) as f32;
            Expr::Binary(BinaryOp::Div, Box::new(sum), Box::new(Expr::Const(area)))
        }
    }
}

/// `init`, then `op` with `f` of every element of a window.
fn reduce(
    b: &mut Builder,
    (op, init): (BinaryOp, f32),
    (from, row): (Addr, i64),
    (rows, columns): (&Class, &Class),
    f: impl Fn(Expr) -> Expr,
) -> Expr {
    if rows.len * columns.len == 0 {
        return Expr::Const(init);
    }
    let (y, x) = (b.var(), b.var());
    let offset = from.offset.plus(y, row).plus(x, BLOCK as i64);
    let load = Expr::Load(Addr {
        buffer: from.buffer,
        offset,
    });
    Expr::Reduce {
        op,
        init,
        window: vec![(y, rows.len as u32), (x, columns.len as u32)],
        value: Box::new(f(load)),
    }
}

/// Lowers MAX and AVE pooling.
pub fn pool(b: &mut Builder, node: &Node, method: Method, g: &Geometry) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
    let planes = (b.var(), b.var());
    let body = windows(b, (&src, &dst), g, planes, method, |x| x)?;
    let region = Region {
        tasks: vec![(planes.0, dst.n as u32), (planes.1, dst.blocks() as u32)],
        body,
        cost: (dst.h * dst.w) as u64 * window_size(g) / 4 + 1,
    };
    let kind = match method {
        Method::Max => "max",
        Method::Ave => "average",
    };
    let ([kh, kw], [h, w], [oh, ow]) = (g.kernel, g.input, g.output);
    let about = format!("{kind} pooling {kh}x{kw}: {h}x{w} -> {oh}x{ow}");
    b.step(node.layers.clone(), about, vec![region], 0, b.traffic(node));
    // An empty window gives -FLT_MAX or NaN, on the lanes beyond the last channel too.
    let empty = [0, 1]
        .iter()
        .any(|&axis| classes(g, axis).iter().any(|c| c.len == 0));
    if let Some(region) = b.tail_fill(&dst).filter(|_| empty) {
        b.step(node.layers.clone(), "zero lanes", vec![region], 0, 0);
    }
    Ok(())
}

fn window_size(g: &Geometry) -> u64 {
    (g.kernel[0].min(g.input[0]) * g.kernel[1].min(g.input[1])) as u64
}

/// LRN within channels: the average of squares into the top, its power, and the product
/// with the bottom, plane by plane.
pub fn lrn_within(b: &mut Builder, node: &Node, lrn: &Lrn) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
    let pad = (lrn.size - 1) / 2;
    let g = Geometry {
        input: [src.h, src.w],
        output: [src.h, src.w],
        kernel: [lrn.size; 2],
        stride: [1; 2],
        pad: [pad; 2],
    };
    let planes = (b.var(), b.var());
    let square = |x: Expr| Expr::Binary(BinaryOp::Mul, Box::new(x.clone()), Box::new(x));
    let mut body = windows(b, (&src, &dst), &g, planes, Method::Ave, square)?;
    let (row, pixel) = (b.var(), b.var());
    let at = |v: &Blocked| Addr {
        buffer: v.buffer,
        offset: v
            .plane(planes.0, planes.1)
            .plus(row, v.row)
            .plus(pixel, BLOCK as i64),
    };
    let start = dst.plane(planes.0, planes.1).plus(row, dst.row);
    let power = Stmt::Call {
        leaf: Leaf::Unary(Function::Power),
        args: vec![
            b.at(dst.buffer, start.clone()),
            b.at(dst.buffer, start),
            crate::kernel::Arg::Len(dst.w * BLOCK),
            crate::kernel::Arg::F32(-lrn.beta),
            crate::kernel::Arg::F32(lrn.alpha),
            crate::kernel::Arg::F32(1.0),
        ],
    };
    let product = Stmt::Map {
        lanes: BLOCK as u32,
        dst: at(&dst),
        value: Expr::Binary(
            BinaryOp::Mul,
            Box::new(Expr::Load(at(&src))),
            Box::new(Expr::Load(at(&dst))),
        ),
    };
    let mut line = vec![power];
    line.extend(for_loop(pixel, dst.w, vec![product]));
    body.extend(for_loop(row, dst.h, line));
    let region = Region {
        tasks: vec![(planes.0, dst.n as u32), (planes.1, dst.blocks() as u32)],
        body,
        cost: (dst.h * dst.w) as u64 * (window_size(&g) + 8) / 4 + 1,
    };
    b.step(
        node.layers.clone(),
        "LRN within channels",
        vec![region],
        0,
        b.traffic(node),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(input: usize, output: usize, kernel: usize, stride: usize, pad: usize) -> Geometry {
        Geometry {
            input: [input; 2],
            output: [output; 2],
            kernel: [kernel; 2],
            stride: [stride; 2],
            pad: [pad; 2],
        }
    }

    #[test]
    fn windows_fall_into_classes() {
        // 3/2 pooling of 6 with Caffe's rounding: 3 outputs, the last one cut.
        let c = classes(&geometry(6, 3, 3, 2, 0), 0);
        assert_eq!(c.len(), 2);
        assert_eq!((c[0].first, c[0].count, c[0].start, c[0].len), (0, 2, 0, 3));
        assert_eq!(
            (c[1].first, c[1].start, c[1].len, c[1].counted),
            (2, 4, 2, 2)
        );
        // 3/2 pad 1 of 5: the first and the last window reach into the padding.
        let c = classes(&geometry(5, 3, 3, 2, 1), 1);
        let lens: Vec<_> = c.iter().map(|c| (c.start, c.len, c.counted)).collect();
        assert_eq!(lens, [(0, 2, 3), (1, 3, 3), (3, 2, 3)]);
        // Windows of 9 with pad 8 on 3: the seven that see all of it are one class.
        let c = classes(&geometry(3, 11, 9, 1, 8), 0);
        let lens: Vec<_> = c
            .iter()
            .map(|c| (c.first, c.count, c.start, c.len))
            .collect();
        assert_eq!(
            lens,
            [
                (0, 1, 0, 1),
                (1, 1, 0, 2),
                (2, 7, 0, 3),
                (9, 1, 1, 2),
                (10, 1, 2, 1)
            ]
        );
    }
}
