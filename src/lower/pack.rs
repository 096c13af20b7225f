//! Filling the weights block: constants, and convolution weights in tile order.

use super::conv::WeightStrides;
use crate::ir::{FloatData, Graph, ParamId};
use crate::leaf::{BLOCK, winograd_points};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something to write into the weights block, from element `start` on.
#[derive(Clone, Debug)]
pub enum Pack {
    Values {
        start: usize,
        values: Vec<f32>,
    },
    /// A parameter as it is.
    Param {
        start: usize,
        param: ParamId,
        len: usize,
    },
    Tiles(TilePack),
    Bias(BiasPack),
}

/// Convolution weights, `[block of 16 outputs][segment][tap][16]`.
#[derive(Clone, Debug)]
pub struct TilePack {
    pub start: usize,
    pub param: ParamId,
    pub strides: WeightStrides,
    /// Output channel blocks, each with its segments.
    pub blocks: Vec<BlockPack>,
    /// Output channels and input channels of a group.
    pub outputs_per_group: usize,
    pub inputs_per_group: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub order: SegmentOrder,
    /// Winograd's: their values at n × n points, `[block of 16 outputs][point][input][16]`.
    pub points: Option<usize>,
    pub scale: Option<Arc<[f32]>>,
}

/// The input channels that a block of output channels reads, whole blocks.
#[derive(Clone, Debug)]
pub struct BlockPack {
    pub block: usize,
    pub first_input: usize,
    pub inputs: usize,
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentOrder {
    /// Input channel block, then kernel row, then kernel column; taps are 16 channels.
    Blocked,
    /// Input channel, then kernel row; taps are kernel columns.
    Planar,
    /// Input channel, kernel row, kernel column; one tap.
    PlanarPoint,
    /// Kernel row, then column; no taps: channel n of the block itself.
    Depthwise,
}

/// `scale · bias + shift` per output channel, zeros to the end of the last block.
#[derive(Clone, Debug)]
pub struct BiasPack {
    pub start: usize,
    pub outputs: usize,
    pub bias: Option<ParamId>,
    pub scale: Option<Arc<[f32]>>,
    pub shift: Option<Arc<[f32]>>,
}

impl TilePack {
    fn block_len(&self, block: &BlockPack) -> usize {
        let area = match self.points {
            Some(n) => n * n,
            None => self.kernel[0] * self.kernel[1],
        };
        match self.order {
            SegmentOrder::Depthwise => area * BLOCK,
            _ => block.inputs * area * BLOCK,
        }
    }

    /// Elements that the packed weights take.
    pub fn packed_len(&self) -> usize {
        self.blocks.iter().map(|b| self.block_len(b)).sum()
    }

    /// The kernel point and the input channel (within the block's range) of each run of
    /// 16 packed elements, in order.
    fn taps(&self, block: &BlockPack, mut each: impl FnMut(usize, usize, usize)) {
        let [kh, kw] = self.kernel;
        match self.order {
            SegmentOrder::Blocked => {
                for first in (0..block.inputs).step_by(BLOCK) {
                    for (y, x) in points(kh, kw) {
                        (first..first + BLOCK).for_each(|i| each(i, y, x));
                    }
                }
            }
            SegmentOrder::Planar | SegmentOrder::PlanarPoint => {
                for i in 0..block.inputs {
                    points(kh, kw).for_each(|(y, x)| each(i, y, x));
                }
            }
            SegmentOrder::Depthwise => points(kh, kw).for_each(|(y, x)| each(0, y, x)),
        }
    }

    /// Packs one block of output channels. `weights` is the part of the parameter from
    /// element `start` on.
    fn fill(&self, block: &BlockPack, start: usize, weights: &[f32], out: &mut [f32]) {
        let lanes = self.lanes(block);
        // Channels of other groups, or beyond the last one, stay zero.
        let weight = |lane: &Lane, i: usize, y: usize, x: usize| {
            let i = match self.order {
                SegmentOrder::Depthwise => 0,
                _ => (block.first_input + i).checked_sub(lane.first_input)?,
            };
            let tap = y as isize * self.strides.row + x as isize * self.strides.column;
            let at = lane.base + (i * self.strides.input) as isize + tap;
            (i < self.inputs_per_group).then(|| weights[at as usize - start])
        };
        if let Some(n) = self.points {
            return self.fill_points(block, n, &lanes, weight, out);
        }
        let mut runs = out.chunks_exact_mut(BLOCK);
        if let Some(bases) = self.bases(block, &lanes, start) {
            let s = &self.strides;
            self.taps(block, |i, y, x| {
                let run = runs.next().expect("as many runs as taps");
                let tap = y as isize * s.row + x as isize * s.column;
                let at = (i * s.input) as isize + tap;
                for ((value, base), lane) in run.iter_mut().zip(bases).zip(&lanes) {
                    *value = lane.scaled(weights[(base + at) as usize]);
                }
            });
            return;
        }
        self.taps(block, |i, y, x| {
            let run = runs.next().expect("as many runs as taps");
            for (value, lane) in run.iter_mut().zip(&lanes) {
                if let Some(weight) = weight(lane, i, y, x) {
                    *value = lane.scaled(weight);
                }
            }
        });
    }

