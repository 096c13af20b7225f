//! Pooling, and LRN within channels, as expressions over windows.
//!
//! Windows at a border are cut, so outputs fall into classes of equal windows along
//! each axis; every combination of classes becomes loops around one `Map`, unless there
//! are too many.

use super::view::{Blocked, Halo, Maps};
use super::{Builder, for_loop};
use crate::diag::Result;
use crate::ir::Node;
use crate::kernel::{Addr, Affine, BinaryOp, Expr, Region, Stmt, Var};
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

/// Most combinations of classes that become loops of their own.
const PAIRS: usize = 256;

/// Sizes of a map, outermost first, for as many axes as the windows have.
fn sizes(view: &Blocked, axes: usize) -> Vec<usize> {
    [view.slices, view.h, view.w][3 - axes..].to_vec()
}

/// From one element of a map to the next along each axis.
fn strides(view: &Blocked, axes: usize) -> Vec<i64> {
    [view.image, view.row, BLOCK as i64][3 - axes..].to_vec()
}

/// Offset of the first element of a channel block of an item.
fn map_of(view: &Blocked, (item, block): (Var, Var)) -> Affine {
    Affine::constant(view.base)
        .plus(item, view.item())
        .plus(block, view.block)
}

/// Puts `method` of `f` of the elements of each window into `dst`.
///
/// Windows of many classes are large and would make much code, so they are cut: first
/// along the outermost axis, into a blob between, and so on to the width.
fn windows(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    g: &Geometry,
    planes: (Var, Var),
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Result<Vec<Stmt>> {
    let axes = g.axes.len();
    let all: Vec<Vec<Class>> = (0..axes).map(|axis| classes(g, axis)).collect();
    if all.iter().map(Vec::len).product::<usize>() <= PAIRS {
        return Ok(pass(b, (src, dst), &all, planes, method, f));
    }
    let mut body = Vec::new();
    let mut from = *src;
    for axis in 0..axes {
        let mut along: Vec<_> = sizes(&from, axes).into_iter().map(each).collect();
        along[axis].clone_from(&all[axis]);
        let to = if axis + 1 == axes {
            *dst
        } else {
            between(b, &from, axes - axis, g.axes[axis].output)?
        };
        let first = |x: Expr| if axis == 0 { f(x) } else { x };
        body.extend(pass(b, (&from, &to), &along, planes, method, first));
        from = to;
    }
    Ok(body)
}

/// A blob like `view` but for the size of the axis number `from_end` from the end.
fn between(b: &mut Builder, view: &Blocked, from_end: usize, size: usize) -> Result<Blocked> {
    let mut maps = [view.slices, view.h, view.w];
    maps[3 - from_end] = size;
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

/// One `Map` for every combination of classes.
fn pass(
    b: &mut Builder,
    (src, dst): (&Blocked, &Blocked),
    all: &[Vec<Class>],
    planes: (Var, Var),
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Vec<Stmt> {
    let axes = all.len();
    let mut body = Vec::new();
    for choice in choices(all) {
        let mut from = map_of(src, planes);
        let mut to = map_of(dst, planes);
        let mut loops = Vec::new();
        let steps = strides(src, axes).into_iter().zip(strides(dst, axes));
        for (class, (in_step, out_step)) in choice.iter().zip(steps) {
            let var = b.var();
            from = from
                .offset(class.start as i64 * in_step)
                .plus(var, class.step as i64 * in_step);
            to = to.offset(class.first as i64 * out_step).plus(var, out_step);
            loops.push((var, class.count));
        }
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
            value: value(b, from, &strides(src, axes), &choice, method, &f),
        };
        let nest = loops.into_iter().rev();
        body.extend(nest.fold(vec![map], |inner, (var, count)| for_loop(var, count, inner)));
    }
    body
}

/// One class of each axis, in every combination, the last axis fastest.
fn choices(all: &[Vec<Class>]) -> Vec<Vec<Class>> {
    let mut choices = vec![Vec::new()];
    for classes in all {
        let longer = |choice: &Vec<Class>| -> Vec<Vec<Class>> {
            let with = |class: &Class| [choice.as_slice(), &[*class]].concat();
            classes.iter().map(with).collect()
        };
        choices = choices.iter().flat_map(longer).collect();
    }
    choices
}

/// `method` of `f` of the elements of the window whose first one is `from`.
fn value(
    b: &mut Builder,
    from: Addr,
    strides: &[i64],
    window: &[Class],
    method: Method,
    f: impl Fn(Expr) -> Expr,
) -> Expr {
    match method {
        Method::Max => reduce(b, (BinaryOp::Max, -f32::MAX), from, strides, window, f),
        Method::Ave => {
            let sum = reduce(b, (BinaryOp::Add, 0.0), from, strides, window, f);
            let area = window.iter().map(|class| class.counted).product::<i64>() as f32;
            Expr::Binary(BinaryOp::Div, Box::new(sum), Box::new(Expr::Const(area)))
        }
    }
}

/// `init`, then `op` with `f` of every element of a window.
fn reduce(
    b: &mut Builder,
    (op, init): (BinaryOp, f32),
    from: Addr,
    strides: &[i64],
    window: &[Class],
    f: impl Fn(Expr) -> Expr,
) -> Expr {
    if window.iter().any(|class| class.len == 0) {
        return Expr::Const(init);
    }
    let mut offset = from.offset;
    let mut vars = Vec::new();
    for (class, &step) in window.iter().zip(strides) {
        let var = b.var();
        offset = offset.plus(var, step);
        vars.push((var, class.len as u32));
    }
    let load = Expr::Load(Addr {
        buffer: from.buffer,
        offset,
    });
    Expr::Reduce {
        op,
        init,
        window: vars,
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

/// LRN within channels: the average of squares into the top, its power, and the product
/// with the bottom, plane by plane.
pub fn lrn_within(b: &mut Builder, node: &Node, lrn: &Lrn) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
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
