//! Where blobs lie, and conversions between the two layouts.

use super::{Builder, for_loop};
use crate::diag::{Diagnostic, Result};
use crate::ir::BlobId;
use crate::kernel::{Affine, Arg, BufferId, Place, Region, Stmt, Var};
use crate::leaf::{BLOCK, Leaf};

/// Rows and columns of zeros around each channel's map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halo {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Halo {
    #[must_use]
    pub fn max(self, other: Halo) -> Halo {
        Halo {
            top: self.top.max(other.top),
            bottom: self.bottom.max(other.bottom),
            left: self.left.max(other.left),
            right: self.right.max(other.right),
        }
    }

    pub fn contains(self, other: Halo) -> bool {
        self.max(other) == self
    }
}

/// Sizes of a blob as maps: items × channels × slices × rows × columns. What lies
/// between channels and rows are slices; the maps of one slice are an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maps {
    pub items: usize,
    pub c: usize,
    pub slices: usize,
    pub h: usize,
    pub w: usize,
}

impl Maps {
    /// A blob whose channels lie along `axis`.
    pub fn of(shape: &[usize], axis: usize) -> Maps {
        let spatial = &shape[axis + 1..];
        let (slices, plane) = spatial.split_at(spatial.len().saturating_sub(2));
        let size = |i: usize| plane.get(i).copied().unwrap_or(1);
        Maps {
            items: shape[..axis].iter().product(),
            c: shape[axis],
            slices: slices.iter().product(),
            h: size(0),
            w: size(1),
        }
    }

    fn images(self) -> usize {
        self.items.saturating_mul(self.slices)
    }

    pub fn is_pixel(self) -> bool {
        self.slices * self.h * self.w == 1
    }
}

/// NCHW16c, `n × c × h × w`; strides in elements; pixels are 16 apart. The slices of an
/// item are images that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    pub buffer: BufferId,
    /// Image 0, channel 0, row 0, column 0 (inside the halo).
    pub base: i64,
    pub image: i64,
    pub block: i64,
    pub row: i64,
    pub n: usize,
    /// Images of an item.
    pub slices: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub halo: Halo,
}

impl Blocked {
    pub fn blocks(&self) -> usize {
        self.c.div_ceil(BLOCK)
    }

    pub fn items(&self) -> usize {
        self.n / self.slices.max(1)
    }

    /// From one item to the next.
    pub fn item(&self) -> i64 {
        self.image * self.slices as i64
    }

    /// Rows follow each other without a gap.
    pub fn is_flat(&self) -> bool {
        self.h == 1 || self.row == (self.w * BLOCK) as i64
    }

    /// Rows, and pixels of each, where neighbouring rows count as one.
    fn lines(&self) -> [usize; 2] {
        match self.is_flat() {
            true => [1, self.h * self.w],
            false => [self.h, self.w],
        }
    }

    /// Offset of the first element of a channel block of an image.
    pub fn plane(&self, image: Var, block: Var) -> Affine {
        Affine::constant(self.base)
            .plus(image, self.image)
            .plus(block, self.block)
    }
}

/// Loops over the maps of a blob in both layouts.
struct Walk {
    tasks: Vec<(Var, u32)>,
    plain: Affine,
    blocked: Affine,
}

/// Dense row-major from `base` on.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    pub buffer: BufferId,
    pub base: i64,
}

