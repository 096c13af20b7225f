//! Winograd's convolution: 3 × 3 and 5 × 5 kernels of stride 1 with fewer multiplications.
//!
//! Tiles of the source go to their values at n² points ([`Leaf::ToPoints`]); at each point
//! a matrix product over the channels, by the register tile whose pixels are tiles here;
//! then back to outputs with the epilogue ([`Leaf::FromPoints`]). Weights are transformed
//! when they are packed.
//!
//! Tiles are worked on in groups. The values of a group and their products lie in the
//! thread's scratch; weights are read once for each group. Where a map has few tiles, the
//! values of all of them are made in a step of their own, and tasks divide the output
//! channels as well.

use super::conv::{Conv, describe, window_halo};
use super::product::{EpilogueAddrs, Run, pack_points};
use super::tile::{self, TileCall, TileKind};
use super::view::{Blocked, Halo};
use super::{Builder, Convolutions, Options, for_loop};
use crate::diag::Result;
use crate::ir::{Graph, Node};
use crate::kernel::{Addr, Affine, Arg, BufferId, Region, Stmt, Var};
use crate::leaf::{Activation, BLOCK, Isa, Leaf, winograd_tiles};
use std::fmt;

/// Blocks of channels that are summed in one accumulator, by the number of points: long
/// sums lose as much as the transforms do, and the weights of so many stay in the
/// first-level cache.
fn longest_sum(n: usize) -> usize {
    if n > 6 { 4 } else { 8 }
}

/// How a convolution is cut into tiles, and those into tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    /// Sides of a tile: of its points, and of its outputs.
    n: usize,
    m: usize,
    /// Rows and columns of tiles of a map.
    tiles: [usize; 2],
    /// Images, rows and columns of tiles that are worked on together. Parts of a row are
    /// of one row, parts of a map of one image.
    group: [usize; 3],
    /// Blocks of output channels whose products are kept before they become outputs.
    blocks: usize,
    /// Values are made in a step of their own, and blocks are tasks.
    staged: bool,
}

/// The ways to compute a convolution that the options allow, each with its cycles by the
/// model: directly (none), which is the first if it is allowed, and by Winograd's algorithm.
pub fn ways(graph: &Graph, options: &Options, conv: &Conv) -> Vec<(f64, Option<Winograd>)> {
    let [src, dst] = [conv.src, conv.dst].map(|blob| graph.shape(blob));
    let simple = (conv.axis, conv.outer.len(), src.len()) == (1, 0, 4);
    let dense = (conv.stride, conv.dilation) == ([1, 1], [1, 1]) && !conv.is_depthwise();
    let square = conv.kernel[0] == conv.kernel[1];
    let sides = winograd_tiles(conv.kernel[0]);
    let possible = simple && dense && square && dst.count() > 0 && !sides.is_empty();
    if !possible || options.convolutions == Convolutions::Direct {
        return vec![(0.0, None)];
    }
    let inputs = conv.inputs / conv.group;
    let layer = Layer {
        images: dst[0],
        size: [dst[2], dst[3]],
        source: conv.inputs.div_ceil(BLOCK),
        inputs: inputs.div_ceil(BLOCK),
        outputs: conv.outputs.div_ceil(BLOCK),
        sums: match conv.has_few_inputs() {
            true => conv.sums(),
            false => conv.sums() / inputs * inputs.next_multiple_of(BLOCK),
        },
    };
    let plans = sides
        .iter()
        .flat_map(|&(n, m)| layer.plans(n.into(), m.into()));
    let plans = plans.map(|plan| (layer.cost(&plan), Some(plan)));
    let direct = match options.convolutions {
        Convolutions::Winograd => None,
        _ => Some((layer.direct_cost(), None)),
    };
    direct.into_iter().chain(plans).collect()
}

impl fmt::Display for Winograd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [images, rows, columns] = self.group;
        write!(
            f,
            "Winograd {0}x{0}, tiles {images}x{rows}x{columns}, ",
            self.m
        )?;
        let staged = if self.staged { ", staged" } else { "" };
        write!(f, "{} blocks{staged}", self.blocks)
    }
}

