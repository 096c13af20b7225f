//! The outputs of a convolution as lines of pixels, and the regions that go over them.

use super::Builder;
use super::conv::Conv;
use super::source::Source;
use super::tile::{self, TileCall, TileKind};
use super::view::Blocked;
use crate::kernel::{Addr, Region, Var};
use crate::leaf::BLOCK;

/// How the outputs of a convolution are laid out as lines of pixels.
pub struct Grid {
    pub images: usize,
    /// Slices of an item, by axes: how many, and strides of source, destination and
    /// residual.
    pub slices: Vec<(usize, [i64; 3])>,
    pub lines: usize,
    pub pixels: usize,
    /// Of source, destination and residual: first element, stride of images, of lines.
    pub src: [i64; 3],
    pub dst: [i64; 3],
    pub residual: [i64; 3],
    pub dst_px: usize,
    pub src_px: usize,
    /// Source bytes that a line reads and the line before it did not.
    pub line_bytes: usize,
}

/// Source elements of one task's rows should stay in the second-level cache.
const CHUNK_BYTES: usize = 384 << 10;

/// Bytes of weights that may be read once for each half of a map: they stay in the
/// second-level cache, or are fetched in time from the one behind it.
const TWICE_READ_WEIGHTS: usize = 1280 << 10;

/// Maps of so few tiles are one line, if there are so many channel blocks.
const MOST_TILES_IN_LINE: usize = 8;
const LEAST_BLOCKS: usize = 16;

/// How to go over the outputs: images as pixels for 1 × 1 maps, whole maps as one line
/// where nothing lies between rows, else row by row.
pub fn grids(
    b: &Builder,
    conv: &Conv,
    source: &Source,
    dst: &Blocked,
    residual: Option<&Blocked>,
) -> Vec<Grid> {
    let line = |view: Option<&Blocked>| view.map_or([0; 3], |v| [v.base, v.item(), v.row]);
    let mut slices = Vec::new();
    let mut inner = dst.slices;
    for &(outputs, step) in &source.outer {
        inner /= outputs;
        let stride = |view: Option<&Blocked>| view.map_or(0, |v| inner as i64 * v.image);
        slices.push((outputs, [step, stride(Some(dst)), stride(residual)]));
    }
    let whole = Grid {
        images: dst.items(),
        slices,
        lines: dst.h,
        pixels: dst.w,
        src: [source.base, source.image, source.line],
        dst: line(Some(dst)),
        residual: line(residual),
        dst_px: BLOCK,
        src_px: source.px,
        line_bytes: 4 * source.planes(conv) * line_len(conv, source),
    };
    let flat = |v: &Blocked| v.is_flat();
    let source_is_flat = source.row == (dst.w * BLOCK) as i64 || dst.h == 1;
    let pixel = dst.slices * dst.h * dst.w == 1;
    // Inside one blob, images of source and destination lie between each other.
    let apart = [Some(source.buffer), residual.map(|r| r.buffer)]
        .iter()
        .all(|&buffer| buffer != Some(dst.buffer));
    if pixel && dst.n > 1 && apart && residual.is_none_or(|r| r.image == dst.image) {
        return vec![batch_grid(whole)];
    }
    let pointwise = conv.is_pointwise() && source.kind == TileKind::Blocked;
    if pointwise && dst.h > 1 && source_is_flat && flat(dst) && residual.is_none_or(flat) {
        return flat_grids(b, whole, dst.blocks());
    }
    vec![whole]
}

/// Elements of a map that the windows of a line read and those of the line before did
/// not: windows of one pixel leave out rows and pixels between their strides.
fn line_len(conv: &Conv, source: &Source) -> usize {
    let [rows, columns] = [0, 1].map(|i| conv.kernel[i].min(conv.stride[i]));
    let len = source.row as usize * rows;
    match source.kind {
        TileKind::Planar { .. } => len,
        _ => len * columns / conv.stride[1],
    }
}

/// Images as pixels, for 1 × 1 maps.
fn batch_grid(grid: Grid) -> Grid {
    Grid {
        images: 1,
        pixels: grid.images,
        src_px: grid.src[1] as usize,
        dst_px: grid.dst[1] as usize,
        ..grid
    }
}

