//! Pooling, and LRN within channels.
//!
//! Windows at a border are cut, so outputs fall into classes of equal windows along
//! each axis; every combination of classes becomes one call, unless there are too many.

use super::view::{Blocked, Halo, Maps};
use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::Node;
use crate::kernel::{Addr, Affine, Arg, BinaryOp, Expr, Region, Stmt, Var};
use crate::layers::lrn::Lrn;
use crate::layers::pooling::{Axis, Geometry, Method};
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
    let Axis { output, stride, .. } = g.axes[axis];
    for output in 0..output {
        let window = g.window(axis, output);
        let (start, len, counted) = (
            window.start,
            window.end.saturating_sub(window.start),
            window.counted,
        );
        if let Some(last) = classes.last_mut() {
            let same = (last.len, last.counted) == (len, counted);
            if same && (len == 0 || last.takes(start, stride)) {
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

/// Most combinations of classes that become calls of their own.
const MOST_CALLS: usize = 256;

/// Sizes of a map, outermost first.
fn sizes(view: &Blocked) -> [usize; 3] {
    [view.slices, view.h, view.w]
}

/// Offset of the first element of a channel block of an item.
fn map_of(view: &Blocked, (item, block): (Var, Var)) -> Affine {
    Affine::constant(view.base)
        .plus(item, view.item())
        .plus(block, view.block)
}

/// Puts `method` of each window into `dst`.
///
/// Windows of many classes are large and would make many calls, so they are cut: first
/// along the outermost axis, into a blob between, and so on to the width.
fn windows(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    g: &Geometry,
    planes: (Var, Var),
    method: Method,
) -> Result<Vec<Stmt>> {
    let outermost = 3 - g.axes.len();
    let mut all = sizes(src).map(each);
    for (axis, along) in all[outermost..].iter_mut().enumerate() {
        *along = classes(g, axis);
    }
    if all.iter().map(Vec::len).product::<usize>() <= MOST_CALLS {
        return Ok(calls(b, (src, dst), &all, planes, method));
    }
    let mut body = Vec::new();
    let mut from = *src;
    for axis in outermost..3 {
        let mut along = sizes(&from).map(each);
        along[axis].clone_from(&all[axis]);
        let to = match axis {
            2 => *dst,
            _ => between(b, &from, axis, g.axes[axis - outermost].output)?,
        };
        body.extend(calls(b, (&from, &to), &along, planes, method));
        from = to;
    }
    Ok(body)
}

/// A blob like `view` but for the size of an axis.
fn between(b: &mut Builder, view: &Blocked, axis: usize, size: usize) -> Result<Blocked> {
    let mut maps = sizes(view);
    maps[axis] = size;
    let [slices, h, w] = maps;
    let maps = Maps {
        items: view.items(),
        c: view.c,
        slices,
        h,
        w,
    };
    b.new_maps("pooled along some axes", maps, Halo::default())
}

/// The outputs of every combination of classes.
fn calls(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    all: &[Vec<Class>; 3],
    planes: (Var, Var),
    method: Method,
) -> Vec<Stmt> {
    let mut body = Vec::new();
    for slices in &all[0] {
        for rows in &all[1] {
            for columns in &all[2] {
                let window = [slices, rows, columns];
                body.extend(call(b, (src, dst), window, planes, method));
            }
        }
    }
    body
}

/// The outputs of one class along each axis: one call for each slice.
fn call(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    window: [&Class; 3],
    planes: (Var, Var),
    method: Method,
) -> Vec<Stmt> {
    let [slices, rows, columns] = window;
    let slice = b.var();
    let strides = |view: &Blocked| [view.image, view.row, BLOCK as i64];
    let mut from = map_of(src, planes).plus(slice, slices.step as i64 * src.image);
    let mut to = map_of(dst, planes).plus(slice, dst.image);
    for (class, (step_in, step_out)) in window.iter().zip(strides(src).iter().zip(strides(dst))) {
        from = from.offset(class.start as i64 * step_in);
        to = to.offset(class.first as i64 * step_out);
    }
    let mut args = vec![b.at(src.buffer, from), b.at(dst.buffer, to)];
    let lengths = [
        rows.count,
        columns.count,
        rows.step * src.row as usize,
        columns.step * BLOCK,
        dst.row as usize,
        slices.len,
        rows.len,
        columns.len,
        src.image as usize,
        src.row as usize,
    ];
    args.extend(lengths.map(Arg::Len));
    let area = window.iter().map(|class| class.counted).product::<i64>();
    args.push(Arg::F32(area as f32));
    let leaf = Leaf::Pool {
        average: method == Method::Ave,
    };
    for_loop(slice, slices.count, vec![Stmt::Call { leaf, args }])
}

/// Lowers MAX and AVE pooling.
pub fn pool(b: &mut Builder, node: &Node, method: Method, g: &Geometry) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
    let planes = (b.var(), b.var());
    let body = windows(b, (&src, &dst), g, planes, method)?;
    let region = Region {
        tasks: vec![
            (planes.0, dst.items() as u32),
            (planes.1, dst.blocks() as u32),
        ],
        body,
        cost: (dst.slices * dst.h * dst.w) as u64 * window_size(g) / 4 + 1,
    };
    let kind = match method {
        Method::Max => "max",
        Method::Ave => "average",
    };
    let product = |of: fn(&Axis) -> usize| {
        let sizes: Vec<String> = g.axes.iter().map(|axis| of(axis).to_string()).collect();
        sizes.join("x")
    };
    let (kernel, input) = (product(|axis| axis.kernel), product(|axis| axis.input));
    let about = format!(
        "{kind} pooling {kernel}: {input} -> {}",
        product(|axis| axis.output)
    );
    b.step(node.layers.clone(), about, vec![region], 0, b.traffic(node));
    // An empty window gives -FLT_MAX or NaN, on the lanes beyond the last channel too.
    let empty = (0..g.axes.len()).any(|axis| classes(g, axis).iter().any(|class| class.len == 0));
    if let Some(region) = b.tail_fill(&dst).filter(|_| empty) {
        b.step(node.layers.clone(), "zero lanes", vec![region], 0, 0);
    }
    Ok(())
}

fn window_size(g: &Geometry) -> u64 {
    let inside = g.axes.iter().map(|axis| axis.kernel.min(axis.input));
    inside.product::<usize>() as u64
}

/// LRN within channels: squares, their average into the top, its power, and the product
/// with the bottom, plane by plane.
pub fn lrn_within(b: &mut Builder, node: &Node, lrn: &Lrn) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
    let dims = [src.n, src.c, src.h, src.w];
    let squares = b.new_blocked("squares", dims, Halo::default())?;
    let pad = (lrn.size - 1) / 2;
    let axis = |size| Axis {
        input: size,
        output: size,
        kernel: lrn.size,
        stride: 1,
        pad: [pad; 2],
    };
    let g = Geometry {
        axes: vec![axis(src.h), axis(src.w)],
        exclude_pad: false,
    };
    let planes = (b.var(), b.var());
    let (row, pixel) = (b.var(), b.var());
    let line = |v: &Blocked| v.plane(planes.0, planes.1).plus(row, v.row);
    let load = |v: &Blocked| {
        Box::new(Expr::Load(Addr {
            buffer: v.buffer,
            offset: line(v).plus(pixel, BLOCK as i64),
        }))
    };
    // A row of products into `to`.
    let products = |to: &Blocked, x: &Blocked, y: &Blocked| {
        let product = Stmt::Map {
            lanes: BLOCK as u32,
            dst: Addr {
                buffer: to.buffer,
                offset: line(to).plus(pixel, BLOCK as i64),
            },
            value: Expr::Binary(BinaryOp::Mul, load(x), load(y)),
        };
        for_loop(pixel, to.w, vec![product])
    };
    let power = Stmt::Call {
        leaf: Leaf::Unary(Function::Power),
        args: vec![
            b.at(dst.buffer, line(&dst)),
            b.at(dst.buffer, line(&dst)),
            Arg::Len(dst.w * BLOCK),
            Arg::F32(-lrn.beta),
            Arg::F32(lrn.alpha),
            Arg::F32(1.0),
        ],
    };
    let mut body = for_loop(row, src.h, products(&squares, &src, &src));
    body.extend(windows(b, (&squares, &dst), &g, planes, Method::Ave)?);
    let mut last = vec![power];
    last.extend(products(&dst, &src, &dst));
    body.extend(for_loop(row, dst.h, last));
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
        let axis = Axis {
            input,
            output,
            kernel,
            stride,
            pad: [pad; 2],
        };
        Geometry {
            axes: vec![axis; 2],
            exclude_pad: false,
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
