//! Lines of pixels as calls of register tiles.

use super::{Builder, for_loop};
use crate::kernel::{Addr, Arg, Stmt, TableId, Var};
use crate::leaf::{Activation, BLOCK, DEPTHWISE_TAPS, Isa, Leaf};

/// What all tiles of a convolution have in common: addresses of the first pixel and
/// the first channel block of a line, and strides.
#[derive(Clone)]
pub struct TileCall {
    pub kind: TileKind,
    pub src: Addr,
    pub weights: Addr,
    pub bias: Addr,
    pub residual: Option<Addr>,
    pub slopes: Option<Addr>,
    pub dst: Addr,
    pub offsets: TableId,
    pub segments: usize,
    /// From the source of one channel block to that of the next: 0 but for depthwise.
    pub src_stride: usize,
    pub weight_stride: usize,
    pub dst_stride: usize,
    pub residual_stride: usize,
    pub src_px: usize,
    pub dst_px: usize,
    pub activation: Activation,
    pub slope: f32,
    pub ahead: Option<Ahead>,
}

/// What the tiles of a line fetch for later ones, piece by piece.
#[derive(Clone)]
pub struct Ahead {
    pub start: Addr,
    /// Elements for each segment of a tile.
    pub step: usize,
    /// From those of one channel block to those of the next; 0: they follow each other.
    pub stride: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileKind {
    /// Segments of 16 channels of a blocked source.
    Blocked,
    /// Segments of kernel taps of a plain source.
    Planar { taps: usize },
    /// Segments of kernel taps of the channel block itself.
    Depthwise { taps: u8 },
}

impl TileKind {
    /// Depthwise, for a kernel of so many columns.
    pub fn depthwise(columns: usize, dilation: usize) -> TileKind {
        let together = |&&taps: &&u8| dilation == 1 && usize::from(taps) == columns;
        let taps = DEPTHWISE_TAPS.iter().find(together).copied().unwrap_or(1);
        TileKind::Depthwise { taps }
    }

    pub fn is_depthwise(self) -> bool {
        matches!(self, TileKind::Depthwise { .. })
    }

