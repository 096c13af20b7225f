//! Element-wise nodes: one `Map`, then the function leaf if the expression's root is
//! one.

use super::view::{Blocked, Plain};
use super::{Builder, for_loop};
use crate::diag::{Diagnostic, Result};
use crate::ir::{BlobId, Node, Pointwise, Shape};
use crate::kernel::{Addr, Affine, Arg, BufferId, Expr, Region, Stmt, Var};
use crate::leaf::{BLOCK, Function, Leaf};
use std::ops::Range;

/// A function leaf and its constants.
type Root = Option<(Function, [f32; 3])>;

/// Lowers a node that computes its first top element by element.
///
/// Errors: `Unsupported` if a function stands inside an expression; passes keep it at
/// the root.
pub fn pointwise(b: &mut Builder, node: &Node, expr: &Pointwise) -> Result<()> {
    let (inner, root) = match expr {
        Pointwise::Function {
            function,
            a,
            b,
            c,
            x,
        } => (x.as_ref(), Some((*function, [*a, *b, *c]))),
        _ => (expr, None),
    };
    let top = node.tops[0];
    if can_block(b, node, top, inner) {
        blocked(b, node, top, inner, root)
    } else {
        plain(b, node, top, inner, root)
    }
}

fn can_block(b: &Builder, node: &Node, top: BlobId, expr: &Pointwise) -> bool {
    let shape = b.graph.shape(top);
    let full = |&&bottom: &&BlobId| b.graph.shape(bottom) == shape;
    b.maps(top).is_some()
        && node
            .bottoms
            .iter()
            .filter(full)
            .any(|&bottom| b.has_blocked(bottom))
        && leaves(expr).iter().all(|leaf| match leaf {
            Pointwise::Broadcast(v) => v.values.len() == 1 || (v.axis, v.axes) == (1, 1),
            Pointwise::BottomAt { bottom, axis } => {
                let small = b.graph.shape(node.bottoms[*bottom]);
                *axis == 0
                    && (small.len() == 2 || small.len() == 4 && small[2..] == [1, 1])
                    && shape.len() <= 4
            }
            _ => true,
        })
}

/// The nodes without operands.
fn leaves(expr: &Pointwise) -> Vec<&Pointwise> {
    let parts = expr.parts();
    if parts.is_empty() {
        return vec![expr];
    }
    parts.into_iter().flat_map(leaves).collect()
}

/// The kernel expression, with leaves as `place` says.
fn translate(expr: &Pointwise, place: &mut impl FnMut(&Pointwise) -> Expr) -> Result<Expr> {
    let mut t = |e: &Pointwise| translate(e, place).map(Box::new);
    Ok(match expr {
        Pointwise::Const(c) => Expr::Const(*c),
        Pointwise::Unary(op, x) => Expr::Unary(*op, t(x)?),
        Pointwise::Binary(op, a, b) => Expr::Binary(*op, t(a)?, t(b)?),
        Pointwise::Fma(a, b, c) => Expr::Fma(t(a)?, t(b)?, t(c)?),
        Pointwise::Less { a, b, x, y } => Expr::Less {
            a: t(a)?,
            b: t(b)?,
            x: t(x)?,
            y: t(y)?,
        },
        Pointwise::Function { .. } => {
            let message = "a function inside an element-wise expression";
            return Err(Diagnostic::unsupported(message).into());
        }
        Pointwise::Bottom(_) | Pointwise::BottomAt { .. } | Pointwise::Broadcast(_) => place(expr),
    })
}

/// The expression's value on lanes beyond the last channel, where all blobs and all
/// channel constants are 0.
fn at_zero(expr: &Pointwise) -> f32 {
    match expr {
        Pointwise::Bottom(_) | Pointwise::BottomAt { .. } => 0.0,
        Pointwise::Const(c) => *c,
        Pointwise::Broadcast(v) if v.values.len() == 1 => v.values[0],
        Pointwise::Broadcast(_) => 0.0,
        Pointwise::Unary(op, x) => op.apply(at_zero(x)),
        Pointwise::Binary(op, a, b) => op.apply(at_zero(a), at_zero(b)),
        Pointwise::Fma(a, b, c) => at_zero(a).mul_add(at_zero(b), at_zero(c)),
        Pointwise::Less { a, b, x, y } => {
            let chosen = if at_zero(a) < at_zero(b) { x } else { y };
            at_zero(chosen)
        }
        Pointwise::Function {
            function,
            a,
            b,
            c,
            x,
        } => function.reference(at_zero(x), *a, *b, *c),
    }
}