/// Bytes that a core gets in a cycle from memory, from the third- and from the
/// second-level cache.
const MEMORY: f64 = 7.0;
const L3: f64 = 12.0;
const L2: f64 = 32.0;

/// What stays in the third- and in the second-level cache beside other data.
const L3_BYTES: f64 = 16e6;
const L2_BYTES: f64 = 640e3;

/// What the model of costs knows of a convolution: sizes in blocks of channels. It is the
/// same for all instruction sets, as packed weights are.
struct Layer {
    images: usize,
    /// Rows and columns of the outputs.
    size: [usize; 2],
    source: usize,
    /// Those that an output is made of.
    inputs: usize,
    outputs: usize,
    /// Products in a sum of the direct convolution, with those of missing channels.
    sums: usize,
}

impl Layer {
    /// Ways to cut it into tasks.
    fn plans(&self, n: usize, m: usize) -> Vec<Winograd> {
        let tiles = self.size.map(|size| size.div_ceil(m));
        let mut plans = Vec::new();
        for most in [7, 14, 28, 42, 56] {
            for staged in [false, true] {
                plans.push(Winograd {
                    n,
                    m,
                    tiles,
                    group: self.group(tiles, most),
                    blocks: self.outputs.min(2),
                    staged,
                });
            }
        }
        plans
    }

    /// At most so many tiles that lie together, in groups as equal as can be.
    fn group(&self, [rows, columns]: [usize; 2], most: usize) -> [usize; 3] {
        let equal = |total: usize, most: usize| total.div_ceil(total.div_ceil(most.max(1)));
        if columns >= most {
            [1, 1, equal(columns, most)]
        } else if rows * columns >= most {
            [1, equal(rows, most / columns), columns]
        } else {
            [equal(self.images, most / (rows * columns)), rows, columns]
        }
    }

    /// Cycles of one core, roughly. Weights are fetched while others are multiplied.
    fn cost(&self, w: &Winograd) -> f64 {
        let whole = [self.images, w.tiles[0], w.tiles[1]];
        let groups: usize = whole
            .iter()
            .zip(w.group)
            .map(|(&all, one)| all.div_ceil(one))
            .product();
        let tiles = whole.iter().product::<usize>() as f64;
        let in_group = w.group.iter().product::<usize>();
        let chunks = self.outputs.div_ceil(w.blocks);
        let block = (w.n * w.n * BLOCK) as f64;
        let tasks = match w.staged {
            true => groups * chunks,
            false => groups,
        };
        let [groups, chunks, tasks] = [groups, chunks, tasks].map(|n| n as f64);
        let [source, inputs, outputs] = [self.source, self.inputs, self.outputs].map(|n| n as f64);

        let weights = 4.0 * BLOCK as f64 * block * inputs * outputs;
        let values = 4.0 * block * source * in_group as f64;
        let products = 4.0 * block * (w.blocks * in_group) as f64;
        let line = tile::cycles(Isa::Avx512, in_group, w.blocks);
        let multiply = 1.1 * block * inputs * line * chunks * groups;
        let rate = match weights {
            _ if weights + values + products <= L2_BYTES => L2,
            _ if weights <= L3_BYTES => L3,
            _ => MEMORY,
        };
        let read_weights = weights / L2 + (groups - 1.0) * weights / rate;
        let rate = if values <= L2_BYTES / 2.0 { L2 } else { L3 };
        let reread = match w.staged {
            true => chunks + 1.0,
            false if values + products <= L2_BYTES => 0.0,
            false => chunks,
        };
        let read_values = reread * groups * values / rate;
        let (to, from) = transform_cycles(w.n);
        let transform = tiles * (source * to + outputs * from);
        // A part of what four cores lose when tasks do not divide evenly.
        let uneven = 0.7 + 0.3 * (tasks / 4.0).ceil() * 4.0 / tasks;
        let work = (multiply + read_weights + read_values + transform) * uneven;
        work.max(weights / MEMORY)
    }

    fn direct_cost(&self) -> f64 {
        let pixels = (self.images * self.size[0] * self.size[1]) as f64;
        let weights = (self.sums * self.outputs * BLOCK) as f64;
        let multiply = 1.1 * weights * pixels / 32.0;
        multiply.max(4.0 * weights / MEMORY)
    }
}

