//! Convolution → 1×1 → 1×1 as one loop nest: a few rows of the first convolution's
//! outputs go through all of them while they are in cache.
//!
//! Intermediates live in the thread's scratch as `[channel block][pixel][16]`. What it
//! saves is writing and reading the intermediate blobs; what it costs is reading all
//! weights again for every few rows. [`groups`] weighs the two for every way to cut
//! a chain into runs.

use super::conv::{Conv, addr};
use super::product::{EpilogueAddrs, pack_weights};
use super::source::{self, Source};
use super::tile::{self, TileCall, TileKind};
use super::view::Blocked;
use super::{Builder, Chains, Options, for_loop, winograd};
use crate::diag::{Diagnostic, Result};
use crate::ir::{Graph, Node, NodeId};
use crate::kernel::{Addr, Region, Stmt, Var};
use crate::layers::Op;
use crate::leaf::BLOCK;

/// Intermediates of a task should take at most this.
const SCRATCH_BYTES: usize = 256 << 10;

/// What a second-level cache holds beside other data.
const L2_BYTES: usize = 640 << 10;

/// Nodes of the longest run: longer ones gain nothing more, and the search for the
/// best way to cut a chain stays linear in its length.
const LONGEST: usize = 16;

/// All nodes in order, those that become one loop nest together, at the place of the
/// last of them.
pub fn groups(graph: &Graph, options: &Options) -> Vec<Vec<NodeId>> {
    let mut group_of: Vec<Option<Vec<NodeId>>> = vec![None; graph.nodes.len()];
    let mut inner = vec![false; graph.nodes.len()];
    for chain in &graph.chains {
        for run in cut(graph, chain, options) {
            let (last, before) = run.split_last().expect("a run has nodes");
            before.iter().for_each(|n| inner[n.0 as usize] = true);
            group_of[last.0 as usize] = Some(run.clone());
        }
    }
    let ids = (0..graph.nodes.len() as u32).map(NodeId);
    ids.filter(|n| !inner[n.0 as usize])
        .map(|n| group_of[n.0 as usize].take().unwrap_or_else(|| vec![n]))
        .collect()
}

/// Whether a node can be part of a run. Of grouped convolutions only depthwise ones have
/// the loops of this nest; Winograd's have others.
fn linkable(graph: &Graph, options: &Options, id: NodeId) -> bool {
    let simple = |conv: Conv| {
        (conv.group == 1 || conv.is_depthwise())
            && winograd::choose(graph, options, &conv).is_none()
    };
    spec(graph, &graph[id]).is_ok_and(simple)
}

/// The chain in runs, by the largest sum of gains.
fn cut(graph: &Graph, chain: &[NodeId], options: &Options) -> Vec<Vec<NodeId>> {
    let linkable: Vec<bool> = chain.iter().map(|&n| linkable(graph, options, n)).collect();
    let worth = |start: usize, end: usize| -> Option<f64> {
        // A residual is added by the last one only.
        let inner = &chain[start..end - 1];
        let sums = inner.iter().any(|&n| graph[n].epilogue.residual);
        let legal = linkable[start..end].iter().all(|&l| l) && !sums;
        match (end - start, options.chains) {
            (1, _) => Some(0.0),
            _ if !legal => None,
            (n, Chains::Always) => Some((n * n) as f64),
            _ => Some(gain(graph, &chain[start..end])).filter(|g| *g > 0.0),
        }
    };
    // best[i]: the best way to cut the first i nodes, as (gain, start of the last run).
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 1..=chain.len() {
        let starts = (end.saturating_sub(LONGEST)..end).filter_map(|start| {
            let gain = worth(start, end)?;
            Some((best[start].0 + gain, start))
        });
        let choice = starts.max_by(|a, b| a.0.total_cmp(&b.0));
        best.push(choice.expect("a run of one node is always possible"));
    }
    let mut runs = Vec::new();
    let mut end = chain.len();
    while end > 0 {
        let start = best[end].1;
        runs.push(chain[start..end].to_vec());
        end = start;
    }
    runs.reverse();
    runs
}