fn unary_call(root: (Function, [f32; 3]), dst: Addr, len: usize) -> Stmt {
    let (function, [a, b, c]) = root;
    Stmt::Call {
        leaf: Leaf::Unary(function),
        args: vec![
            Arg::Addr(dst.clone()),
            Arg::Addr(dst),
            Arg::Len(len),
            Arg::F32(a),
            Arg::F32(b),
            Arg::F32(c),
        ],
    }
}

fn blocked(b: &mut Builder, node: &Node, top: BlobId, expr: &Pointwise, root: Root) -> Result<()> {
    let bottoms: Result<Vec<Blocked>> = node
        .bottoms
        .iter()
        .map(|&bottom| b.blocked(bottom))
        .collect();
    let bottoms = bottoms?;
    let dst = b.alloc_blocked(top)?;
    let (image, block, row, pixel) = (b.var(), b.var(), b.var(), b.var());
    let full = |v: &&Blocked| (v.h, v.w) == (dst.h, dst.w);
    let flat = dst.is_flat() && bottoms.iter().filter(full).all(Blocked::is_flat);
    let (rows, pixels) = if flat {
        (1, dst.h * dst.w)
    } else {
        (dst.h, dst.w)
    };
    let at = |v: &Blocked| Addr {
        buffer: v.buffer,
        offset: v
            .plane(image, block)
            .plus(row, v.row)
            .plus(pixel, BLOCK as i64),
    };
    let name = node.name.clone();
    let value = translate(expr, &mut |leaf| match leaf {
        Pointwise::Bottom(n) => Expr::Load(at(&bottoms[*n])),
        Pointwise::BottomAt { bottom, .. } => {
            let v = &bottoms[*bottom];
            let offset = v.plane(image, block);
            Expr::Load(Addr {
                buffer: v.buffer,
                offset,
            })
        }
        Pointwise::Broadcast(v) if v.values.len() == 1 => Expr::Const(v.values[0]),
        Pointwise::Broadcast(v) => {
            let mut addr = b.vector(&name, &v.values);
            addr.offset = addr.offset.plus(block, BLOCK as i64);
            Expr::Load(addr)
        }
        _ => unreachable!("leaves only"),
    })?;
    let map = Stmt::Map {
        lanes: BLOCK as u32,
        dst: at(&dst),
        value,
    };
    let mut line = for_loop(pixel, pixels, vec![map]);
    if let Some(root) = root {
        let offset = dst.plane(image, block).plus(row, dst.row);
        line.push(unary_call(
            root,
            Addr {
                buffer: dst.buffer,
                offset,
            },
            pixels * BLOCK,
        ));
    }
    let weight = if root.is_some() { 4 } else { 1 };
    let region = Region {
        tasks: vec![(image, dst.n as u32), (block, dst.blocks() as u32)],
        body: for_loop(row, rows, line),
        cost: (dst.h * dst.w) as u64 * weight + 1,
    };
    let about = format!("element-wise: {}", b.graph.shape(top));
    b.step(node.layers.clone(), about, vec![region], 0, b.traffic(node));
    let zero = at_zero(expr);
    let zero = root.map_or(zero, |(f, [a, b, c])| f.reference(zero, a, b, c));
    // Not `zero != 0.0`: NaN must go too.
    if !(zero == 0.0)
        && let Some(region) = b.tail_fill(&dst)
    {
        b.step(node.layers.clone(), "zero lanes", vec![region], 0, 0);
    }
    Ok(())
}

/// Axes between which nothing but whole stretches of memory is addressed: for each
/// loop, the axes that it runs over.
fn loops(shape: &Shape, expr: &Pointwise, small: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let mut cuts = vec![0, shape.len()];
    for leaf in leaves(expr) {
        match leaf {
            Pointwise::Broadcast(v) if v.values.len() > 1 => cuts.extend([v.axis, v.axis + v.axes]),
            Pointwise::BottomAt { bottom, axis } => cuts.extend([*axis, axis + small(*bottom)]),
            _ => {}
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|w| w[0]..w[1]).collect()
}

fn plain(b: &mut Builder, node: &Node, top: BlobId, expr: &Pointwise, root: Root) -> Result<()> {
    let mut bottoms = Vec::new();
    for &bottom in &node.bottoms {
        bottoms.push(b.plain(bottom)?);
    }
    let dst = b.alloc_plain(top)?;
    let shape = b.graph.shape(top).clone();
    let axes_of = |n: usize| b.graph.shape(node.bottoms[n]).covering();
    let mut ranges = loops(&shape, expr, axes_of);
    let last = ranges.pop().unwrap_or(0..0);
    let outer: Vec<_> = ranges.into_iter().map(|range| (b.var(), range)).collect();
    let len = shape.count_of(last.clone());
    let mut regions = Vec::new();
    for (lanes, first, count) in [(16, 0, len / 16), (1, len / 16 * 16, len % 16)] {
        if count > 0 {
            let stretch = Stretch {
                shape: &shape,
                outer: &outer,
                last: last.clone(),
                inner: b.var(),
                lanes,
                first,
                count,
            };
            let value = stretch.value(b, node, expr, &bottoms)?;
            regions.push(stretch.region(&dst, value, root));
        }
    }
    let about = format!("element-wise: {shape}");
    b.step(node.layers.clone(), about, regions, 0, b.traffic(node));
    Ok(())
}

/// Loops over all elements of a plain top, or over those that do not fill whole vectors.
struct Stretch<'a> {
    shape: &'a Shape,
    /// Axes that one loop each runs over; the tasks.
    outer: &'a [(Var, Range<usize>)],
    /// Axes that the innermost loop runs over,
    last: Range<usize>,
    inner: Var,
    /// with this many lanes, from this element on, so often.
    lanes: u32,
    first: usize,
    count: usize,
}