/// All pixels of a map as one line, cut into tiles.
fn flat_grids(b: &Builder, grid: Grid, blocks: usize) -> Vec<Grid> {
    let pixels = grid.lines * grid.pixels;
    let runs = tile::choose(b.isa(), TileKind::Blocked, pixels, blocks, BLOCK);
    let tiles = tile::line_tiles(b.isa(), TileKind::Blocked, pixels, runs[0].0, BLOCK);
    let count: usize = tiles.iter().map(|&(_, count)| count).sum();
    // The tiles of a small map follow each other while their weights are in cache; there
    // are channels enough to divide among threads.
    if tiles.len() > 1 && count <= MOST_TILES_IN_LINE && blocks >= LEAST_BLOCKS {
        return vec![Grid {
            line_bytes: grid.line_bytes * grid.lines,
            lines: 1,
            pixels,
            ..grid
        }];
    }
    let mut first = 0;
    let mut grids = Vec::new();
    for (mr, count) in tiles {
        let lines = |at: [i64; 3]| [at[0] + (first * BLOCK) as i64, at[1], (mr * BLOCK) as i64];
        grids.push(Grid {
            lines: count,
            pixels: mr,
            src: lines(grid.src),
            dst: lines(grid.dst),
            residual: lines(grid.residual),
            line_bytes: grid.line_bytes / grid.pixels * mr,
            slices: grid.slices.clone(),
            ..grid
        });
        first += mr * count;
    }
    grids
}

/// How many chunks there are and how many lines each has, but for the last ones: its source
/// stays in cache while all channel blocks go over it. Where there are not too many
/// weights, each half of the map has the same chunks, so that two threads get one half each,
/// as in the layers before and after.
fn chunks(call: &TileCall, grid: &Grid, blocks: usize) -> (usize, usize) {
    let most = CHUNK_BYTES / grid.line_bytes.max(1);
    let half = grid.lines / 2;
    if half > 0 && 4 * call.weight_stride * blocks <= TWICE_READ_WEIGHTS {
        let most = most.clamp(1, half);
        let lines = (most.div_ceil(2)..=most)
            .rev()
            .min_by_key(|lines| half % lines);
        let lines = lines.expect("not empty");
        (2 * (half / lines), lines)
    } else {
        let lines = grid
            .lines
            .div_ceil(grid.lines.div_ceil(most.clamp(1, grid.lines)));
        (grid.lines / lines, lines)
    }
}

/// The regions of one run of channel blocks over one grid.
pub fn regions(b: &mut Builder, call: &TileCall, grid: &Grid, blocks: usize) -> Vec<Region> {
    let (chunks, per_chunk) = chunks(call, grid, blocks);
    let rest = grid.lines - chunks * per_chunk;
    let mut regions = Vec::new();
    for (nb, first_block, tiles) in
        tile::choose(b.isa(), call.kind, grid.pixels, blocks, call.src_px)
    {
        for (first_line, chunks, lines) in [(0, chunks, per_chunk), (chunks * per_chunk, 1, rest)] {
            if lines == 0 || chunks == 0 {
                continue;
            }
            let (image, chunk, tile, line) = (b.var(), b.var(), b.var(), b.var());
            let slices: Vec<Var> = grid.slices.iter().map(|_| b.var()).collect();
            let along = |addr: &Addr, which: usize, [_, images, line_stride]: [i64; 3]| {
                let offset = addr.offset.clone();
                let mut offset = offset
                    .offset(first_line as i64 * line_stride)
                    .plus(image, images)
                    .plus(chunk, lines as i64 * line_stride)
                    .plus(line, line_stride);
                for (&var, (_, strides)) in slices.iter().zip(&grid.slices) {
                    offset = offset.plus(var, strides[which]);
                }
                Addr {
                    buffer: addr.buffer,
                    offset,
                }
            };
            let moved = TileCall {
                src: along(&call.src, 0, grid.src),
                residual: call.residual.as_ref().map(|r| along(r, 2, grid.residual)),
                dst: along(&call.dst, 1, grid.dst),
                ..call.clone()
            };
            let extents = grid.slices.iter().map(|&(extent, _)| extent as u32);
            let mut tasks = vec![(image, grid.images as u32)];
            tasks.extend(slices.iter().copied().zip(extents));
            tasks.extend([
                (chunk, chunks as u32),
                (tile, tiles as u32),
                (line, lines as u32),
            ]);
            let moved = moved.blocks_on(first_block, tile, nb).fetching(
                b.isa(),
                (line, lines),
                grid.pixels,
                nb,
            );
            regions.push(Region {
                tasks,
                body: b.line(&moved, grid.pixels, nb),
                cost: line_cost(call, grid.pixels, nb),
            });
        }
    }
    regions
}

/// Nanoseconds, roughly: moving an output counts as much as eight products.
fn line_cost(call: &TileCall, pixels: usize, nb: usize) -> u64 {
    let products = call.segments * call.kind.taps();
    (pixels * nb * (products + 8)) as u64 / 4 + 1
}