/// Cycles for a tile of a channel block: to points, and back.
fn transform_cycles(n: usize) -> (f64, f64) {
    match n {
        4 => (40.0, 40.0),
        6 => (100.0, 110.0),
        _ => (200.0, 130.0),
    }
}

impl Winograd {
    /// The zeros that the tiles read around the source.
    pub fn halo(&self, graph: &Graph, conv: &Conv) -> Halo {
        let src = &graph.shape(conv.src)[2..];
        let reach = self.tiles.map(|tiles| tiles * self.m);
        window_halo(src, &reach, &conv.kernel, &[1, 1], &conv.pad, &[1, 1])
    }
}

/// Where values at points lie: `[point][block][tile][16]`.
struct Values {
    buffer: BufferId,
    point: usize,
    block: usize,
    /// From group to group along images, rows and columns of tiles, by tile.
    outer: [i64; 3],
    /// From image to image and from row to row in a group.
    inner: [i64; 2],
}

impl Values {
    /// Those of `tiles` tiles of one group.
    fn of_group(buffer: BufferId, group: &Group, blocks: usize) -> Values {
        let tiles = group.tiles();
        let [_, rows, columns] = group.parts.map(|p| (p.size * BLOCK) as i64);
        Values {
            buffer,
            point: point_stride(blocks, tiles),
            block: tiles * BLOCK,
            outer: [0; 3],
            inner: [rows / BLOCK as i64 * columns, columns],
        }
    }
}

/// The distance of points: an odd number of blocks, or the points of a tile would meet in
/// few sets of the caches.
fn point_stride(blocks: usize, tiles: usize) -> usize {
    ((blocks * tiles) | 1) * BLOCK
}

/// `count` times `size`, from `first` on.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    count: usize,
    size: usize,
}

impl Part {
    fn is_last(&self, total: usize) -> bool {
        self.first + self.count * self.size == total
    }
}

/// `total` in parts of `size`; the last one by itself where it is smaller or other.
fn parts(total: usize, size: usize, last_is_other: bool) -> impl Iterator<Item = Part> {
    let count = match last_is_other {
        true => total.div_ceil(size) - 1,
        false => total / size,
    };
    let part = |first, count, size| Part { first, count, size };
    let rest = count * size;
    let all = [part(0, count, size), part(rest, 1, total - rest)];
    all.into_iter().filter(|p| p.count * p.size > 0)
}

/// Tiles that are worked on together: so many images, rows and columns, each with the
/// variable that counts them.
struct Group {
    parts: [Part; 3],
    vars: [Var; 3],
}

impl Group {
    fn tiles(&self) -> usize {
        self.parts.iter().map(|p| p.size).product()
    }

    fn tasks(&self) -> Vec<(Var, u32)> {
        let counts = self.parts.iter().map(|p| p.count as u32);
        self.vars.into_iter().zip(counts).collect()
    }

    /// Where the first tile is, if tiles lie so far apart.
    fn first(&self, base: i64, steps: [i64; 3]) -> Affine {
        let mut at = Affine::constant(base);
        for ((part, &var), step) in self.parts.iter().zip(&self.vars).zip(steps) {
            at = at
                .offset(part.first as i64 * step)
                .plus(var, part.size as i64 * step);
        }
        at
    }
}

/// A row of tiles of a group: those of `first` + `row` of image `image`.
#[derive(Clone, Copy)]
struct Row {
    image: Var,
    first: usize,
    row: Var,
}

impl Row {
    fn in_blob(&self, group: &Group, base: i64, steps: [i64; 3]) -> Affine {
        self.moved(group.first(base, steps), [steps[0], steps[1]])
    }

    fn in_values(&self, group: &Group, values: &Values) -> Affine {
        self.moved(group.first(0, values.outer), values.inner)
    }

    fn moved(&self, first: Affine, [image, row]: [i64; 2]) -> Affine {
        first
            .offset(self.first as i64 * row)
            .plus(self.image, image)
            .plus(self.row, row)
    }
}