impl Stretch<'_> {
    /// The element's offset in a blob that has only the axes `over`.
    fn offset(&self, base: i64, over: Range<usize>) -> Affine {
        let mut offset = Affine::constant(base);
        for (var, range) in self.outer {
            if over.contains(&range.start) {
                offset = offset.plus(*var, self.shape.count_of(range.end..over.end) as i64);
            }
        }
        if over.end == self.shape.len() && over.contains(&self.last.start) {
            offset = offset
                .offset(self.first as i64)
                .plus(self.inner, self.lanes.into());
        }
        offset
    }

    /// The element's place in a blob of the top's shape.
    fn whole(&self, view: &Plain) -> Addr {
        let offset = match self.shape.len() {
            0 => Affine::constant(view.base),
            axes => self.offset(view.base, 0..axes),
        };
        Addr {
            buffer: view.buffer,
            offset,
        }
    }

    /// Reads what lies along the axes `over` from `base` on: lane by lane if the
    /// innermost loop runs over the last of them.
    fn part(&self, buffer: BufferId, base: i64, over: Range<usize>) -> Expr {
        let along = over.end == self.shape.len();
        let offset = self.offset(base, over);
        let addr = Addr { buffer, offset };
        match along {
            true => Expr::Load(addr),
            false => Expr::Splat(addr),
        }
    }

    fn value(
        &self,
        b: &mut Builder,
        node: &Node,
        expr: &Pointwise,
        bottoms: &[Plain],
    ) -> Result<Expr> {
        translate(expr, &mut |leaf| match leaf {
            Pointwise::Bottom(n) => Expr::Load(self.whole(&bottoms[*n])),
            Pointwise::BottomAt { bottom, axis } => {
                let Plain { buffer, base } = bottoms[*bottom];
                let axes = b.graph.shape(node.bottoms[*bottom]).covering();
                self.part(buffer, base, *axis..axis + axes)
            }
            Pointwise::Broadcast(v) if v.values.len() == 1 => Expr::Const(v.values[0]),
            Pointwise::Broadcast(v) => {
                let Addr { buffer, offset } = b.vector(&node.name, &v.values);
                self.part(buffer, offset.base, v.axis..v.axis + v.axes)
            }
            _ => unreachable!("leaves only"),
        })
    }

    fn region(&self, dst: &Plain, value: Expr, root: Root) -> Region {
        let to = self.whole(dst);
        let map = Stmt::Map {
            lanes: self.lanes,
            dst: to.clone(),
            value,
        };
        let mut body = for_loop(self.inner, self.count, vec![map]);
        if let Some(root) = root {
            let mut start = to;
            start.offset.terms.retain(|(var, _)| *var != self.inner);
            body.push(unary_call(root, start, self.count * self.lanes as usize));
        }
        let tasks = self.outer.iter();
        Region {
            tasks: tasks
                .map(|(var, range)| (*var, self.shape.count_of(range.clone()) as u32))
                .collect(),
            body,
            cost: self.count as u64 * 4 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Broadcast;

    #[test]
    fn loops_break_where_constants_begin_and_end() {
        let shape = Shape::new([2, 3, 4, 5]).unwrap();
        let values: Vec<f32> = vec![1.0; 3];
        let channels = Pointwise::Broadcast(Broadcast::channels(values));
        assert_eq!(loops(&shape, &channels, |_| 0), [0..1, 1..2, 2..4]);
        assert_eq!(loops(&shape, &Pointwise::Bottom(0), |_| 0).len(), 1);
    }
}
