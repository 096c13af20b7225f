// Caffe's LRN across channels (lrn_layer.cpp) on channel blocks of 16 lanes: one body for
// all instruction sets, in which nothing is fused, so that all compute the same bits.

use super::math::pow;
#[cfg(target_arch = "x86_64")]
use super::tile::{Avx2, Avx512};
use super::tile::{Block, Portable};

// Bits of x^(−1/4), less a quarter of those of x: the logarithm of x, nearly. Times the
// fourth power of what comes out, x is between 0.8822 and 1.1325.
const QUARTER: u32 = 0x4f58_7000;

// m^(−1/4) there, within 5.8e-5: a polynomial of the least relative error.
const ROOT: [f32; 3] = [1.406_679_8, -0.561_976_5, 0.155_302_75];

// x^(−3/4) of positive normal numbers: a guess at y = x^(−1/4), a step to five digits and,
// with r = 1 − x·y⁴, the first terms of y³ · (1 − r)^(−3/4).
#[inline(always)]
unsafe fn inverse_three_quarters<B: Block>(x: B) -> B {
    unsafe {
        let fourth = |y: B| {
            let square = y.mul(y);
            square.mul(square)
        };
        let guess = x.quarter_bits_from(QUARTER);
        let m = x.mul(fourth(guess));
        let [c0, c1, c2] = ROOT.map(|c| B::splat(c));
        let y = guess.mul(c2.mul(m).add(c1).mul(m).add(c0));
        let r = B::splat(1.0).sub(x.mul(fourth(y)));
        let cube = y.mul(y).mul(y);
        cube.add(cube.mul(B::splat(0.75).mul(r)))
    }
}

// x^−beta.
#[inline(always)]
unsafe fn inverse_powers<B: Block>(x: B, beta: f32) -> B {
    unsafe {
        let quick = beta == 0.75 && x.all_between(f32::MIN_POSITIVE, f32::MAX);
        if quick && B::PARTS == 1 {
            return inverse_three_quarters(x);
        }
        let mut lanes = [0.0; 16];
        x.store(lanes.as_mut_ptr());
        if quick {
            for part in lanes.chunks_exact_mut(16 / B::PARTS) {
                inverse_three_quarters(B::Part::load(part.as_ptr())).store(part.as_mut_ptr());
            }
        } else {
            for x in &mut lanes {
                *x = pow(*x, -beta);
            }
        }
        B::load(lanes.as_ptr())
    }
}

// The block that starts at channel `first`, with zeros after the last channel.
#[inline(always)]
unsafe fn without_tail<B: Block>(block: B, first: usize, channels: usize) -> B {
    if channels - first >= 16 {
        return block;
    }
    unsafe {
        let mut lanes = [0.0; 16];
        block.store(lanes.as_mut_ptr());
        for (lane, x) in lanes.iter_mut().enumerate() {
            *x = if first + lane < channels { *x } else { 0.0 };
        }
        B::load(lanes.as_ptr())
    }
}

// The squares of a pixel's channels, block by block.
#[inline(always)]
unsafe fn squares<B: Block>(src: *const f32, stride: usize, channels: usize, to: *mut f32) {
    let mut first = 0;
    while first < channels {
        unsafe {
            let x = without_tail(B::load(src.add(first / 16 * stride)), first, channels);
            x.mul(x).store(to.add(first));
        }
        first += 16;
    }
}

#[inline(always)]
unsafe fn lrn<B: Block>(
    src: *const f32,
    dst: *mut f32,
    scratch: *mut f32,
    channels: usize,
    pixels: usize,
    src_block_stride: usize,
    dst_block_stride: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    k: f32,
    in_place: usize,
) {
    // Squares of two pixels with zeros around: those of the next pixel are written
    // before this one's are summed, or each sum would wait for its stores.
    let half = channels.div_ceil(16) * 16 + size;
    for i in 0..2 * half {
        unsafe { *scratch.add(i) = 0.0 };
    }
    unsafe { squares::<B>(src, src_block_stride, channels, scratch.add(size / 2)) };
    for pixel in 0..pixels {
        unsafe {
            if pixel + 1 < pixels {
                let to = scratch.add((pixel + 1) % 2 * half + size / 2);
                let next = src.add((pixel + 1) * 16);
                squares::<B>(next, src_block_stride, channels, to);
            }
            let window = scratch.add(pixel % 2 * half);
            let src = src.add(pixel * 16);
            let dst = dst.add(pixel * 16);
            let mut first = 0;
            while first < channels {
                let mut sum = B::load(window.add(first));
                for i in 1..size {
                    sum = sum.add(B::load(window.add(first + i)));
                }
                let base = B::splat(k).add(B::splat(alpha).mul(sum));
                let factor = inverse_powers(base, beta);
                // In place, Caffe writes the factor over its input before it multiplies.
                let x = if in_place == 1 {
                    factor
                } else {
                    B::load(src.add(first / 16 * src_block_stride))
                };
                without_tail(x.mul(factor), first, channels)
                    .store(dst.add(first / 16 * dst_block_stride));
                first += 16;
            }
        }
    }
}

// Safety: the instruction set is there, the memory that the arguments say is live, and
// nobody else reads or writes what is written.
macro_rules! leaf {
    ($block:ty, $name:ident, #[$($feature:meta),*]) => {
        $(#[$feature])*
        pub unsafe extern "C" fn $name(
            src: *const f32,
            dst: *mut f32,
            scratch: *mut f32,
            channels: usize,
            pixels: usize,
            src_block_stride: usize,
            dst_block_stride: usize,
            size: usize,
            alpha: f32,
            beta: f32,
            k: f32,
            in_place: usize,
        ) {
            unsafe {
                lrn::<$block>(
                    src,
                    dst,
                    scratch,
                    channels,
                    pixels,
                    src_block_stride,
                    dst_block_stride,
                    size,
                    alpha,
                    beta,
                    k,
                    in_place,
                )
            }
        }
    };
}

leaf!(
    Avx512,
    lrn_avx512,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
);
leaf!(
    Avx2,
    lrn_avx2,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx2,fma")]
);
leaf!(Portable, lrn_portable, #[]);