/// Nanoseconds that fusing a run saves, by the model: intermediates not written and
/// read, less the weights read again for each block of rows.
fn gain(graph: &Graph, run: &[NodeId]) -> f64 {
    let bytes = |count: usize| 4 * count;
    let between = &run[..run.len() - 1];
    let intermediates: usize = between
        .iter()
        .map(|&n| bytes(graph.shape(graph[n].tops[0]).count()))
        .sum();
    let weights: usize = run
        .iter()
        .flat_map(|&n| &graph[n].params)
        .map(|&p| bytes(graph[p].spec.shape.count()))
        .sum();
    let Some([n, _, h, w]) = graph.shape(graph[run[0]].tops[0]).nchw() else {
        return 0.0;
    };
    let blocks = h.div_ceil(rows_per_task(graph, run, h, w));
    if n * blocks < 4 {
        return 0.0;
    }
    let images = n as f64;
    let saved = 2.0 * intermediates as f64 / bandwidth(intermediates / n);
    let again = images * (blocks - 1) as f64 * weights as f64 / bandwidth(weights);
    saved - again
}

/// Bytes in a nanosecond from the cache that holds so many.
fn bandwidth(bytes: usize) -> f64 {
    match bytes {
        _ if bytes <= L2_BYTES => 80.0,
        _ if bytes <= 16 << 20 => 20.0,
        _ => 10.0,
    }
}

/// Output rows that go through the run together.
fn rows_per_task(graph: &Graph, run: &[NodeId], h: usize, w: usize) -> usize {
    let channels = |&n: &NodeId| graph.shape(graph[n].tops[0])[1].next_multiple_of(BLOCK);
    let widest = run[..run.len() - 1]
        .iter()
        .map(channels)
        .max()
        .unwrap_or(BLOCK);
    let rows = SCRATCH_BYTES / (8 * widest * w).max(1);
    let most = rows.clamp(1, h);
    h.div_ceil(h.div_ceil(most))
}

/// One stage of a run: a convolution with its constants packed.
struct Stage {
    conv: Conv,
    epilogue: EpilogueAddrs,
    weights: Addr,
}

/// Lowers a run of two or more convolutions, each but the first 1×1.
pub fn lower(b: &mut Builder, run: &[NodeId]) -> Result<()> {
    let graph = b.graph;
    let nodes: Vec<&Node> = run.iter().map(|&n| &graph[n]).collect();
    let (first, last) = (nodes[0], nodes[nodes.len() - 1]);
    let convs: Vec<Conv> = nodes
        .iter()
        .map(|node| spec(graph, node))
        .collect::<Result<_>>()?;
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
    let rows = rows_per_task(graph, run, dst.h, dst.w);
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

fn spec(graph: &Graph, node: &Node) -> Result<Conv> {
    match &node.op {
        Op::Convolution(layer) => Ok(layer.conv(graph, node, 0)),
        other => Err(Diagnostic::unsupported(format!("{} in a chain", other.type_name())).into()),
    }
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
    fn region(&self, b: &mut Builder, stages: &[Stage]) -> Result<Region> {
        let (image, block) = (b.var(), b.var());
        let pixels = self.rows * self.dst.w;
        let widths: Vec<usize> = stages
            .iter()
            .map(|s| s.conv.outputs.next_multiple_of(BLOCK))
            .collect();
        let slot = widths[..widths.len() - 1].iter().max().expect("two stages") * pixels;
        let mut body = Vec::new();
        let mut from = None;
        for (i, stage) in stages.iter().enumerate() {
            let is_last = i + 1 == stages.len();
            let to = match is_last {
                true => None,
                false => Some(b.scratch(&format!("stage {i}"), (i % 2) * slot, widths[i] * pixels)),
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
        let (src, kind, taps, src_px, src_stride, offsets) = match from {
            None => (
                in_blob(source.base, [source.image, source.line], source.buffer),
                source.kind,
                source.taps,
                source.px,
                source.src_stride(),
                source.offsets(stage.conv.inputs)?,
            ),
            Some(buffer) => {
                let blocks = stage.conv.inputs.div_ceil(BLOCK);
                let offsets = (0..blocks).map(|i| (i * pixels * BLOCK) as i32).collect();
                (
                    in_scratch(buffer),
                    TileKind::Blocked,
                    BLOCK,
                    BLOCK,
                    0,
                    offsets,
                )
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
            taps,
            src_stride,
            weight_stride: match kind {
                TileKind::Depthwise => segments * BLOCK,
                _ => segments * taps * BLOCK,
            },
            dst_stride: to.map_or(self.dst.block as usize, |_| pixels * BLOCK),
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