    /// Where the weights of each lane's first input begin, after element `start` of the
    /// parameter, if all lanes are there and have all inputs of the block: the common case,
    /// without questions for each weight.
    fn bases(&self, block: &BlockPack, lanes: &[Lane], start: usize) -> Option<[isize; BLOCK]> {
        let inputs = |lane: &Lane| {
            let first = block.first_input.checked_sub(lane.first_input)?;
            (first + block.inputs <= self.inputs_per_group).then_some(first)
        };
        let mut bases = [0; BLOCK];
        if lanes.len() < BLOCK || self.order == SegmentOrder::Depthwise {
            return None;
        }
        for (base, lane) in bases.iter_mut().zip(lanes) {
            let first = (inputs(lane)? * self.strides.input) as isize;
            *base = lane.base + first - start as isize;
        }
        Some(bases)
    }

    /// The values of kernels at Winograd's points, `[point][input][16]`, rounded once.
    fn fill_points(
        &self,
        block: &BlockPack,
        n: usize,
        lanes: &[Lane],
        weight: impl Fn(&Lane, usize, usize, usize) -> Option<f32>,
        out: &mut [f32],
    ) {
        let [kh, kw] = self.kernel;
        let (rows, columns) = (Evaluation::new(n, kh), Evaluation::new(n, kw));
        let mut kernel = vec![[0.0; BLOCK]; kh * kw];
        let mut half = vec![[0.0; BLOCK]; n * kw];
        for i in 0..block.inputs {
            for ((y, x), values) in points(kh, kw).zip(&mut kernel) {
                for (value, lane) in values.iter_mut().zip(lanes) {
                    *value = weight(lane, i, y, x).map_or(0.0, |w| lane.exact(w));
                }
            }
            for x in 0..kw {
                for y in 0..n {
                    half[y * kw + x] = rows.at(y, |k| &kernel[k * kw + x]);
                }
            }
            for (p, (y, x)) in points(n, n).enumerate() {
                let values = columns.at(x, |k| &half[y * kw + k]);
                let to = (p * block.inputs + i) * BLOCK;
                for (to, value) in out[to..to + BLOCK].iter_mut().zip(values) {
                    *to = value as f32;
                }
            }
        }
    }

    /// The output channels of a block, as far as there are any.
    fn lanes(&self, block: &BlockPack) -> Vec<Lane> {
        let first = block.block * BLOCK;
        (first..self.outputs.min(first + BLOCK))
            .map(|output| {
                let group = output / self.outputs_per_group;
                let within = output % self.outputs_per_group;
                let s = &self.strides;
                Lane {
                    first_input: group * self.inputs_per_group,
                    base: s.base + (group * s.group + within * s.output) as isize,
                    scale: self.scale.as_ref().map(|scale| f64::from(scale[output])),
                }
            })
            .collect()
    }

    /// The part of the parameter that a block is packed from.
    fn window(&self, block: &BlockPack) -> Range<usize> {
        let s = &self.strides;
        let [kh, kw] = self.kernel.map(|k| k as isize - 1);
        let (rows, columns) = (kh * s.row, kw * s.column);
        let inputs = ((self.inputs_per_group - 1) * s.input) as isize;
        let lanes = self.lanes(block);
        let bases = lanes.iter().map(|lane| lane.base);
        let low = bases.clone().min().expect("a block has channels");
        let high = bases.max().expect("a block has channels");
        let start = low + rows.min(0) + columns.min(0);
        let end = high + inputs + rows.max(0) + columns.max(0) + 1;
        start as usize..end as usize
    }
}

struct Lane {
    first_input: usize,
    base: isize,
    scale: Option<f64>,
}

impl Lane {
    fn scaled(&self, weight: f32) -> f32 {
        match self.scale {
            Some(scale) => (f64::from(weight) * scale) as f32,
            None => weight,
        }
    }

    fn exact(&self, weight: f32) -> f64 {
        f64::from(weight) * self.scale.unwrap_or(1.0)
    }
}

/// The values of polynomials of so many coefficients at Winograd's points, as the leaf
/// wants them: divided by the product of the point's distances from the others.
struct Evaluation {
    terms: usize,
    /// `[point][coefficient]`.
    factors: Vec<f64>,
}

impl Evaluation {
    fn new(n: usize, terms: usize) -> Evaluation {
        let finite = winograd_points(n);
        let row = |&at: &f64| {
            let others = finite.iter().filter(|&&other| other != at);
            let product: f64 = others.map(|other| at - other).product();
            (0..terms as i32).map(move |power| at.powi(power) / product)
        };
        let infinity = (0..terms).map(|power| f64::from(u8::from(power + 1 == terms)));
        let factors = finite.iter().flat_map(row).chain(infinity).collect();
        Evaluation { terms, factors }
    }

