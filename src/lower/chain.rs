//! Convolution → 1×1 → 1×1 as one loop nest: a few rows of the first convolution's
//! outputs go through all of them while they are in cache.
//!
//! Intermediates live in the thread's scratch as `[channel block][pixel][16]`. What it
//! saves is writing and reading the intermediate blobs; what it costs is reading all
//! weights, and source rows that windows share, again for every few rows, and tasks that
//! divide less evenly. [`cut`] weighs them for every way to cut a chain into runs.

use super::conv::{Conv, addr};
use super::product::{EpilogueAddrs, pack_weights};
use super::source::{self, Source};
use super::tile::{self, TileCall, TileKind};
use super::view::Blocked;
use super::{Builder, Chains, for_loop};
use crate::diag::Result;
use crate::ir::{Graph, Node, NodeId};
use crate::kernel::{Addr, Region, Stmt, Var};
use crate::layers::Op;
use crate::leaf::BLOCK;
use crate::summary::human_bytes;

/// Intermediates of a task should take at most this.
const SCRATCH_BYTES: usize = 384 << 10;

/// What a second- and a third-level cache hold beside other data.
const L2_BYTES: usize = 640 << 10;
const L3_BYTES: usize = 16 << 20;

/// What one core does in a nanosecond, and what a task costs beside that: its first bytes
/// come from far away.
const MACS_IN_NANOSECOND: f64 = 120.0;
const TASK_NANOSECONDS: f64 = 1000.0;

/// Bytes in a nanosecond: from the second-level cache; from farther away; of a few rows here
/// and there, which come late; and of blobs that are written and read from end to end, most
/// of which the multiply-adds hide.
const NEAR_RATE: f64 = 80.0;
const FAR_RATE: f64 = 20.0;
const ROWS_RATE: f64 = 12.0;
const BLOB_RATE: f64 = 75.0;

/// The share of the work that a run must save: the model knows no better.
const LEAST_GAIN: f64 = 0.01;

/// Numbers of rows that the model looks at, beside the largest.
const MOST_TRIED: usize = 63;

/// Nodes of the longest run: longer ones gain nothing more, and the search for the
/// best way to cut a chain stays linear in its length.
const LONGEST: usize = 16;

/// Tasks that a run must have, so that several threads have something to do.
const LEAST_TASKS: usize = 4;

/// Nodes of the longest chain of which all cuts are measured, and rows at a time.
const MOST_MEASURED: usize = 4;
const ROWS_MEASURED: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28];

/// Nodes that become one loop nest.
#[derive(Clone, Debug)]
pub struct Run {
    pub nodes: Vec<NodeId>,
    /// Output rows that go through it together, if it has several nodes.
    pub rows: usize,
}

impl Run {
    pub fn of_one(node: NodeId) -> Run {
        Run {
            nodes: vec![node],
            rows: 0,
        }
    }
}

/// The convolution of a node of a chain.
pub fn conv(graph: &Graph, id: NodeId) -> Option<Conv> {
    match &graph[id].op {
        Op::Convolution(layer) => Some(layer.conv(graph, &graph[id], 0)),
        _ => None,
    }
}

/// Whether nodes that follow each other can be a run. Of grouped convolutions only
/// depthwise ones have the loops of this nest; a residual is added by the last one only.
fn legal(graph: &Graph, nodes: &[NodeId]) -> bool {
    let simple =
        |&id: &NodeId| conv(graph, id).is_some_and(|conv| conv.group == 1 || conv.is_depthwise());
    let sums = |&id: &NodeId| graph[id].epilogue.residual;
    let some = graph.shape(graph[nodes[0]].tops[0]).count() > 0;
    let inner = &nodes[..nodes.len() - 1];
    inner.is_empty() || some && nodes.iter().all(simple) && !inner.iter().any(sums)
}