/// What all groups have in common.
struct Nest<'a> {
    w: &'a Winograd,
    src: Blocked,
    /// The first pixel of the first tile.
    first: i64,
    dst: Blocked,
    residual: Option<Blocked>,
    epilogue: EpilogueAddrs,
    weights: BufferId,
    zeros: Addr,
}

/// Lowers a convolution.
pub fn lower(b: &mut Builder, node: &Node, conv: &Conv, w: &Winograd) -> Result<()> {
    let src = b.blocked_with(conv.src, w.halo(b.graph, conv))?;
    let residual = match node.epilogue.residual {
        true => Some(b.blocked(*node.bottoms.last().expect("a residual is a bottom"))?),
        false => None,
    };
    let dst = b.alloc_blocked(conv.dst)?;
    let epilogue = EpilogueAddrs::new(b, node, conv.bias, conv.outputs);
    let (weights, runs) = pack_points(b, node, conv, w.n);
    let nest = Nest {
        w,
        first: src.base - conv.pad[0] as i64 * src.row - (conv.pad[1] * BLOCK) as i64,
        src,
        dst,
        residual,
        epilogue,
        weights,
        zeros: b.vector("zeros", &vec![0.0; conv.outputs]),
    };
    let kind = format!("Winograd {0}x{0} convolution", w.m);
    let about = describe(&kind, b.graph, conv);
    let values = match w.staged {
        true => Some(nest.stage(b, node, conv, &about)?),
        false => None,
    };
    let regions = nest.regions(b, &runs, values.as_ref());
    let macs = (dst.n * dst.h * dst.w * conv.outputs * conv.sums()) as u64;
    b.step(node.layers.clone(), about, regions, macs, b.traffic(node));
    Ok(())
}