    /// Products of a segment in the sum of one output.
    pub fn taps(self) -> usize {
        match self {
            TileKind::Blocked => BLOCK,
            TileKind::Planar { taps } => taps,
            TileKind::Depthwise { taps } => taps.into(),
        }
    }
}

/// Elements of weights that are fetched ahead: of what two tiles read, both fit into a
/// second-level cache.
const MOST_AHEAD: usize = (448 << 10) / 4;

/// Tiles with the same weights beyond which it does not matter that the first one waits
/// for them.
const MOST_PASSES: usize = 32;

/// Runs of tiles of one width: (`mr`, how many).
type Tiles = Vec<(usize, usize)>;

/// The leaf for a tile, with the pixel stride built in where there is such a leaf.
fn leaf(isa: Isa, kind: TileKind, mr: usize, nb: usize, src_px: usize) -> Option<Leaf> {
    let mr = u8::try_from(mr).ok()?;
    let make = |px: u8| match kind {
        TileKind::Blocked => Leaf::Tile {
            mr,
            nb: nb as u8,
            px,
            taps: 16,
        },
        TileKind::Planar { .. } => Leaf::Tile {
            mr,
            nb: nb as u8,
            px,
            taps: 0,
        },
        TileKind::Depthwise { taps } => Leaf::Depthwise { mr, px, taps },
    };
    let fixed = u8::try_from(src_px).ok().map(make);
    let candidates = fixed.into_iter().chain([make(0)]);
    candidates.into_iter().find(|l| l.exists(isa))
}

fn max_mr(isa: Isa, kind: TileKind, nb: usize, src_px: usize) -> usize {
    let exists = |&mr: &usize| leaf(isa, kind, mr, nb, src_px).is_some();
    (1..=64).rev().find(exists).unwrap_or(0)
}

/// `pixels` in as few tiles as possible, of nearly equal width: a narrow last tile
/// would wait for its few accumulators.
fn split(pixels: usize, max_mr: usize) -> Tiles {
    let count = pixels.div_ceil(max_mr);
    let (width, wider) = (pixels / count, pixels % count);
    let runs = [(width + 1, wider), (width, count - wider)];
    runs.into_iter().filter(|&(_, n)| n > 0).collect()
}

/// Runs of channel blocks taken together: (blocks in a tile, first block, how many tiles).
pub type BlockRuns = Vec<(usize, usize, usize)>;

fn block_runs(blocks: usize, widths: &[usize], widest: usize) -> BlockRuns {
    let mut runs = Vec::new();
    let mut first = 0;
    for &nb in widths.iter().filter(|&&nb| nb <= widest) {
        let count = (blocks - first) / nb;
        if count > 0 {
            runs.push((nb, first, count));
            first += nb * count;
        }
    }
    runs
}

/// Cycles of one step of the sum for a tile of `mr` × `nb`, if two fused multiply-adds
/// and two loads start in a cycle and a sum is ready after five: four, and what does
/// not meet.
fn tile_cycles(isa: Isa, mr: usize, nb: usize) -> f64 {
    let vectors = match isa {
        Isa::Avx512 => nb,
        Isa::Avx2 => 2 * nb,
        Isa::Portable => 4 * nb,
    };
    let sums = (mr * vectors) as f64 / 2.0;
    let loads = (mr + vectors) as f64 / 2.0;
    sums.max(loads).max(5.0)
}

/// How many channel blocks go together, for lines of `pixels` pixels: the fewest of what
/// is equally fast, since their weights take the least of the caches.
pub fn choose(isa: Isa, kind: TileKind, pixels: usize, blocks: usize, src_px: usize) -> BlockRuns {
    if kind.is_depthwise() {
        return vec![(1, 0, blocks)];
    }
    let exists = |&nb: &usize| max_mr(isa, kind, nb, src_px) > 0;
    let widths: Vec<usize> = (1..=8).rev().filter(exists).collect();
    let options = widths
        .iter()
        .rev()
        .map(|&widest| block_runs(blocks, &widths, widest));
    let cost = |runs: &BlockRuns| runs_cycles(isa, kind, pixels, runs, src_px);
    options
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .expect("every ISA has a tile of one block")
}

fn runs_cycles(isa: Isa, kind: TileKind, pixels: usize, runs: &BlockRuns, src_px: usize) -> f64 {
    let run = |&(nb, _, count): &(usize, usize, usize)| {
        let tiles = split(pixels, max_mr(isa, kind, nb, src_px));
        let line: f64 = tiles
            .iter()
            .map(|&(mr, n)| n as f64 * tile_cycles(isa, mr, nb))
            .sum();
        line * count as f64
    };
    runs.iter().map(run).sum()
}

/// Cycles of one step of the sums of `pixels` pixels of a blocked source by `blocks`
/// channel blocks.
pub fn cycles(isa: Isa, pixels: usize, blocks: usize) -> f64 {
    let kind = TileKind::Blocked;
    let runs = choose(isa, kind, pixels, blocks, BLOCK);
    runs_cycles(isa, kind, pixels, &runs, BLOCK)
}

/// Widths of the tiles for a line of `pixels`, in order.
pub fn line_tiles(isa: Isa, kind: TileKind, pixels: usize, nb: usize, src_px: usize) -> Tiles {
    split(pixels, max_mr(isa, kind, nb, src_px))
}

impl Builder<'_> {
    /// A line of `pixels` pixels by `nb` channel blocks.
    pub fn line(&mut self, call: &TileCall, pixels: usize, nb: usize) -> Vec<Stmt> {
        let mut stmts = Vec::new();
        let (mut first, mut tiles) = (0, 0);
        for (mr, count) in line_tiles(self.isa(), call.kind, pixels, nb, call.src_px) {
            let start = call.moved(first, tiles);
            if count == 1 {
                stmts.push(start.stmt(self.isa(), mr, nb));
            } else {
                let var = self.var();
                let body = vec![start.along(var, mr).stmt(self.isa(), mr, nb)];
                stmts.extend(for_loop(var, count, body));
            }
            first += mr * count;
            tiles += count;
        }
        stmts
    }
}

impl TileCall {
    fn shifted(&self, shift: impl Fn(&Addr, usize) -> Addr) -> TileCall {
        TileCall {
            src: shift(&self.src, self.src_px),
            dst: shift(&self.dst, self.dst_px),
            residual: self.residual.as_ref().map(|r| shift(r, self.dst_px)),
            ..self.clone()
        }
    }

    /// The call `pixels` pixels further on, which are `tiles` tiles.
    fn moved(&self, pixels: usize, tiles: usize) -> TileCall {
        let by = |addr: &Addr, step: usize| Addr {
            buffer: addr.buffer,
            offset: addr.offset.clone().offset(step as i64),
        };
        TileCall {
            ahead: self.ahead_by(|addr, step| by(addr, tiles * step)),
            ..self.shifted(|addr, px| by(addr, pixels * px))
        }
    }

    /// The call `var` tiles of `pixels` pixels further on.
    fn along(&self, var: Var, pixels: usize) -> TileCall {
        let by = |addr: &Addr, step: usize| Addr {
            buffer: addr.buffer,
            offset: addr.offset.clone().plus(var, step as i64),
        };
        TileCall {
            ahead: self.ahead_by(by),
            ..self.shifted(|addr, px| by(addr, pixels * px))
        }
    }

    /// What is fetched, with its start shifted; `shift` gets what one tile fetches.
    fn ahead_by(&self, shift: impl Fn(&Addr, usize) -> Addr) -> Option<Ahead> {
        self.ahead.as_ref().map(|ahead| Ahead {
            start: shift(&ahead.start, self.segments * ahead.step),
            ..*ahead
        })
    }