/// The chain in runs, by the largest sum of gains. `taken`: nodes with loops of their own.
pub fn cut(
    graph: &Graph,
    chain: &[NodeId],
    chains: Chains,
    taken: impl Fn(NodeId) -> bool,
) -> Vec<Run> {
    let worth = |start: usize, end: usize| -> Option<(f64, Run)> {
        let nodes = &chain[start..end];
        if nodes.len() == 1 {
            return Some((0.0, Run::of_one(nodes[0])));
        }
        if !legal(graph, nodes) || nodes.iter().any(|&id| taken(id)) {
            return None;
        }
        let best = Estimate::best(graph, nodes);
        let gain = match chains {
            Chains::Always => (nodes.len() * nodes.len()) as f64,
            Chains::WhereItPays if best.pays() => best.gain,
            Chains::WhereItPays => return None,
        };
        let run = Run {
            nodes: nodes.to_vec(),
            rows: best.rows,
        };
        Some((gain, run))
    };
    // best[i]: the best way to cut the first i nodes, as (gain, the last run).
    let mut best: Vec<(f64, Option<Run>)> = vec![(0.0, None)];
    for end in 1..=chain.len() {
        let runs = (end.saturating_sub(LONGEST)..end).filter_map(|start| {
            let (gain, run) = worth(start, end)?;
            Some((best[start].0 + gain, Some(run)))
        });
        let choice = runs.max_by(|a, b| a.0.total_cmp(&b.0));
        best.push(choice.expect("a run of one node is always possible"));
    }
    let mut runs = Vec::new();
    let mut end = chain.len();
    while let Some(run) = best[end].1.take() {
        end -= run.nodes.len();
        runs.push(run);
    }
    runs.reverse();
    runs
}

/// Ways to cut a chain that are worth measuring: all nodes apart and, of short chains, all
/// others, with several numbers of rows.
pub fn cuts(graph: &Graph, chain: &[NodeId]) -> Vec<Vec<Run>> {
    let places = match chain.len() {
        n if n <= MOST_MEASURED => n - 1,
        _ => 0,
    };
    let mut cuts = Vec::new();
    for together in 0..1_u32 << places {
        let mut pieces: Vec<Vec<NodeId>> = Vec::new();
        for (i, &id) in chain.iter().enumerate() {
            match pieces.last_mut() {
                Some(piece) if together >> (i - 1) & 1 == 1 => piece.push(id),
                _ => pieces.push(vec![id]),
            }
        }
        if !pieces.iter().all(|piece| legal(graph, piece)) {
            continue;
        }
        let fused = pieces.iter().any(|piece| piece.len() > 1);
        let rows = if fused { ROWS_MEASURED } else { &[0] };
        for &rows in rows {
            let run = |nodes: &Vec<NodeId>| Run {
                nodes: nodes.clone(),
                rows: if nodes.len() > 1 { rows } else { 0 },
            };
            let cut: Vec<Run> = pieces.iter().map(run).collect();
            let sensible = |run: &Run| {
                run.nodes.len() == 1
                    || Estimate::of(graph, &run.nodes, run.rows).tasks >= LEAST_TASKS
            };
            if cut.iter().all(sensible) {
                cuts.push(cut);
            }
        }
    }
    cuts
}

/// What fusing a run saves and what it costs, by the model.
struct Estimate {
    rows: usize,
    height: usize,
    /// Bytes of the intermediates, and of the weights.
    intermediates: usize,
    weights: usize,
    /// Each reads the weights.
    tasks: usize,
    /// Nanoseconds: what it saves less what it costs, and what it must save to be worth it.
    gain: f64,
    least: f64,
}

impl Estimate {
    /// That of the best number of rows.
    fn best(graph: &Graph, nodes: &[NodeId]) -> Estimate {
        let shape = |id: NodeId| graph.shape(graph[id].tops[0]);
        let [_, _, h, w] = shape(nodes[0]).nchw().unwrap_or([1; 4]);
        let channels = |&id: &NodeId| shape(id)[1].next_multiple_of(BLOCK);
        let widest = nodes[..nodes.len() - 1].iter().map(channels).max();
        // Two stages' results are there at a time.
        let row_bytes = 2 * 4 * widest.unwrap_or(BLOCK) * w;
        let most = (SCRATCH_BYTES / row_bytes.max(1)).clamp(1, h.max(1));
        let fewest = h.div_ceil(most).max(1);
        let blocks = fewest..=h.clamp(fewest, fewest + MOST_TRIED);
        let estimates = blocks.map(|n| Estimate::of(graph, nodes, h.div_ceil(n).max(1)));
        let best = estimates.max_by(|a, b| a.gain.total_cmp(&b.gain));
        best.expect("at least one number of blocks")
    }

