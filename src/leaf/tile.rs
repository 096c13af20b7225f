// Register tiles: a batch-reduce GEMM and a depthwise convolution on channel blocks
// of 16 lanes, one body for all instruction sets.
//
// The accumulators are arrays of constant size that the compiler keeps in registers;
// the body is always inlined into one function per instruction set, which alone
// carries the `target_feature`.

use std::hint::black_box;
use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _CMP_GT_OQ, _CMP_NGT_UQ, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps,
    _mm256_andnot_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_div_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_srli_epi32, _mm256_storeu_ps,
    _mm256_sub_epi32, _mm256_sub_ps, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_div_ps, _mm512_fixupimm_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi32,
    _mm512_sub_ps,
};

// The 16 channels of a block. All functions are unsafe because the instruction set
// must be there; `load` and `store` touch 16 elements.
pub trait Block: Copy {
    // One of `PARTS` parts of a block, next to each other: long expressions of one have room
    // in the registers.
    type Part: Block;
    const PARTS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    // Has 16 elements fetched into the second-level cache, where the CPU can.
    fn fetch(_from: *const f32) {}
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    // self < other ? other : self.
    unsafe fn max(self, other: Self) -> Self;
    // self + a · b, rounded once where the instruction set can.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    // 0 > self ? 0 : self, so that NaN stays NaN.
    unsafe fn max_zero(self) -> Self;
    // 0 < self ? 0 : self.
    unsafe fn min_zero(self) -> Self;
    // max_zero + 0 · min_zero, so that −∞ becomes NaN.
    #[inline(always)]
    unsafe fn rectified(self) -> Self {
        unsafe {
            self.max_zero()
                .add_product(Self::splat(0.0), self.min_zero())
        }
    }
    // The number whose bits are `bits`, less a quarter of this one's bits.
    unsafe fn quarter_bits_from(self, bits: u32) -> Self;
    // 0 where `other` is above `limit`.
    unsafe fn unless_above(self, other: Self, limit: f32) -> Self;
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Block for Avx512 {
    type Part = Self;
    const PARTS: usize = 1;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    fn fetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(other.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn max_zero(self) -> Self {
        unsafe { Avx512(_mm512_max_ps(_mm512_setzero_ps(), self.0)) }
    }
    #[inline(always)]
    unsafe fn min_zero(self) -> Self {
        unsafe { Avx512(_mm512_min_ps(_mm512_setzero_ps(), self.0)) }
    }
    #[inline(always)]
    unsafe fn rectified(self) -> Self {
        // What becomes of each kind of number, four bits each: those of 0 and above stay (1), as
        // does NaN (2: if signaling, quiet), below is 0 (8), and −∞ gives NaN (3).
        // From the highest bits: above 0, below 0, +∞, −∞, 1, ±0, signaling NaN, NaN.
        const KINDS: i32 = 0x1813_1122;
        let kinds = unsafe { _mm512_set1_epi32(KINDS) };
        unsafe { Avx512(_mm512_fixupimm_ps::<0>(self.0, self.0, kinds)) }
    }
    #[inline(always)]
    unsafe fn quarter_bits_from(self, bits: u32) -> Self {
        unsafe {
            let quarter = _mm512_srli_epi32::<2>(_mm512_castps_si512(self.0));
            let difference = _mm512_sub_epi32(_mm512_set1_epi32(bits as i32), quarter);
            Avx512(_mm512_castsi512_ps(difference))
        }
    }
    #[inline(always)]
    unsafe fn unless_above(self, other: Self, limit: f32) -> Self {
        unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(other.0, _mm512_set1_ps(limit));
            Avx512(_mm512_maskz_mov_ps(kept, self.0))
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Block for Avx2 {
    type Part = Self;
    const PARTS: usize = 1;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    fn fetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_sub_ps(self.0, other.0),
                _mm256_sub_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_div_ps(self.0, other.0),
                _mm256_div_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_max_ps(other.0, self.0),
                _mm256_max_ps(other.1, self.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max_zero(self) -> Self {
        unsafe {
            let zero = _mm256_setzero_ps();
            Avx2(_mm256_max_ps(zero, self.0), _mm256_max_ps(zero, self.1))
        }
    }
    #[inline(always)]
    unsafe fn min_zero(self) -> Self {
        unsafe {
            let zero = _mm256_setzero_ps();
            Avx2(_mm256_min_ps(zero, self.0), _mm256_min_ps(zero, self.1))
        }
    }
    #[inline(always)]
    unsafe fn quarter_bits_from(self, bits: u32) -> Self {
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            let quarter = |x| _mm256_srli_epi32::<2>(_mm256_castps_si256(x));
            let from = |x| _mm256_castsi256_ps(_mm256_sub_epi32(bits, quarter(x)));
            Avx2(from(self.0), from(self.1))
        }
    }
    #[inline(always)]
    unsafe fn unless_above(self, other: Self, limit: f32) -> Self {
        unsafe {
            let limit = _mm256_set1_ps(limit);
            let above = |x| _mm256_cmp_ps::<_CMP_GT_OQ>(x, limit);
            Avx2(
                _mm256_andnot_ps(above(other.0), self.0),
                _mm256_andnot_ps(above(other.1), self.1),
            )
        }
    }
}

#[derive(Clone, Copy)]
pub struct Portable<const LANES: usize = 16>([f32; LANES]);

impl<const LANES: usize> Portable<LANES> {
    #[inline(always)]
    fn zip(mut self, other: Self, f: fn(f32, f32) -> f32) -> Self {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a = f(*a, *b);
        }
        self
    }
}

impl<const LANES: usize> Block for Portable<LANES> {
    type Part = Portable<4>;
    const PARTS: usize = LANES / 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Portable(from.cast::<[f32; LANES]>().read()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        self.zip(a.zip(b, |x, y| x * y), |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max_zero(self) -> Self {
        self.zip(self, |v, _| if 0.0 > v { 0.0 } else { v })
    }
    #[inline(always)]
    unsafe fn min_zero(self) -> Self {
        self.zip(self, |v, _| if 0.0 < v { 0.0 } else { v })
    }
    #[inline(always)]
    unsafe fn quarter_bits_from(self, bits: u32) -> Self {
        Portable(
            self.0
                .map(|x| f32::from_bits(bits.wrapping_sub(x.to_bits() >> 2))),
        )
    }
    #[inline(always)]
    unsafe fn unless_above(mut self, other: Self, limit: f32) -> Self {
        for (x, y) in self.0.iter_mut().zip(&other.0) {
            *x = if *y > limit { 0.0 } else { *x };
        }
        self
    }
}

// What happens to the sums, and where they go.
#[derive(Clone, Copy)]
pub struct Epilogue {
    pub bias: *const f32,
    pub residual: *const f32,
    pub slopes: *const f32,
    pub dst: *mut f32,
    pub dst_stride: usize,
    pub residual_stride: usize,
    pub dst_px: usize,
    pub act: usize,
    pub slope: f32,
}

impl Epilogue {
    // The same for a place further on.
    #[inline(always)]
    pub unsafe fn moved(self, dst: usize, residual: usize) -> Self {
        unsafe {
            Epilogue {
                dst: self.dst.add(dst),
                residual: if self.residual.is_null() {
                    self.residual
                } else {
                    self.residual.add(residual)
                },
                ..self
            }
        }
    }

    // Adds bias and residual, applies the activation, stores.
    #[inline(always)]
    pub unsafe fn finish<B: Block, const MR: usize, const NB: usize>(self, mut acc: [[B; NB]; MR]) {
        unsafe {
            for j in 0..NB {
                let bias = B::load(self.bias.add(j * 16));
                for row in &mut acc {
                    row[j] = row[j].add(bias);
                }
            }
            if !self.residual.is_null() {
                for (m, row) in acc.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        let at = j * self.residual_stride + m * self.dst_px;
                        *sum = sum.add(B::load(self.residual.add(at)));
                    }
                }
            }
            if self.act == 1 && self.slope.to_bits() == 0 {
                for sum in acc.as_flattened_mut() {
                    *sum = sum.rectified();
                }
            } else if self.act != 0 {
                for j in 0..NB {
                    let slope = if self.act == 1 {
                        B::splat(self.slope)
                    } else {
                        B::load(self.slopes.add(j * 16))
                    };
                    for row in &mut acc {
                        let v = row[j];
                        row[j] = v.max_zero().add_product(slope, v.min_zero());
                    }
                }
            }
            for (m, row) in acc.iter().enumerate() {
                for (j, sum) in row.iter().enumerate() {
                    sum.store(self.dst.add(j * self.dst_stride + m * self.dst_px));
                }
            }
        }
    }
}

// The sums of one segment of `taps` source elements per pixel. Of 16 taps, four are
// unrolled: enough to hide the loop, and short enough for the decoded-instruction cache.
#[inline(always)]
unsafe fn accumulate<B: Block, const MR: usize, const NB: usize, const TAPS: usize>(
    acc: &mut [[B; NB]; MR],
    src: *const f32,
    weights: *const f32,
    taps: usize,
    weight_stride: usize,
    px: usize,
) {
    let unroll = if TAPS == 0 { 1 } else { 4 };
    let taps = if TAPS == 0 { taps } else { TAPS };
    let mut first = 0;
    while first < taps {
        for t in first..first + unroll {
            unsafe {
                let mut column = [B::splat(0.0); NB];
                for (j, c) in column.iter_mut().enumerate() {
                    *c = B::load(weights.add(j * weight_stride + t * 16));
                }
                for (m, row) in acc.iter_mut().enumerate() {
                    let x = B::splat(*src.add(m * px + t));
                    for (sum, c) in row.iter_mut().zip(&column) {
                        *sum = sum.add_product(x, *c);
                    }
                }
            }
        }
        first += unroll;
    }
}

// Segments whose products are summed in one accumulator: the longer a sum, the more it
// loses. Sums of chunks are added in memory. Segments of a plain source are shorter.
const fn chunk(taps: usize) -> usize {
    if taps == 0 { 48 } else { 32 }
}

#[inline(always)]
unsafe fn add<B: Block, const MR: usize, const NB: usize>(
    acc: &mut [[B; NB]; MR],
    sums: &[[B; NB]; MR],
) {
    for (row, sums) in acc.iter_mut().zip(sums) {
        for (a, sum) in row.iter_mut().zip(sums) {
            *a = unsafe { sum.add(*a) };
        }
    }
}

macro_rules! leaves {
    ($block:ty, $tile:ident, $depthwise:ident, #[$($feature:meta),*]) => {
        // Safety: the instruction set is there; all that the arguments say is read or
        // written lies in live memory, and nothing that is written is read or written
        // elsewhere at the same time.
        $(#[$feature])*
        pub unsafe extern "C" fn $tile<
            const MR: usize,
            const NB: usize,
            const PX: usize,
            const TAPS: usize,
        >(
            src: *const f32,
            weights: *const f32,
            bias: *const f32,
            residual: *const f32,
            slopes: *const f32,
            dst: *mut f32,
            offsets: *const i32,
            segments: usize,
            taps: usize,
            weight_stride: usize,
            dst_stride: usize,
            residual_stride: usize,
            src_px: usize,
            dst_px: usize,
            act: usize,
            slope: f32,
            ahead: *const f32,
            ahead_step: usize,
            ahead_stride: usize,
        ) {
            let px = if PX == 0 { src_px } else { PX };
            let segment = if TAPS == 0 { taps } else { TAPS } * 16;
            let streams = if ahead_stride == 0 { 1 } else { NB };
            unsafe {
                let mut acc = [[<$block as Block>::splat(0.0); NB]; MR];
                // Hidden from the compiler, or it carries them through the loop as values, which
                // a tile of one chunk spills and reloads as well.
                let mut sums = MaybeUninit::<[[$block; NB]; MR]>::uninit();
                let sums = black_box(&mut sums);
                let mut first = 0;
                loop {
                    let end = if segments - first > chunk(TAPS) { first + chunk(TAPS) } else { segments };
                    for s in first..end {
                        let mut fetched = 0;
                        while TAPS > 0 && fetched < ahead_step {
                            let at = ahead.wrapping_add(s * ahead_step + fetched);
                            for j in 0..streams {
                                <$block>::fetch(at.wrapping_add(j * ahead_stride));
                            }
                            fetched += 16;
                        }
                        accumulate::<$block, MR, NB, TAPS>(
                            &mut acc,
                            src.offset(*offsets.add(s) as isize),
                            weights.add(s * segment),
                            taps,
                            weight_stride,
                            px,
                        );
                    }
                    if first > 0 {
                        add::<$block, MR, NB>(&mut acc, sums.assume_init_ref());
                    }
                    if end == segments {
                        break;
                    }
                    sums.write(acc);
                    acc = [[<$block as Block>::splat(0.0); NB]; MR];
                    first = end;
                }
                let epilogue = Epilogue {
                    bias,
                    residual,
                    slopes,
                    dst,
                    dst_stride,
                    residual_stride,
                    dst_px,
                    act,
                    slope,
                };
                epilogue.finish(acc);
            }
        }

        // Safety: as above.
        $(#[$feature])*
        pub unsafe extern "C" fn $depthwise<
            const MR: usize,
            const PX: usize,
            const TAPS: usize,
        >(
            src: *const f32,
            weights: *const f32,
            bias: *const f32,
            residual: *const f32,
            slopes: *const f32,
            dst: *mut f32,
            offsets: *const i32,
            segments: usize,
            src_px: usize,
            dst_px: usize,
            act: usize,
            slope: f32,
        ) {
            let px = if PX == 0 { src_px } else { PX };
            unsafe {
                let mut acc = [[<$block as Block>::splat(0.0)]; MR];
                for s in 0..segments {
                    let x = src.offset(*offsets.add(s) as isize);
                    let mut row = [<$block as Block>::splat(0.0); TAPS];
                    for (t, w) in row.iter_mut().enumerate() {
                        *w = <$block as Block>::load(weights.add((s * TAPS + t) * 16));
                    }
                    // Pixel by pixel: what the windows of neighbours share is loaded once,
                    // or two loads a cycle would be the limit, not the multiply-adds.
                    for (m, sum) in acc.iter_mut().enumerate() {
                        for (t, w) in row.iter().enumerate() {
                            let x = <$block as Block>::load(x.add(m * px + t * 16));
                            sum[0] = sum[0].add_product(x, *w);
                        }
                    }
                }
                let epilogue = Epilogue {
                    bias,
                    residual,
                    slopes,
                    dst,
                    dst_stride: 0,
                    residual_stride: 0,
                    dst_px,
                    act,
                    slope,
                };
                epilogue.finish(acc);
            }
        }
    };
}

leaves!(
    Avx512,
    tile_avx512,
    depthwise_avx512,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
);
leaves!(
    Avx2,
    tile_avx2,
    depthwise_avx2,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx2,fma")]
);
leaves!(Portable, tile_portable, depthwise_portable, #[]);