    /// The call for the blocks of [`TileCall::blocks_on`], with their successors' weights
    /// fetched while the tiles of `lines` lines of `pixels` pixels go over them; as it is
    /// where that would be no use: where so many tiles share
    /// the weights that waiting for them does not matter, or one alone would have to
    /// fetch all, or the weights of two do not fit into a second-level cache.
    pub fn fetching(
        self,
        isa: Isa,
        (line, lines): (Var, usize),
        pixels: usize,
        nb: usize,
    ) -> TileCall {
        let in_line = self.tiles_in_line(isa, pixels, nb);
        let (passes, weights) = (lines * in_line, nb * self.weight_stride);
        let useful = (2..=MOST_PASSES).contains(&passes) && weights <= MOST_AHEAD;
        if !useful || self.kind != TileKind::Blocked {
            return self;
        }
        let step = weights.div_ceil(passes * self.segments);
        let step = step.next_multiple_of(BLOCK);
        let offset = self.weights.offset.clone().offset(weights as i64);
        let start = Addr {
            buffer: self.weights.buffer,
            offset: offset.plus(line, (in_line * self.segments * step) as i64),
        };
        let ahead = Some(Ahead {
            start,
            step,
            stride: 0,
        });
        TileCall { ahead, ..self }
    }

    /// The call with the weights of as many segments fetched that follow its own in each
    /// channel block, while the tiles of a line of `pixels` pixels go over these.
    pub fn fetching_on(self, isa: Isa, pixels: usize, nb: usize) -> TileCall {
        let passes = self.tiles_in_line(isa, pixels, nb);
        let own = (self.segments * self.kind.taps() * BLOCK) as i64;
        let ahead = Some(Ahead {
            start: Addr {
                buffer: self.weights.buffer,
                offset: self.weights.offset.clone().offset(own),
            },
            step: (self.kind.taps() * BLOCK / passes).next_multiple_of(BLOCK),
            stride: self.weight_stride,
        });
        TileCall { ahead, ..self }
    }

    fn tiles_in_line(&self, isa: Isa, pixels: usize, nb: usize) -> usize {
        let tiles = line_tiles(isa, self.kind, pixels, nb, self.src_px);
        tiles.iter().map(|&(_, count)| count).sum()
    }

    /// The call for the `nb` channel blocks from `first + nb · tile` on.
    pub fn blocks_on(&self, first: usize, tile: Var, nb: usize) -> TileCall {
        let by = |addr: &Addr, block: usize| {
            let offset = addr.offset.clone().offset((first * block) as i64);
            let offset = offset.plus(tile, (nb * block) as i64);
            Addr {
                buffer: addr.buffer,
                offset,
            }
        };
        TileCall {
            src: by(&self.src, self.src_stride),
            weights: by(&self.weights, self.weight_stride),
            bias: by(&self.bias, BLOCK),
            slopes: self.slopes.as_ref().map(|s| by(s, BLOCK)),
            residual: self.residual.as_ref().map(|r| by(r, self.residual_stride)),
            dst: by(&self.dst, self.dst_stride),
            ..self.clone()
        }
    }

    fn stmt(&self, isa: Isa, mr: usize, nb: usize) -> Stmt {
        let leaf =
            leaf(isa, self.kind, mr, nb, self.src_px).expect("chosen among those that exist");
        let maybe = |addr: &Option<Addr>| addr.clone().map_or(Arg::Null, Arg::Addr);
        let mut args = vec![
            Arg::Addr(self.src.clone()),
            Arg::Addr(self.weights.clone()),
            Arg::Addr(self.bias.clone()),
            maybe(&self.residual),
            maybe(&self.slopes),
            Arg::Addr(self.dst.clone()),
            Arg::Table(self.offsets),
            Arg::Len(self.segments),
        ];
        if !self.kind.is_depthwise() {
            let strides = [
                self.kind.taps(),
                self.weight_stride,
                self.dst_stride,
                self.residual_stride,
            ];
            args.extend(strides.map(Arg::Len));
        }
        args.extend([
            Arg::Len(self.src_px),
            Arg::Len(self.dst_px),
            Arg::Len(self.activation as usize),
            Arg::F32(self.slope),
        ]);
        if !self.kind.is_depthwise() {
            let ahead = self.ahead.as_ref();
            args.push(ahead.map_or(Arg::Null, |ahead| Arg::Ahead(ahead.start.clone())));
            args.push(Arg::Len(ahead.map_or(0, |ahead| ahead.step)));
            args.push(Arg::Len(ahead.map_or(0, |ahead| ahead.stride)));
        }
        Stmt::Call { leaf, args }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_evenly() {
        assert_eq!(split(27, 14), [(14, 1), (13, 1)]);
        assert_eq!(split(169, 14), [(13, 13)]);
        assert_eq!(split(54, 14), [(14, 2), (13, 2)]);
        assert_eq!(split(5, 14), [(5, 1)]);
    }

    #[test]
    fn blocks_are_all_covered_once() {
        assert_eq!(
            block_runs(63, &[4, 2, 1], 4),
            [(4, 0, 15), (2, 60, 1), (1, 62, 1)]
        );
        assert_eq!(block_runs(63, &[4, 2, 1], 2), [(2, 0, 31), (1, 62, 1)]);
    }
}