    fn of(graph: &Graph, nodes: &[NodeId], rows: usize) -> Estimate {
        let shape = |id: NodeId| graph.shape(graph[id].tops[0]);
        let [n, _, height, _] = shape(nodes[0]).nchw().unwrap_or([1; 4]);
        let between = &nodes[..nodes.len() - 1];
        let intermediates = 4 * between.iter().map(|&id| shape(id).count()).sum::<usize>();
        let params = nodes.iter().flat_map(|&id| &graph[id].params);
        let weights = 4 * params.map(|&p| graph[p].spec.shape.count()).sum::<usize>();
        let tasks = n * Rows::cut(height, rows)
            .iter()
            .map(|r| r.blocks)
            .sum::<usize>();
        let macs: u64 = nodes.iter().map(|&id| node_macs(graph, &graph[id])).sum();
        let work = macs as f64 / MACS_IN_NANOSECOND;
        // Half of what four cores lose when tasks do not divide evenly.
        let even = tasks.next_multiple_of(4) as f64 / tasks.max(1) as f64;
        let times = |count: usize| tasks.saturating_sub(count) as f64;
        let again = times(1) * weights as f64 / rate(weights)
            + times(n) * shared_bytes(graph, nodes[0]) / ROWS_RATE;
        let lost = match tasks {
            0..LEAST_TASKS => f64::INFINITY,
            _ => again + tasks as f64 * TASK_NANOSECONDS + work * (even - 1.0) / 2.0,
        };
        let moved = match intermediates {
            _ if intermediates <= L2_BYTES => 0,
            _ => 2 * intermediates,
        };
        Estimate {
            rows,
            height,
            intermediates,
            weights,
            tasks,
            gain: moved as f64 / BLOB_RATE - lost,
            least: work * LEAST_GAIN,
        }
    }

    fn pays(&self) -> bool {
        self.gain > self.least
    }
}

/// Bytes of the rows of the source that a row of outputs reads and the rows after it, too.
fn shared_bytes(graph: &Graph, id: NodeId) -> f64 {
    let Some(conv) = conv(graph, id) else {
        return 0.0;
    };
    let rows = ((conv.kernel[0] - 1) * conv.dilation[0] + 1).saturating_sub(conv.stride[0]);
    let width = graph.shape(conv.src).last().copied().unwrap_or(1);
    4.0 * rows as f64 * conv.inputs as f64 * width as f64
}

/// Bytes in a nanosecond from the cache that holds so many.
fn rate(bytes: usize) -> f64 {
    match bytes {
        _ if bytes <= L2_BYTES => NEAR_RATE,
        _ => FAR_RATE,
    }
}

/// The name of the cache that holds so many bytes.
fn level(bytes: usize) -> &'static str {
    match bytes {
        _ if bytes <= L2_BYTES => "the second-level cache",
        _ if bytes <= L3_BYTES => "the third-level cache",
        _ => "memory",
    }
}

fn names(graph: &Graph, nodes: &[NodeId]) -> String {
    let names: Vec<&str> = nodes.iter().map(|&id| graph[id].name.as_str()).collect();
    names.join(" → ")
}

/// Why a run of several nodes is one.
pub fn explain(graph: &Graph, run: &Run) -> Option<String> {
    let Run { nodes, rows } = run;
    if nodes.len() == 1 {
        return None;
    }
    let e = Estimate::of(graph, nodes, *rows);
    Some(format!(
        "{} together, {rows} of {} rows at a time: {} of intermediates are not written to {} and \
         read again, {} of weights are read {} times; by the model that saves {:.3} ms",
        names(graph, nodes),
        e.height,
        human_bytes(e.intermediates as u64),
        level(e.intermediates),
        human_bytes(e.weights as u64),
        e.tasks,
        e.gain / 1e6,
    ))
}

/// Why two runs that follow each other are not one. `winograd`: the first is one
/// convolution with loops of its own.
pub fn explain_cut(graph: &Graph, before: &Run, after: &Run, winograd: bool) -> String {
    let nodes = [*before.nodes.last().expect("a node"), after.nodes[0]];
    let names = nodes.map(|id| graph[id].name.as_str()).join(" and ");
    if winograd {
        return format!("{names} apart: the first is Winograd's");
    }
    if !legal(graph, &nodes) {
        return format!("{names} apart: the loops of the first are others");
    }
    let e = Estimate::best(graph, &nodes);
    format!(
        "{names} apart: {} of intermediates in {} cost less than reading {} of weights {} times \
         and sharing work less evenly",
        human_bytes(e.intermediates as u64),
        level(e.intermediates),
        human_bytes(e.weights as u64),
        e.tasks,
    )
}

/// One stage of a run: a convolution with its constants packed.
struct Stage {
    conv: Conv,
    epilogue: EpilogueAddrs,
    weights: Addr,
}

