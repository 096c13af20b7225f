// Caffe's LRN across channels (lrn_layer.cpp) on channel blocks of 16 lanes: one body for
// all instruction sets.

use super::math::pow;
#[cfg(target_arch = "x86_64")]
use super::tile::{Avx2, Avx512};
use super::tile::{Block, Portable};

// Bits of x^(−1/4), less a quarter of those of x: the logarithm of x, nearly. Times the
// fourth power of what comes out, x is between 0.8822 and 1.1325.
const QUARTER: u32 = 0x4f58_7000;

// m^(−1/4) there, within 5.8e-5: a polynomial of the least relative error.
const ROOT: [f32; 3] = [1.406_679_8, -0.561_976_5, 0.155_302_75];

// Pixels whose squares are in the scratch: all but one are ahead of the one whose squares
// are summed, or each sum would wait for its stores.
const PIXELS: usize = 4;

// x^(−3/4) of positive normal numbers: a guess at y = x^(−1/4), a step to five digits and,
// with r = x·y⁴ − 1, the first terms of y³ · (1 + r)^(−3/4). Of infinity, 0.
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
        let y = guess.mul(c0.add_product(c1.add_product(c2, m), m));
        let r = B::splat(-1.0).add_product(x, fourth(y));
        let cube = y.mul(y).mul(y);
        let power = cube.add_product(cube, B::splat(-0.75).mul(r));
        power.unless_above(x, f32::MAX)
    }
}

// The first `lanes` of a block, then zeros.
#[inline(always)]
unsafe fn only<B: Block>(lanes: usize, block: B) -> B {
    if lanes == 16 {
        return block;
    }
    unsafe {
        let mut all = [0.0; 16];
        block.store(all.as_mut_ptr());
        for (lane, x) in all.iter_mut().enumerate() {
            *x = if lane < lanes { *x } else { 0.0 };
        }
        B::load(all.as_ptr())
    }
}

#[derive(Clone, Copy)]
struct Lrn {
    src: *const f32,
    dst: *mut f32,
    channels: usize,
    src_block_stride: usize,
    dst_block_stride: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    k: f32,
    in_place: bool,
}

impl Lrn {
    #[inline(always)]
    unsafe fn load<B: Block>(self, pixel: usize, block: usize) -> B {
        unsafe { B::load(self.src.add(block * self.src_block_stride + pixel * 16)) }
    }

    // The squares of a pixel's channels.
    #[inline(always)]
    unsafe fn squares<B: Block>(self, pixel: usize, to: *mut f32) {
        let (whole, rest) = (self.channels / 16, self.channels % 16);
        unsafe {
            for block in 0..whole {
                let x = self.load::<B>(pixel, block);
                x.mul(x).store(to.add(block * 16));
            }
            if rest > 0 {
                let x = only(rest, self.load::<B>(pixel, whole));
                x.mul(x).store(to.add(whole * 16));
            }
        }
    }

    // x^−beta. QUICK: beta is 3/4, x a positive normal number, infinity or NaN.
    #[inline(always)]
    unsafe fn inverse_power<B: Block, const QUICK: bool>(self, x: B) -> B {
        unsafe {
            if QUICK && B::PARTS == 1 {
                return inverse_three_quarters(x);
            }
            let mut lanes = [0.0; 16];
            x.store(lanes.as_mut_ptr());
            if QUICK {
                for part in lanes.chunks_exact_mut(16 / B::PARTS) {
                    inverse_three_quarters(B::Part::load(part.as_ptr())).store(part.as_mut_ptr());
                }
            } else {
                for x in &mut lanes {
                    *x = pow(*x, -self.beta);
                }
            }
            B::load(lanes.as_ptr())
        }
    }

    // `lanes` channels of a pixel, whose windows of squares begin at `window`.
    #[inline(always)]
    unsafe fn block<B: Block, const QUICK: bool>(
        self,
        pixel: usize,
        block: usize,
        lanes: usize,
        window: *const f32,
    ) {
        unsafe {
            let window = window.add(block * 16);
            let mut sum = B::load(window);
            for i in 1..self.size {
                sum = sum.add(B::load(window.add(i)));
            }
            let base = B::splat(self.k).add_product(B::splat(self.alpha), sum);
            let factor = self.inverse_power::<B, QUICK>(base);
            // In place, Caffe writes the factor over its input before it multiplies.
            let x = if self.in_place {
                factor
            } else {
                self.load::<B>(pixel, block)
            };
            let to = self.dst.add(block * self.dst_block_stride + pixel * 16);
            only(lanes, x.mul(factor)).store(to);
        }
    }

    #[inline(always)]
    unsafe fn line<B: Block, const QUICK: bool>(self, pixels: usize, scratch: *mut f32) {
        let (whole, rest) = (self.channels / 16, self.channels % 16);
        // Squares lie on whole lines of the cache, with zeros before and after them.
        let zeros = (self.size / 2).div_ceil(16) * 16;
        let pixel_stride = self.channels.div_ceil(16) * 16 + 2 * zeros;
        unsafe {
            for i in 0..PIXELS * pixel_stride {
                *scratch.add(i) = 0.0;
            }
            let squares = |pixel: usize| scratch.add(pixel % PIXELS * pixel_stride + zeros);
            for ahead in 0..pixels + PIXELS - 1 {
                if ahead < pixels {
                    self.squares::<B>(ahead, squares(ahead));
                }
                if ahead < PIXELS - 1 {
                    continue;
                }
                let pixel = ahead - (PIXELS - 1);
                let window = squares(pixel).sub(self.size / 2);
                for block in 0..whole {
                    self.block::<B, QUICK>(pixel, block, 16, window);
                }
                if rest > 0 {
                    self.block::<B, QUICK>(pixel, whole, rest, window);
                }
            }
        }
    }

    // The same, with the commonest parameters known to the compiler.
    #[inline(always)]
    unsafe fn known<B: Block>(self, pixels: usize, scratch: *mut f32) {
        let positive = self.k >= f32::MIN_POSITIVE && self.alpha >= 0.0;
        unsafe {
            match (positive && self.beta == 0.75, self.size) {
                (true, 5) => Lrn { size: 5, ..self }.line::<B, true>(pixels, scratch),
                (true, _) => self.line::<B, true>(pixels, scratch),
                (false, _) => self.line::<B, false>(pixels, scratch),
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
                let layer = Lrn {
                    src,
                    dst,
                    channels,
                    src_block_stride,
                    dst_block_stride,
                    size,
                    alpha,
                    beta,
                    k,
                    in_place: in_place == 1,
                };
                layer.known::<$block>(pixels, scratch);
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