    /// At point number `i`, of 16 polynomials, whose coefficients `of` gives.
    fn at<'a>(&self, i: usize, of: impl Fn(usize) -> &'a [f64; BLOCK]) -> [f64; BLOCK] {
        let mut sum = [0.0; BLOCK];
        for (k, factor) in self.factors[i * self.terms..][..self.terms]
            .iter()
            .enumerate()
        {
            for (sum, value) in sum.iter_mut().zip(of(k)) {
                *sum += factor * value;
            }
        }
        sum
    }
}

fn points(kh: usize, kw: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..kh).flat_map(move |y| (0..kw).map(move |x| (y, x)))
}

/// Fills a zeroed weights block of the program's length, on all cores.
///
/// Panics if a parameter has no data.
pub fn pack(graph: &Graph, packs: &[Pack], out: &mut [f32]) {
    let mut jobs: Vec<Job> = Vec::new();
    let mut rest = out;
    let mut at = 0;
    let mut sorted: Vec<&Pack> = packs.iter().collect();
    sorted.sort_by_key(|p| p.start());
    for pack in sorted {
        let (_, tail) = rest.split_at_mut(pack.start() - at);
        let (mine, tail) = tail.split_at_mut(pack.len());
        (rest, at) = (tail, pack.start() + pack.len());
        match pack {
            Pack::Tiles(tiles) => {
                let mut mine = mine;
                for block in &tiles.blocks {
                    let (head, tail) = mine.split_at_mut(tiles.block_len(block));
                    jobs.push(Job {
                        pack,
                        block: Some(block),
                        out: head,
                    });
                    mine = tail;
                }
            }
            _ => jobs.push(Job {
                pack,
                block: None,
                out: mine,
            }),
        }
    }
    run_jobs(graph, jobs);
}

struct Job<'a> {
    pack: &'a Pack,
    block: Option<&'a BlockPack>,
    out: &'a mut [f32],
}

fn run_jobs(graph: &Graph, jobs: Vec<Job>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs: Vec<std::sync::Mutex<Job>> = jobs.into_iter().map(std::sync::Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        // The last parameter that was decoded whole, for its other blocks.
        let mut held: Option<(ParamId, Cow<[f32]>)> = None;
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut job = job.lock().expect("no job panics while locked");
            let Job { pack, block, out } = &mut *job;
            match (pack, block) {
                (Pack::Tiles(tiles), Some(block)) => {
                    pack_block(graph, tiles, block, &mut held, out);
                }
                (Pack::Bias(bias), _) => bias.fill(graph, out),
                (Pack::Values { values, .. }, _) => out.copy_from_slice(values),
                (Pack::Param { param, .. }, _) => {
                    out.copy_from_slice(&data(graph, *param).floats());
                }
                (Pack::Tiles(_), None) => unreachable!("tiles are split into blocks"),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// Packs a block from just its part of the parameter, where it has one; weights that
/// lie inputs first are decoded whole once.
fn pack_block<'a>(
    graph: &'a Graph,
    tiles: &TilePack,
    block: &BlockPack,
    held: &mut Option<(ParamId, Cow<'a, [f32]>)>,
    out: &mut [f32],
) {
    let data = data(graph, tiles.param);
    let window = tiles.window(block);
    if tiles.blocks.len() == 1 || window.len() <= data.len() / 2 {
        tiles.fill(block, window.start, &data.window(window.clone()), out);
        // Blocks hardly share their windows.
        data.release(window);
        return;
    }
    if held.as_ref().is_none_or(|(id, _)| *id != tiles.param) {
        drop(held.take());
        *held = Some((tiles.param, data.floats()));
    }
    let (_, weights) = held.as_ref().expect("just set");
    tiles.fill(block, 0, weights, out);
}

fn data(graph: &Graph, param: ParamId) -> &FloatData {
    let data = graph[param].data.as_ref();
    data.expect("weights are assigned before packing")
}

impl Pack {
    /// First element in the weights block.
    fn start(&self) -> usize {
        match self {
            Pack::Values { start, .. } | Pack::Param { start, .. } => *start,
            Pack::Tiles(tiles) => tiles.start,
            Pack::Bias(bias) => bias.start,
        }
    }

    /// Elements that it fills.
    fn len(&self) -> usize {
        match self {
            Pack::Values { values, .. } => values.len(),
            Pack::Param { len, .. } => *len,
            Pack::Tiles(tiles) => tiles.packed_len(),
            Pack::Bias(bias) => bias.outputs.next_multiple_of(BLOCK),
        }
    }
}

impl BiasPack {
    fn fill(&self, graph: &Graph, out: &mut [f32]) {
        let bias = self.bias.map(|p| data(graph, p).floats());
        let value = |of: &Option<Arc<[f32]>>, i: usize, none: f64| {
            of.as_ref().map_or(none, |v| f64::from(v[i]))
        };
        for (i, out) in out.iter_mut().enumerate().take(self.outputs) {
            let bias = bias.as_ref().map_or(0.0, |b| f64::from(b[i]));
            *out = (bias * value(&self.scale, i, 1.0) + value(&self.shift, i, 0.0)) as f32;
        }
    }
}