/// Lowers a run of two or more convolutions, each but the first 1×1.
pub fn lower(b: &mut Builder, run: &Run) -> Result<()> {
    let graph = b.graph;
    let nodes: Vec<&Node> = run.nodes.iter().map(|&n| &graph[n]).collect();
    let (first, last) = (nodes[0], nodes[nodes.len() - 1]);
    let convs = run.nodes.iter().filter_map(|&id| conv(graph, id));
    let convs: Vec<Conv> = convs.collect();
    let source = source::source(b, &convs[0])?;
    let residual = match last.epilogue.residual {
        true => Some(b.blocked(*last.bottoms.last().expect("a residual is a bottom"))?),
        false => None,
    };
    let dst = b.alloc_blocked(last.tops[0])?;
    let mut stages = Vec::new();
    for (i, (node, conv)) in nodes.iter().zip(convs).enumerate() {
        let order = if i == 0 {
            source.order
        } else {
            super::pack::SegmentOrder::Blocked
        };
        let (weights, _) = pack_weights(b, node, &conv, order);
        let epilogue = EpilogueAddrs::new(b, node, conv.bias, conv.outputs);
        stages.push(Stage {
            conv,
            epilogue,
            weights: addr(weights, 0),
        });
    }
    let rows = run.rows;
    let mut regions = Vec::new();
    for Rows {
        first_row,
        blocks,
        rows,
    } in Rows::cut(dst.h, rows)
    {
        let nest = Nest {
            first_row,
            blocks,
            rows,
            source: &source,
            dst: &dst,
            residual: residual.as_ref(),
        };
        regions.push(nest.region(b, &stages)?);
    }
    let macs = nodes.iter().map(|n| node_macs(graph, n)).sum();
    let ends = [first.bottoms[0], last.tops[0]];
    let traffic = ends
        .iter()
        .map(|&blob| 4 * graph.shape(blob).count() as u64)
        .sum();
    let layers = nodes.iter().flat_map(|n| n.layers.clone()).collect();
    let names: Vec<String> = nodes
        .iter()
        .map(|n| graph.shape(n.tops[0])[1].to_string())
        .collect();
    let about = format!(
        "chain of convolutions, {rows} of {} rows at a time, channels {}: {}x{}",
        dst.h,
        names.join(" -> "),
        dst.h,
        dst.w
    );
    b.step(layers, about, regions, macs, traffic);
    Ok(())
}

fn node_macs(graph: &Graph, node: &Node) -> u64 {
    let tops: Vec<_> = node.tops.iter().map(|&t| graph.shape(t).clone()).collect();
    node.op.macs(&graph.bottom_shapes(node), &tops)
}

/// Blocks of so many rows each.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rows {
    first_row: usize,
    blocks: usize,
    rows: usize,
}

impl Rows {
    /// Cuts a map's rows into blocks of at most `most`. There is a border between blocks in
    /// the middle of the map, so that two threads get equal shares.
    fn cut(height: usize, most: usize) -> Vec<Rows> {
        let middle = height.div_ceil(2);
        let halves = match height <= most {
            true => vec![(0, height)],
            false => vec![(0, middle), (middle, height)],
        };
        let mut cut: Vec<Rows> = Vec::new();
        for (start, end) in halves {
            let blocks = (end - start).div_ceil(most);
            let (rows, larger) = ((end - start) / blocks, (end - start) % blocks);
            let first = start + larger * (rows + 1);
            for (first_row, blocks, rows) in
                [(start, larger, rows + 1), (first, blocks - larger, rows)]
            {
                match cut.last_mut() {
                    _ if blocks == 0 => {}
                    Some(last) if last.rows == rows => last.blocks += blocks,
                    _ => cut.push(Rows {
                        first_row,
                        blocks,
                        rows,
                    }),
                }
            }
        }
        cut
    }
}

/// Blocks of rows of one size.
struct Nest<'a> {
    first_row: usize,
    blocks: usize,
    rows: usize,
    source: &'a Source,
    dst: &'a Blocked,
    residual: Option<&'a Blocked>,
}