impl Builder<'_> {
    /// The blob as maps with channels along axis 1, if it has one: then it can be blocked.
    pub fn maps(&self, blob: BlobId) -> Option<Maps> {
        let shape = self.graph.shape(blob);
        (shape.len() > 1).then(|| Maps::of(shape, 1))
    }

    pub fn has_blocked(&self, blob: BlobId) -> bool {
        self.blocked[blob.0 as usize].is_some()
    }

    pub fn has_plain(&self, blob: BlobId) -> bool {
        self.plain[blob.0 as usize].is_some()
    }

    /// The number of the output that `blob` is, if it is one.
    fn output_index(&self, blob: BlobId) -> Option<usize> {
        self.graph.outputs.iter().position(|&o| o == blob)
    }

    /// A new dense place for a blob: the user's output, if that is what it is.
    pub fn alloc_plain(&mut self, blob: BlobId) -> Result<Plain> {
        let len = self.graph.shape(blob).count();
        let name = self.graph[blob].name.clone();
        let buffer = match self.output_index(blob) {
            Some(i) => self.buffer(&name, Place::Output(i), len),
            None => self.arena(&name, Some(len))?,
        };
        let view = Plain { buffer, base: 0 };
        self.plain[blob.0 as usize] = Some(view);
        Ok(view)
    }

    /// A new blocked place for a blob, inside its parent if it has one, with the halo
    /// that its readers want. Panics if the blob cannot be blocked.
    pub fn alloc_blocked(&mut self, blob: BlobId) -> Result<Blocked> {
        let maps = self.maps(blob).expect("a blob of two axes or more");
        let view = match self.inside[blob.0 as usize] {
            Some((parent, first_channel)) => {
                let parent = match self.blocked[parent.0 as usize] {
                    Some(view) => view,
                    None => self.alloc_blocked(parent)?,
                };
                let base = parent.base + (first_channel / BLOCK) as i64 * parent.block;
                let c = maps.c;
                Blocked { base, c, ..parent }
            }
            None => {
                let halo = self.halos[blob.0 as usize];
                let name = self.graph[blob].name.clone();
                self.new_maps(&name, maps, halo)?
            }
        };
        self.blocked[blob.0 as usize] = Some(view);
        Ok(view)
    }

    /// [`Builder::new_blocked`] for items that may have slices.
    pub fn new_maps(&mut self, name: &str, maps: Maps, halo: Halo) -> Result<Blocked> {
        let dims = [maps.images(), maps.c, maps.h, maps.w];
        let view = self.new_blocked(name, dims, halo)?;
        let slices = maps.slices;
        Ok(Blocked { slices, ..view })
    }

    /// A blocked buffer in the arena; its halo is zeroed by the next step.
    pub fn new_blocked(&mut self, name: &str, dims: [usize; 4], halo: Halo) -> Result<Blocked> {
        let [n, c, h, w] = dims;
        let lengths = || {
            let row = w
                .checked_add(halo.left)?
                .checked_add(halo.right)?
                .checked_mul(BLOCK)?;
            let rows = h.checked_add(halo.top)?.checked_add(halo.bottom)?;
            let block = rows.checked_mul(row)?;
            let image = block.checked_mul(c.div_ceil(BLOCK))?;
            Some((row, block, image, image.checked_mul(n)?))
        };
        let total = lengths();
        let buffer = self.arena(name, total.map(|t| t.3))?;
        let (row, block, image, _) = total.expect("arena() refused what overflows");
        let view = Blocked {
            buffer,
            base: (halo.top * row + halo.left * BLOCK) as i64,
            image: image as i64,
            block: block as i64,
            row: row as i64,
            n,
            slices: 1,
            c,
            h,
            w,
            halo,
        };
        if halo != Halo::default() && n * c > 0 {
            let fill = self.halo_fill(&view);
            self.fills.push(fill);
        }
        Ok(view)
    }

    fn halo_fill(&mut self, view: &Blocked) -> Region {
        let (image, block) = (self.var(), self.var());
        let body = self.halo_stmts(view.buffer, view.plane(image, block), view, BLOCK);
        Region {
            tasks: vec![(image, view.n as u32), (block, view.blocks() as u32)],
            body,
            cost: 8 + ((view.halo.top + view.halo.bottom + 2) as u64 * view.row as u64) / 16,
        }
    }

    /// Zeros around one map whose first element is at `first`; `unit` elements a pixel.
    /// The end of a row and the start of the next are one stretch.
    pub fn halo_stmts(
        &self,
        buffer: BufferId,
        first: Affine,
        view: &Blocked,
        unit: usize,
    ) -> Vec<Stmt> {
        let Halo {
            top,
            bottom,
            left,
            right,
        } = view.halo;
        let row = view.row;
        let end = (view.w * unit) as i64;
        let fill = |offset: i64, rows: usize, len: usize| Stmt::Call {
            leaf: Leaf::Fill,
            args: vec![
                self.at(buffer, first.clone().offset(offset)),
                Arg::Len(rows),
                Arg::Len(len),
                Arg::Len(row as usize),
                Arg::F32(0.0),
            ],
        };
        let before = top * row as usize + left * unit;
        let after = bottom * row as usize + right * unit;
        let mut stmts = Vec::new();
        if before > 0 {
            stmts.push(fill(-(before as i64), 1, before));
        }
        if view.h > 1 && left + right > 0 {
            stmts.push(fill(end, view.h - 1, (left + right) * unit));
        }
        if after > 0 {
            stmts.push(fill((view.h as i64 - 1) * row + end, 1, after));
        }
        stmts
    }

    /// The blob's blocked view; converts from plain if there is none yet.
    /// Errors: `Unsupported` for blobs of less than 2 axes.
    pub fn blocked(&mut self, blob: BlobId) -> Result<Blocked> {
        if let Some(view) = self.blocked[blob.0 as usize] {
            return Ok(view);
        }
        let Some(maps) = self.maps(blob) else {
            let shape = self.graph.shape(blob);
            let message = format!("a bottom of shape {shape} (only 2 axes and more)");
            return Err(Diagnostic::unsupported(message).into());
        };
        let src = self.plain[blob.0 as usize].expect("a blob is made before it is read");
        let halo = self.halos[blob.0 as usize];
        if maps.is_pixel() && maps.c % BLOCK == 0 && halo == Halo::default() {
            let view = pixels(src, maps.items, maps.c);
            self.blocked[blob.0 as usize] = Some(view);
            return Ok(view);
        }
        let name = format!("{} blocked", self.graph[blob].name);
        let view = self.new_maps(&name, maps, halo)?;
        self.blocked[blob.0 as usize] = Some(view);
        let regions = self.to_blocked(src, &view);
        let layers = vec![self.graph[blob].name.clone()];
        let traffic = 8 * self.graph.shape(blob).count() as u64;
        self.step(layers, "plain to blocked", regions, 0, traffic);
        Ok(view)
    }

    /// One region for whole channel blocks, one for the last, partial one.
    pub fn to_blocked(&mut self, src: Plain, dst: &Blocked) -> Vec<Region> {
        let (whole, rest) = (dst.c / BLOCK, dst.c % BLOCK);
        let [h, w] = dst.lines();
        let mut regions = Vec::new();
        for (first, blocks, channels) in [(0, whole, BLOCK), (whole, usize::from(rest > 0), rest)] {
            if blocks == 0 {
                continue;
            }
            let walk = self.walk(dst, first, blocks, src.base);
            let plane = dst.slices * dst.h * dst.w;
            let call = Stmt::Call {
                leaf: Leaf::ToBlocked,
                args: vec![
                    self.at(src.buffer, walk.plain),
                    self.at(dst.buffer, walk.blocked),
                    Arg::Len(channels),
                    Arg::Len(h),
                    Arg::Len(w),
                    Arg::Len(plane),
                    Arg::Len(w),
                    Arg::Len(dst.row as usize),
                ],
            };
            regions.push(Region {
                tasks: walk.tasks,
                body: vec![call],
                cost: (dst.h * dst.w * BLOCK) as u64 / 4 + 1,
            });
        }
        regions
    }

    /// The blob's dense row-major view; converts from blocked if there is none yet.
    pub fn plain(&mut self, blob: BlobId) -> Result<Plain> {
        if let Some(view) = self.plain[blob.0 as usize] {
            return Ok(view);
        }
        let src = self.blocked[blob.0 as usize].expect("a blob is made before it is read");
        let pixel = src.slices * src.h * src.w == 1;
        // With a halo, the blocks of channels are further apart.
        let row = pixel && (src.c <= BLOCK || src.block == BLOCK as i64);
        let dense = row && (src.n == 1 || src.image == src.c as i64);
        if dense && self.output_index(blob).is_none() {
            let view = Plain {
                buffer: src.buffer,
                base: src.base,
            };
            self.plain[blob.0 as usize] = Some(view);
            return Ok(view);
        }
        let dst = self.alloc_plain(blob)?;
        let regions = self.to_plain(&src, dst);
        let layers = vec![self.graph[blob].name.clone()];
        let traffic = 8 * (src.n * src.c * src.h * src.w) as u64;
        self.step(layers, "blocked to plain", regions, 0, traffic);
        Ok(dst)
    }

    pub fn to_plain(&mut self, src: &Blocked, dst: Plain) -> Vec<Region> {
        let (whole, rest) = (src.c / BLOCK, src.c % BLOCK);
        let [h, w] = src.lines();
        let mut regions = Vec::new();
        if src.slices * src.h * src.w == 1 && src.block == BLOCK as i64 {
            // A row of channels is one stretch in both.
            let image = self.var();
            let args = vec![
                self.at(
                    src.buffer,
                    Affine::constant(src.base).plus(image, src.image),
                ),
                self.at(
                    dst.buffer,
                    Affine::constant(dst.base).plus(image, src.c as i64),
                ),
                Arg::Len(1),
                Arg::Len(src.c),
                Arg::Len(src.c),
                Arg::Len(src.c),
            ];
            let body = vec![Stmt::Call {
                leaf: Leaf::Copy,
                args,
            }];
            let tasks = vec![(image, src.n as u32)];
            let cost = src.c as u64 / 8 + 1;
            return vec![Region { tasks, body, cost }];
        }
        for (first, blocks, channels) in [(0, whole, BLOCK), (whole, usize::from(rest > 0), rest)] {
            if blocks == 0 {
                continue;
            }
            let walk = self.walk(src, first, blocks, dst.base);
            let plane = src.slices * src.h * src.w;
            let call = Stmt::Call {
                leaf: Leaf::ToPlain,
                args: vec![
                    self.at(src.buffer, walk.blocked),
                    self.at(dst.buffer, walk.plain),
                    Arg::Len(channels),
                    Arg::Len(h),
                    Arg::Len(w),
                    Arg::Len(src.row as usize),
                    Arg::Len(plane),
                    Arg::Len(w),
                ],
            };
            regions.push(Region {
                tasks: walk.tasks,
                body: vec![call],
                cost: (src.h * src.w * BLOCK) as u64 / 4 + 1,
            });
        }
        regions
    }

    /// Walks over the maps of a blocked view, block after block from number `first` on,
    /// and over the same maps of a plain one that begins at `base`.
    fn walk(&mut self, view: &Blocked, first: usize, blocks: usize, base: i64) -> Walk {
        let (item, block) = (self.var(), self.var());
        let map = view.h * view.w;
        let plane = (view.slices * map) as i64;
        let stride = BLOCK as i64 * plane;
        let mut plain = Affine::constant(base + first as i64 * stride)
            .plus(item, view.c as i64 * plane)
            .plus(block, stride);
        let mut blocked = Affine::constant(view.base + first as i64 * view.block)
            .plus(item, view.item())
            .plus(block, view.block);
        let mut tasks = vec![(item, view.items() as u32), (block, blocks as u32)];
        if view.slices > 1 {
            let slice = self.var();
            plain = plain.plus(slice, map as i64);
            blocked = blocked.plus(slice, view.image);
            tasks.insert(1, (slice, view.slices as u32));
        }
        Walk {
            tasks,
            plain,
            blocked,
        }
    }

    /// A blocked view of a blob whose channels lie along `axis`: the blob's own for axis
    /// 1, else a copy with this halo.
    pub fn blocked_at(&mut self, blob: BlobId, axis: usize, halo: Halo) -> Result<Blocked> {
        if axis == 1 {
            return self.blocked_with(blob, halo);
        }
        let src = self.plain(blob)?;
        let name = format!("{} blocked", self.graph[blob].name);
        let maps = Maps::of(self.graph.shape(blob), axis);
        let view = self.new_maps(&name, maps, halo)?;
        let regions = self.to_blocked(src, &view);
        let layers = vec![self.graph[blob].name.clone()];
        let traffic = 8 * self.graph.shape(blob).count() as u64;
        self.step(layers, "plain to blocked", regions, 0, traffic);
        Ok(view)
    }

    /// A blocked view with at least this halo: the blob's own or a copy.
    pub fn blocked_with(&mut self, blob: BlobId, halo: Halo) -> Result<Blocked> {
        let src = self.blocked(blob)?;
        if src.halo.contains(halo) {
            return Ok(src);
        }
        let name = format!("{} padded", self.graph[blob].name);
        let dims = [src.n, src.c, src.h, src.w];
        let dst = Blocked {
            slices: src.slices,
            ..self.new_blocked(&name, dims, halo)?
        };
        let region = self.copy_blocked(&src, &dst);
        let layers = vec![self.graph[blob].name.clone()];
        let traffic = 8 * (src.n * src.c * src.h * src.w) as u64;
        self.step(layers, "padded copy", vec![region], 0, traffic);
        Ok(dst)
    }

    /// Copies whole channel blocks row by row.
    pub fn copy_blocked(&mut self, src: &Blocked, dst: &Blocked) -> Region {
        let (image, block) = (self.var(), self.var());
        let call = Stmt::Call {
            leaf: Leaf::Copy,
            args: vec![
                self.at(src.buffer, src.plane(image, block)),
                self.at(dst.buffer, dst.plane(image, block)),
                Arg::Len(src.h),
                Arg::Len(src.w * BLOCK),
                Arg::Len(src.row as usize),
                Arg::Len(dst.row as usize),
            ],
        };
        Region {
            tasks: vec![(image, src.n as u32), (block, src.blocks() as u32)],
            body: vec![call],
            cost: (src.h * src.w * BLOCK) as u64 / 8 + 1,
        }
    }

    /// Lets `top` be the same memory as `bottom`, which has as many elements in the
    /// same order (Flatten, Reshape, and one-bottom Concat).
    pub fn alias(&mut self, bottom: BlobId, top: BlobId) -> Result<()> {
        let (from, to) = (self.maps(bottom), self.maps(top));
        let same = from.is_some() && from == to;
        if let (Some(view), true) = (self.blocked[bottom.0 as usize], same)
            && view.halo.contains(self.halos[top.0 as usize])
        {
            self.blocked[top.0 as usize] = Some(view);
            self.plain[top.0 as usize] = self.plain[bottom.0 as usize];
            return Ok(());
        }
        self.plain[top.0 as usize] = Some(self.plain(bottom)?);
        Ok(())
    }

    /// Declares where a blob lies, for layers that make views.
    pub fn set_blocked(&mut self, blob: BlobId, view: Blocked) {
        self.blocked[blob.0 as usize] = Some(view);
    }

    pub fn set_plain(&mut self, blob: BlobId, view: Plain) {
        self.plain[blob.0 as usize] = Some(view);
    }

    /// Zero the lanes beyond the last channel, for work that does not keep them zero.
    pub fn tail_fill(&mut self, view: &Blocked) -> Option<Region> {
        let tail = view.c % BLOCK;
        if tail == 0 {
            return None;
        }
        let (image, row) = (self.var(), self.var());
        let last = (view.blocks() - 1) as i64 * view.block + tail as i64;
        let first = Affine::constant(view.base + last)
            .plus(image, view.image)
            .plus(row, view.row);
        let call = Stmt::Call {
            leaf: Leaf::Fill,
            args: vec![
                self.at(view.buffer, first),
                Arg::Len(view.w),
                Arg::Len(BLOCK - tail),
                Arg::Len(BLOCK),
                Arg::F32(0.0),
            ],
        };
        Some(Region {
            tasks: vec![(image, view.n as u32)],
            body: for_loop(row, view.h, vec![call]),
            cost: (view.h * view.w) as u64,
        })
    }
}

/// A dense N × C matrix, C a multiple of 16, seen as blocked 1 × 1 maps.
pub fn pixels(src: Plain, n: usize, c: usize) -> Blocked {
    Blocked {
        buffer: src.buffer,
        base: src.base,
        image: c as i64,
        block: BLOCK as i64,
        row: BLOCK as i64,
        n,
        slices: 1,
        c,
        h: 1,
        w: 1,
        halo: Halo::default(),
    }
}
