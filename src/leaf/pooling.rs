// Caffe's MAX and AVE pooling (pooling_layer.cpp) on channel blocks of 16 lanes: one body
// for all instruction sets.

#[cfg(target_arch = "x86_64")]
use super::tile::{Avx2, Avx512};
use super::tile::{Block, Portable};

// Outputs that are computed together: their windows share pixels.
const TOGETHER: usize = 4;

// `slices` × `rows` × `columns` pixels; the windows of neighbouring outputs are `px` apart.
#[derive(Clone, Copy)]
struct Window {
    slices: usize,
    slice_stride: usize,
    rows: usize,
    row_stride: usize,
    columns: usize,
    px: usize,
    area: f32,
}

impl Window {
    // M neighbouring outputs.
    #[inline(always)]
    unsafe fn outputs<B: Block, const M: usize, const AVE: bool>(
        self,
        src: *const f32,
        dst: *mut f32,
    ) {
        unsafe {
            let mut acc = [B::splat(if AVE { 0.0 } else { f32::MIN }); M];
            for slice in 0..self.slices {
                for row in 0..self.rows {
                    let row = src.add(slice * self.slice_stride + row * self.row_stride);
                    for column in 0..self.columns {
                        for (m, a) in acc.iter_mut().enumerate() {
                            let x = B::load(row.add(m * self.px + column * 16));
                            *a = if AVE { a.add(x) } else { a.max(x) };
                        }
                    }
                }
            }
            for (m, a) in acc.iter().enumerate() {
                let output = if AVE { a.div(B::splat(self.area)) } else { *a };
                output.store(dst.add(m * 16));
            }
        }
    }

    // A line of outputs. What is left over at its end goes with outputs before it.
    #[inline(always)]
    unsafe fn line<B: Block, const AVE: bool>(self, src: *const f32, dst: *mut f32, pixels: usize) {
        let mut first = 0;
        while first < pixels {
            unsafe {
                if pixels < TOGETHER {
                    let (src, dst) = (src.add(first * self.px), dst.add(first * 16));
                    self.outputs::<B, 1, AVE>(src, dst);
                    first += 1;
                } else {
                    let rest = pixels - first;
                    let at = if rest < TOGETHER {
                        pixels - TOGETHER
                    } else {
                        first
                    };
                    let (src, dst) = (src.add(at * self.px), dst.add(at * 16));
                    self.outputs::<B, TOGETHER, AVE>(src, dst);
                    first += TOGETHER;
                }
            }
        }
    }

    // The same, with the commonest windows known to the compiler.
    #[inline(always)]
    unsafe fn known<B: Block, const AVE: bool>(
        self,
        src: *const f32,
        dst: *mut f32,
        pixels: usize,
    ) {
        let with = |columns, px| Window {
            columns,
            px,
            ..self
        };
        unsafe {
            match (self.columns, self.px) {
                (3, 16) => with(3, 16).line::<B, AVE>(src, dst, pixels),
                (3, 32) => with(3, 32).line::<B, AVE>(src, dst, pixels),
                (2, 32) => with(2, 32).line::<B, AVE>(src, dst, pixels),
                _ => self.line::<B, AVE>(src, dst, pixels),
            }
        }
    }
}

macro_rules! leaf {
    ($block:ty, $name:ident, #[$($feature:meta),*]) => {
        // Safety: the instruction set is there, the memory that the arguments say is live,
        // and nobody else reads or writes what is written.
        $(#[$feature])*
        pub unsafe extern "C" fn $name<const AVE: bool>(
            src: *const f32,
            dst: *mut f32,
            lines: usize,
            pixels: usize,
            src_line_stride: usize,
            src_px: usize,
            dst_line_stride: usize,
            slices: usize,
            rows: usize,
            columns: usize,
            slice_stride: usize,
            row_stride: usize,
            area: f32,
        ) {
            let window = Window {
                slices,
                slice_stride,
                rows,
                row_stride,
                columns,
                px: src_px,
                area,
            };
            for line in 0..lines {
                unsafe {
                    let src = src.add(line * src_line_stride);
                    let dst = dst.add(line * dst_line_stride);
                    window.known::<$block, AVE>(src, dst, pixels);
                }
            }
        }
    };
}

leaf!(
    Avx512,
    pool_avx512,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
);
leaf!(
    Avx2,
    pool_avx2,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx2,fma")]
);
leaf!(Portable, pool_portable, #[]);