impl Nest<'_> {
    /// Pixels from channel block to channel block of an intermediate: an odd number, or
    /// the blocks of a pixel would meet in few sets of the caches.
    fn room(&self) -> usize {
        (self.rows * self.dst.w) | 1
    }

    fn region(&self, b: &mut Builder, stages: &[Stage]) -> Result<Region> {
        let (image, block) = (b.var(), b.var());
        let pixels = self.rows * self.dst.w;
        let widths: Vec<usize> = stages
            .iter()
            .map(|s| s.conv.outputs.next_multiple_of(BLOCK))
            .collect();
        let slot = widths[..widths.len() - 1].iter().max().expect("two stages") * self.room();
        let mut body = Vec::new();
        let mut from = None;
        for (i, stage) in stages.iter().enumerate() {
            let is_last = i + 1 == stages.len();
            let to = match is_last {
                true => None,
                false => Some(b.scratch(
                    &format!("stage {i}"),
                    (i % 2) * slot,
                    widths[i] * self.room(),
                )),
            };
            let lines = self.lines(b, stage, (image, block), from, to)?;
            body.extend(lines);
            from = to;
        }
        let sums: usize = stages.iter().map(|s| s.conv.sums() * s.conv.outputs).sum();
        Ok(Region {
            tasks: vec![(image, self.dst.n as u32), (block, self.blocks as u32)],
            body,
            cost: (sums * pixels) as u64 / 64 + 1,
        })
    }

    /// One stage: reads the net's blob (`from` is none) or scratch, writes scratch or
    /// (`to` is none) the net's blob.
    fn lines(
        &self,
        b: &mut Builder,
        stage: &Stage,
        (image, block): (Var, Var),
        from: Option<crate::kernel::BufferId>,
        to: Option<crate::kernel::BufferId>,
    ) -> Result<Vec<Stmt>> {
        let pixels = self.rows * self.dst.w;
        let row = b.var();
        let in_blob = |base: i64, stride: [i64; 2], buffer| Addr {
            buffer,
            offset: crate::kernel::Affine::constant(base + self.first_row as i64 * stride[1])
                .plus(image, stride[0])
                .plus(block, self.rows as i64 * stride[1])
                .plus(row, stride[1]),
        };
        let in_scratch = |buffer| Addr {
            buffer,
            offset: crate::kernel::Affine::constant(0).plus(row, (self.dst.w * BLOCK) as i64),
        };
        let of_view = |v: &Blocked| in_blob(v.base, [v.image, v.row], v.buffer);
        let source = self.source;
        let (src, kind, src_px, src_stride, offsets) = match from {
            None => (
                in_blob(source.base, [source.image, source.line], source.buffer),
                source.kind,
                source.px,
                source.src_stride(),
                source.offsets(stage.conv.inputs)?,
            ),
            Some(buffer) => {
                let blocks = stage.conv.inputs.div_ceil(BLOCK);
                let offsets = (0..blocks)
                    .map(|i| (i * self.room() * BLOCK) as i32)
                    .collect();
                (in_scratch(buffer), TileKind::Blocked, BLOCK, 0, offsets)
            }
        };
        let segments = offsets.len();
        let residual = self.residual.filter(|_| to.is_none());
        let call = TileCall {
            kind,
            src,
            weights: stage.weights.clone(),
            bias: stage.epilogue.bias.clone(),
            residual: residual.map(of_view),
            slopes: stage.epilogue.slopes.clone(),
            dst: to.map_or_else(|| of_view(self.dst), in_scratch),
            offsets: b.table(offsets),
            segments,
            src_stride,
            weight_stride: segments * kind.taps() * BLOCK,
            dst_stride: to.map_or(self.dst.block as usize, |_| self.room() * BLOCK),
            residual_stride: residual.map_or(0, |r| r.block as usize),
            src_px,
            dst_px: BLOCK,
            activation: stage.epilogue.activation,
            slope: stage.epilogue.slope,
            ahead: None,
        };
        let rows_follow = from.is_some()
            && (to.is_some() || self.dst.is_flat() && residual.is_none_or(Blocked::is_flat));
        let (rows, pixels) = if rows_follow {
            (1, pixels)
        } else {
            (self.rows, self.dst.w)
        };
        let mut stmts = Vec::new();
        let channel_blocks = stage.conv.outputs.div_ceil(BLOCK);
        for (nb, first, tiles) in tile::choose(b.isa(), kind, pixels, channel_blocks, src_px) {
            let tile = b.var();
            let along = call.blocks_on(first, tile, nb);
            let line = b.line(&along, pixels, nb);
            stmts.extend(for_loop(tile, tiles, for_loop(row, rows, line)));
        }
        Ok(stmts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_a_map_are_whole_blocks() {
        let cut = |height, most| -> Vec<(usize, usize, usize)> {
            let cut = Rows::cut(height, most);
            cut.iter()
                .map(|r| (r.first_row, r.blocks, r.rows))
                .collect()
        };
        assert_eq!(cut(27, 4), [(0, 2, 4), (8, 2, 3), (14, 1, 4), (18, 3, 3)]);
        assert_eq!(cut(56, 4), [(0, 14, 4)]);
        assert_eq!(cut(54, 6), [(0, 2, 6), (12, 3, 5), (27, 2, 6), (39, 3, 5)]);
        assert_eq!(cut(7, 7), [(0, 1, 7)]);
        assert_eq!(cut(1, 1), [(0, 1, 1)]);
    }
}