impl Nest<'_> {
    /// A step that makes the values of all tiles.
    fn stage(&self, b: &mut Builder, node: &Node, conv: &Conv, about: &str) -> Result<Values> {
        let [rows, columns] = self.w.tiles;
        let blocks = self.src.blocks();
        let tiles = self.src.n * rows * columns;
        let point = point_stride(blocks, tiles);
        let len = point.checked_mul(self.w.n * self.w.n);
        let name = format!("{} values", b.graph[conv.src].name);
        let row = (columns * BLOCK) as i64;
        let values = Values {
            buffer: b.arena(&name, len)?,
            point,
            block: tiles * BLOCK,
            outer: [rows as i64 * row, row, BLOCK as i64],
            inner: [0; 2],
        };
        let part = |count, size| Part {
            first: 0,
            count,
            size,
        };
        let group = Group {
            parts: [part(self.src.n, 1), part(rows, 1), part(1, columns)],
            vars: [b.var(), b.var(), b.var()],
        };
        let block = b.var();
        let mut tasks = group.tasks();
        tasks.push((block, blocks as u32));
        let body = self.make_values(b, &group, &values, block);
        let cost = (self.w.n * self.w.n * columns) as u64;
        let traffic = 4 * (b.graph.shape(conv.src).count() + len.unwrap_or(0)) as u64;
        let region = Region { tasks, body, cost };
        b.step(
            node.layers.clone(),
            format!("{about}, values"),
            vec![region],
            0,
            traffic,
        );
        Ok(values)
    }

    /// All groups of tiles, and all blocks of output channels.
    fn regions(&self, b: &mut Builder, runs: &[Run], staged: Option<&Values>) -> Vec<Region> {
        let w = self.w;
        let [images, rows, columns] = w.group;
        let partial = [self.dst.h, self.dst.w].map(|size| size % w.m != 0);
        let mut regions = Vec::new();
        for image in parts(self.dst.n, images, false) {
            for row in parts(w.tiles[0], rows, partial[0]) {
                for column in parts(w.tiles[1], columns, partial[1]) {
                    let group = Group {
                        parts: [image, row, column],
                        vars: [b.var(), b.var(), b.var()],
                    };
                    match staged {
                        Some(values) => regions.extend(self.block_tasks(b, &group, values, runs)),
                        None => regions.push(self.group_tasks(b, &group, runs)),
                    }
                }
            }
        }
        regions
    }

    /// Tasks of groups, which make their values themselves.
    fn group_tasks(&self, b: &mut Builder, group: &Group, runs: &[Run]) -> Region {
        let (points, blocks) = (self.w.n * self.w.n, self.src.blocks());
        let len = points * point_stride(blocks, group.tiles());
        let buffer = b.scratch("values", 0, len);
        let values = Values::of_group(buffer, group, blocks);
        let block = b.var();
        let body = self.make_values(b, group, &values, block);
        let mut body = for_loop(block, blocks, body);
        let products = self.products(b, group, len);
        let mut cost = 0;
        for chunk in self.chunks(runs) {
            let var = b.var();
            let inner = self.chunk(b, group, &values, &products, &chunk, var);
            body.extend(for_loop(var, chunk.part.count, inner));
            cost += chunk.cost(group) * chunk.part.count as u64;
        }
        Region {
            tasks: group.tasks(),
            body,
            cost,
        }
    }

    /// Tasks of groups and of blocks of output channels.
    fn block_tasks(
        &self,
        b: &mut Builder,
        group: &Group,
        values: &Values,
        runs: &[Run],
    ) -> Vec<Region> {
        let region = |chunk: Chunk| {
            let var = b.var();
            let products = self.products(b, group, 0);
            let body = self.chunk(b, group, values, &products, &chunk, var);
            let mut tasks = vec![(var, chunk.part.count as u32)];
            tasks.extend(group.tasks());
            Region {
                tasks,
                body,
                cost: chunk.cost(group),
            }
        };
        self.chunks(runs).into_iter().map(region).collect()
    }

    fn chunks(&self, runs: &[Run]) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut weights = 0;
        for run in runs {
            let inputs = run.inputs.div_ceil(BLOCK);
            let weight_stride = self.w.n * self.w.n * inputs * BLOCK * BLOCK;
            for part in parts(run.blocks, self.w.blocks, false) {
                chunks.push(Chunk {
                    weights: weights + part.first * weight_stride,
                    weight_stride,
                    part: Part {
                        first: run.first + part.first,
                        ..part
                    },
                    first_input: run.first_input / BLOCK,
                    inputs,
                });
            }
            weights += run.blocks * weight_stride;
        }
        chunks
    }

    /// Values of the source at all points, for a channel block of a group.
    fn make_values(
        &self,
        b: &mut Builder,
        group: &Group,
        values: &Values,
        block: Var,
    ) -> Vec<Stmt> {
        let Winograd { n, m, .. } = *self.w;
        let [images, rows, columns] = group.parts.map(|p| p.size);
        let row = Row {
            image: b.var(),
            first: 0,
            row: b.var(),
        };
        let step = (m * BLOCK) as i64;
        let steps = [self.src.image, m as i64 * self.src.row, step];
        let from = row
            .in_blob(group, self.first, steps)
            .plus(block, self.src.block);
        let to = row
            .in_values(group, values)
            .plus(block, values.block as i64);
        let call = Stmt::Call {
            leaf: Leaf::ToPoints { n: n as u8 },
            args: vec![
                b.at(self.src.buffer, from),
                b.at(values.buffer, to),
                Arg::Len(columns),
                Arg::Len(self.src.row as usize),
                Arg::Len(m * BLOCK),
                Arg::Len(values.point),
            ],
        };
        for_loop(row.image, images, for_loop(row.row, rows, vec![call]))
    }

    /// Room in the scratch from `start` on for the products of a group with the weights
    /// of a chunk.
    fn products(&self, b: &mut Builder, group: &Group, start: usize) -> Values {
        let len = self.w.n * self.w.n * point_stride(self.w.blocks, group.tiles());
        let buffer = b.scratch("products", start, len);
        Values::of_group(buffer, group, self.w.blocks)
    }

    /// Products with the weights of some blocks of output channels, and the outputs they
    /// make. `var` counts chunks.
    fn chunk(
        &self,
        b: &mut Builder,
        group: &Group,
        values: &Values,
        products: &Values,
        chunk: &Chunk,
        var: Var,
    ) -> Vec<Stmt> {
        let (point, block) = (b.var(), b.var());
        let body = self.multiply(b, group, values, products, chunk, [var, point]);
        let mut stmts = for_loop(point, self.w.n * self.w.n, body);
        let body = self.make_outputs(b, group, products, chunk, [var, block]);
        stmts.extend(for_loop(block, chunk.part.size, body));
        stmts
    }

    fn multiply(
        &self,
        b: &mut Builder,
        group: &Group,
        values: &Values,
        products: &Values,
        chunk: &Chunk,
        [var, point]: [Var; 2],
    ) -> Vec<Stmt> {
        let (tiles, size) = (group.tiles(), chunk.part.size);
        let src = group
            .first((chunk.first_input * values.block) as i64, values.outer)
            .plus(point, values.point as i64);
        let weights = Affine::constant(chunk.weights as i64)
            .plus(var, (size * chunk.weight_stride) as i64)
            .plus(point, (chunk.inputs * BLOCK * BLOCK) as i64);
        let dst = Affine::constant(0).plus(point, products.point as i64);
        let dst = Addr {
            buffer: products.buffer,
            offset: dst,
        };
        let sums = chunk
            .inputs
            .div_ceil(chunk.inputs.div_ceil(longest_sum(self.w.n)));
        let mut stmts = Vec::new();
        for (nb, first, count) in tile::choose(b.isa(), TileKind::Blocked, tiles, size, BLOCK) {
            let tile = b.var();
            let mut body = Vec::new();
            for part in parts(chunk.inputs, sums, false) {
                for at in 0..part.count {
                    let begin = part.first + at * part.size;
                    let offsets = (0..part.size).map(|i| (i * values.block) as i32);
                    let call = TileCall {
                        kind: TileKind::Blocked,
                        src: Addr {
                            buffer: values.buffer,
                            offset: src.clone().offset((begin * values.block) as i64),
                        },
                        weights: Addr {
                            buffer: self.weights,
                            offset: weights.clone().offset((begin * BLOCK * BLOCK) as i64),
                        },
                        bias: self.zeros.clone(),
                        residual: (begin > 0).then(|| dst.clone()),
                        slopes: None,
                        dst: dst.clone(),
                        offsets: b.table(offsets.collect()),
                        segments: part.size,
                        src_stride: 0,
                        weight_stride: chunk.weight_stride,
                        dst_stride: products.block,
                        residual_stride: products.block,
                        src_px: BLOCK,
                        dst_px: BLOCK,
                        activation: Activation::None,
                        slope: 0.0,
                        ahead: None,
                    };
                    let call = call.blocks_on(first, tile, nb);
                    let call = call.fetching_on(b.isa(), tiles, nb);
                    body.extend(b.line(&call, tiles, nb));
                }
            }
            stmts.extend(for_loop(tile, count, body));
        }
        stmts
    }

    /// Outputs of a channel block of a group; those beyond the map are left out.
    fn make_outputs(
        &self,
        b: &mut Builder,
        group: &Group,
        products: &Values,
        chunk: &Chunk,
        [var, block]: [Var; 2],
    ) -> Vec<Stmt> {
        let Winograd { n, m, tiles, .. } = *self.w;
        let [images, rows, columns] = group.parts.map(|p| p.size);
        let width = match group.parts[2].is_last(tiles[1]) {
            true => columns * m - (tiles[1] * m - self.dst.w),
            false => columns * m,
        };
        let partial = match group.parts[1].is_last(tiles[0]) {
            true => self.dst.h % m,
            false => 0,
        };
        let whole = rows - usize::from(partial > 0);
        let first_block = chunk.part.first as i64;
        let on_block = |at: Affine, step: i64| {
            at.offset(first_block * step)
                .plus(var, chunk.part.size as i64 * step)
                .plus(block, step)
        };
        let constants = |addr: &Addr| {
            Arg::Addr(Addr {
                buffer: addr.buffer,
                offset: on_block(addr.offset.clone(), BLOCK as i64),
            })
        };
        let mut stmts = Vec::new();
        for (first, rows, height) in [(0, whole, m), (whole, 1, partial)] {
            if rows * height == 0 {
                continue;
            }
            let row = Row {
                image: b.var(),
                first,
                row: b.var(),
            };
            let pixels = |view: &Blocked| {
                let steps = [view.image, m as i64 * view.row, (m * BLOCK) as i64];
                let offset = on_block(row.in_blob(group, view.base, steps), view.block);
                Arg::Addr(Addr {
                    buffer: view.buffer,
                    offset,
                })
            };
            let from = row
                .in_values(group, products)
                .plus(block, products.block as i64);
            let residual = self.residual.as_ref();
            let slopes = self.epilogue.slopes.as_ref();
            let args = vec![
                b.at(products.buffer, from),
                constants(&self.epilogue.bias),
                residual.map_or(Arg::Null, pixels),
                slopes.map_or(Arg::Null, constants),
                pixels(&self.dst),
                Arg::Len(columns),
                Arg::Len(products.point),
                Arg::Len(height),
                Arg::Len(width),
                Arg::Len(self.dst.row as usize),
                Arg::Len(residual.map_or(0, |r| r.row as usize)),
                Arg::Len(self.epilogue.activation as usize),
                Arg::F32(self.epilogue.slope),
            ];
            let leaf = Leaf::FromPoints {
                n: n as u8,
                m: m as u8,
            };
            let call = vec![Stmt::Call { leaf, args }];
            stmts.extend(for_loop(row.image, images, for_loop(row.row, rows, call)));
        }
        stmts
    }
}

/// Blocks of output channels whose products are kept together.
struct Chunk {
    /// In blocks, of all.
    part: Part,
    /// Input channels that they read, in blocks.
    first_input: usize,
    inputs: usize,
    /// The first weight, and the distance of blocks.
    weights: usize,
    weight_stride: usize,
}

impl Chunk {
    /// Nanoseconds, roughly, as in other steps.
    fn cost(&self, group: &Group) -> u64 {
        (self.weight_stride / BLOCK * self.part.size * group.tiles()) as u64 / 4 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(total: usize, size: usize, last_is_other: bool) -> Vec<(usize, usize, usize)> {
        let parts = parts(total, size, last_is_other);
        parts.map(|p| (p.first, p.count, p.size)).collect()
    }

    #[test]
    fn parts_cover_all_once() {
        assert_eq!(covered(14, 2, false), [(0, 7, 2)]);
        assert_eq!(covered(14, 2, true), [(0, 6, 2), (12, 1, 2)]);
        assert_eq!(covered(7, 3, false), [(0, 2, 3), (6, 1, 1)]);
        assert_eq!(covered(7, 3, true), [(0, 2, 3), (6, 1, 1)]);
        assert_eq!(covered(3, 3, true), [(0, 1, 3)]);
    }

    fn layer(images: usize, side: usize, [inputs, outputs]: [usize; 2], kernel: usize) -> Layer {
        Layer {
            images,
            size: [side, side],
            source: inputs.div_ceil(BLOCK),
            inputs: inputs.div_ceil(BLOCK),
            outputs: outputs.div_ceil(BLOCK),
            sums: inputs * kernel * kernel,
        }
    }

    #[test]
    fn groups_are_parts_of_rows_then_of_maps_then_of_batches() {
        let l = layer(16, 56, [64, 64], 3);
        assert_eq!(l.group([56, 56], 28), [1, 1, 28]);
        assert_eq!(l.group([14, 14], 28), [1, 2, 14]);
        assert_eq!(l.group([14, 14], 42), [1, 3, 14]);
        assert_eq!(l.group([4, 4], 56), [3, 4, 4]);
        assert_eq!(l.group([2, 2], 7), [1, 2, 2]);
    }

    fn pays(layer: &Layer, kernel: usize) -> bool {
        let sides = winograd_tiles(kernel).iter();
        let plans = sides.flat_map(|&(n, m)| layer.plans(n.into(), m.into()));
        plans
            .map(|p| layer.cost(&p))
            .any(|cost| cost < layer.direct_cost())
    }

    #[test]
    fn it_pays_for_deep_layers_on_large_maps() {
        assert!(pays(&layer(1, 56, [256, 256], 3), 3));
        assert!(pays(&layer(1, 27, [96, 256], 5), 5));
        assert!(!pays(&layer(1, 224, [3, 64], 3), 3));
        assert!(!pays(&layer(1, 3, [512, 512], 3), 3));
    }
}
