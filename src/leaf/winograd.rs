// Winograd's convolution: tiles of a map to values at points, and products of such values
// back to outputs; 16 channels at a time, one body for all instruction sets.
//
// A row of N inputs and K weights are polynomials whose product gives M = N + 1 − K
// outputs. N points settle it: pairs ±p, then 0 where N is even, then infinity. In two
// dimensions, N × N inputs become N² values, value (y, x) at point y of the rows and
// point x of the columns. Weights come transformed.
//
// Even and odd parts serve both points of a pair. What a row of values needs is loaded
// anew for each pair, so that all sums stay in registers.

use super::tile::{Avx2, Avx512, Block, Epilogue, Portable};

pub struct Points<const N: usize>;

impl<const N: usize> Points<N> {
    pub const PAIRS: usize = (N - 1) / 2;
    // How many zeros there are among the points.
    pub const ZEROS: usize = 1 - N % 2;

    // The positive ones of the pairs: all products of them below are exact.
    pub const PAIR: [f32; 3] = match N {
        4 => [1.0, 0.0, 0.0],
        6 => [0.75, 1.5, 0.0],
        _ => [0.3125, 0.875, 1.625],
    };

    // Coefficients of Π (t − p²), the lowest first, over all pairs but number `k`: those
    // of the even and of the odd part. Over all pairs in the last row.
    const PRODUCTS: [[f32; 4]; 4] = {
        let mut products = [[0.0; 4]; 4];
        let mut without = 0;
        while without < 4 {
            let mut c = [1.0, 0.0, 0.0, 0.0];
            let mut k = 0;
            while k < Self::PAIRS {
                if k != without {
                    let square = Self::PAIR[k] * Self::PAIR[k];
                    c = [
                        -square * c[0],
                        c[0] - square * c[1],
                        c[1] - square * c[2],
                        c[2] - square * c[3],
                    ];
                }
                k += 1;
            }
            products[without] = c;
            without += 1;
        }
        products
    };

    // Every second element from `first` on, times the coefficients, of which the last is 1.
    #[inline(always)]
    unsafe fn combine<B: Block>(d: &[B; N], first: usize, without: usize) -> B {
        let terms = if without == 3 {
            Self::PAIRS
        } else {
            Self::PAIRS - 1
        };
        unsafe {
            let mut sum = d[first + 2 * terms];
            for i in (0..terms).rev() {
                let c = B::splat(Self::PRODUCTS[without][i]);
                sum = sum.add_product(d[first + 2 * i], c);
            }
            sum
        }
    }

    // The values at both points of pair `k`.
    #[inline(always)]
    unsafe fn pair<B: Block>(d: &[B; N], k: usize) -> [B; 2] {
        unsafe {
            let odd = Self::combine(d, Self::ZEROS, k);
            let even = Self::combine(d, Self::ZEROS + 1, k);
            let p = Self::PAIR[k];
            [
                even.add_product(odd, B::splat(p)),
                even.add_product(odd, B::splat(-p)),
            ]
        }
    }

    // The values at all points.
    #[inline(always)]
    unsafe fn values<B: Block>(d: &[B; N]) -> [B; N] {
        unsafe {
            // The last point is infinity.
            let mut values = [Self::combine(d, Self::ZEROS, 3); N];
            for k in 0..Self::PAIRS {
                [values[2 * k], values[2 * k + 1]] = Self::pair(d, k);
            }
            if Self::ZEROS == 1 {
                values[N - 2] = Self::combine(d, 0, 3);
            }
            values
        }
    }

    // What pair `k` adds to output `j`, but for a factor, and that factor.
    #[inline(always)]
    unsafe fn part<B: Block>(values: &[B; N], k: usize, j: usize) -> (B, B) {
        let [plus, minus] = [values[2 * k], values[2 * k + 1]];
        let mut power = 1.0;
        for _ in 0..j {
            power *= Self::PAIR[k];
        }
        unsafe {
            let part = if j & 1 == 0 {
                plus.add(minus)
            } else {
                plus.sub(minus)
            };
            (part, B::splat(power))
        }
    }

    // Output number `j` of `outputs`.
    #[inline(always)]
    unsafe fn output<B: Block>(values: &[B; N], j: usize, outputs: usize) -> B {
        unsafe {
            let (part, power) = Self::part(values, 0, j);
            let mut sum = if j == outputs - 1 {
                values[N - 1].add_product(part, power)
            } else if j == 0 && Self::ZEROS == 1 {
                values[N - 2].add_product(part, power)
            } else {
                part.mul(power)
            };
            for k in 1..Self::PAIRS {
                let (part, power) = Self::part(values, k, j);
                sum = sum.add_product(part, power);
            }
            sum
        }
    }
}

// N blocks, `stride` elements apart.
#[inline(always)]
unsafe fn column<B: Block, const N: usize>(from: *const f32, stride: usize) -> [B; N] {
    unsafe {
        let mut column = [B::splat(0.0); N];
        for (i, block) in column.iter_mut().enumerate() {
            *block = B::load(from.add(i * stride));
        }
        column
    }
}

// Row number `y` of values: those at all points of the columns.
#[inline(always)]
unsafe fn store_row<B: Block, const N: usize>(
    row: &[B; N],
    y: usize,
    dst: *mut f32,
    point_stride: usize,
) {
    unsafe {
        for (x, value) in Points::<N>::values(row).iter().enumerate() {
            value.store(dst.add((y * N + x) * point_stride));
        }
    }
}

// Both rows of values of pair K.
#[inline(always)]
unsafe fn pair_of_rows<B: Block, const N: usize, const K: usize>(
    src: *const f32,
    row_stride: usize,
    dst: *mut f32,
    point_stride: usize,
) {
    unsafe {
        let mut plus = [B::splat(0.0); N];
        let mut minus = plus;
        for (x, (plus, minus)) in plus.iter_mut().zip(&mut minus).enumerate() {
            let column: [B; N] = column(src.add(x * 16), row_stride);
            [*plus, *minus] = Points::<N>::pair(&column, K);
        }
        store_row(&plus, 2 * K, dst, point_stride);
        store_row(&minus, 2 * K + 1, dst, point_stride);
    }
}

// Row number `y` of values, of point 0 or infinity, whose sum begins at row `first`.
#[inline(always)]
unsafe fn single_row<B: Block, const N: usize>(
    src: *const f32,
    row_stride: usize,
    first: usize,
    y: usize,
    dst: *mut f32,
    point_stride: usize,
) {
    unsafe {
        let mut row = [B::splat(0.0); N];
        for (x, value) in row.iter_mut().enumerate() {
            let column: [B; N] = column(src.add(x * 16), row_stride);
            *value = Points::<N>::combine(&column, first, 3);
        }
        store_row(&row, y, dst, point_stride);
    }
}

#[inline(always)]
unsafe fn to_points<B: Block, const N: usize>(
    src: *const f32,
    dst: *mut f32,
    tiles: usize,
    src_row_stride: usize,
    src_step: usize,
    point_stride: usize,
) {
    for t in 0..tiles {
        unsafe {
            let src = src.add(t * src_step);
            let dst = dst.add(t * 16);
            pair_of_rows::<B, N, 0>(src, src_row_stride, dst, point_stride);
            if Points::<N>::PAIRS > 1 {
                pair_of_rows::<B, N, 1>(src, src_row_stride, dst, point_stride);
            }
            if Points::<N>::PAIRS > 2 {
                pair_of_rows::<B, N, 2>(src, src_row_stride, dst, point_stride);
            }
            let zeros = Points::<N>::ZEROS;
            if zeros == 1 {
                single_row::<B, N>(src, src_row_stride, 0, N - 2, dst, point_stride);
            }
            single_row::<B, N>(src, src_row_stride, zeros, N - 1, dst, point_stride);
        }
    }
}

// Where the outputs of a tile go, and how many of them: `height` rows of `width` pixels.
#[derive(Clone, Copy)]
struct Outputs {
    epilogue: Epilogue,
    height: usize,
    width: usize,
    dst_row_stride: usize,
    residual_row_stride: usize,
}

impl Outputs {
    // Row number `y`.
    #[inline(always)]
    unsafe fn store<B: Block, const N: usize, const M: usize>(self, values: &[B; N], y: usize) {
        unsafe {
            let mut row = [[B::splat(0.0)]; M];
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = [Points::<N>::output(values, x, M)];
            }
            if y >= self.height {
                return;
            }
            let (dst, residual) = (y * self.dst_row_stride, y * self.residual_row_stride);
            let epilogue = self.epilogue.moved(dst, residual);
            if self.width >= M {
                epilogue.finish(row);
            } else {
                for (x, pixel) in row.iter().enumerate().take(self.width) {
                    epilogue.moved(x * 16, x * 16).finish([*pixel]);
                }
            }
        }
    }

    // The rows of one parity. Stores before the rows of the other keep the compiler from
    // holding all values at once.
    #[inline(always)]
    unsafe fn half<B: Block, const N: usize, const M: usize, const PARITY: usize>(
        self,
        src: *const f32,
        point_stride: usize,
    ) {
        unsafe {
            let mut first = [B::splat(0.0); N];
            let mut second = first;
            for (x, (first, second)) in first.iter_mut().zip(&mut second).enumerate() {
                let values: [B; N] = column(src.add(x * point_stride), N * point_stride);
                *first = Points::<N>::output(&values, PARITY, M);
                if PARITY + 2 < M {
                    *second = Points::<N>::output(&values, PARITY + 2, M);
                }
            }
            self.store::<B, N, M>(&first, PARITY);
            if PARITY + 2 < M {
                self.store::<B, N, M>(&second, PARITY + 2);
            }
        }
    }
}

#[inline(always)]
unsafe fn from_points<B: Block, const N: usize, const M: usize>(
    src: *const f32,
    tiles: usize,
    point_stride: usize,
    outputs: Outputs,
) {
    for t in 0..tiles {
        unsafe {
            let left = t * M;
            let outputs = Outputs {
                epilogue: outputs.epilogue.moved(left * 16, left * 16),
                width: outputs.width - left,
                ..outputs
            };
            outputs.half::<B, N, M, 0>(src.add(t * 16), point_stride);
            outputs.half::<B, N, M, 1>(src.add(t * 16), point_stride);
        }
    }
}

macro_rules! leaves {
    ($block:ty, $to:ident, $from:ident, #[$($feature:meta),*]) => {
        // Safety: the instruction set is there; all that the arguments say is read or
        // written lies in live memory, and nothing that is written is read or written
        // elsewhere at the same time.
        $(#[$feature])*
        pub unsafe extern "C" fn $to<const N: usize>(
            src: *const f32,
            dst: *mut f32,
            tiles: usize,
            src_row_stride: usize,
            src_step: usize,
            point_stride: usize,
        ) {
            unsafe {
                to_points::<$block, N>(src, dst, tiles, src_row_stride, src_step, point_stride);
            }
        }

        // Safety: as above.
        $(#[$feature])*
        pub unsafe extern "C" fn $from<const N: usize, const M: usize>(
            src: *const f32,
            bias: *const f32,
            residual: *const f32,
            slopes: *const f32,
            dst: *mut f32,
            tiles: usize,
            point_stride: usize,
            height: usize,
            width: usize,
            dst_row_stride: usize,
            residual_row_stride: usize,
            act: usize,
            slope: f32,
        ) {
            let epilogue = Epilogue {
                bias,
                residual,
                slopes,
                dst,
                dst_stride: 0,
                residual_stride: 0,
                dst_px: 16,
                act,
                slope,
            };
            let outputs = Outputs {
                epilogue,
                height,
                width,
                dst_row_stride,
                residual_row_stride,
            };
            unsafe { from_points::<$block, N, M>(src, tiles, point_stride, outputs) };
        }
    };
}

leaves!(
    Avx512,
    to_points_avx512,
    from_points_avx512,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
);
leaves!(
    Avx2,
    to_points_avx2,
    from_points_avx2,
    #[cfg(target_arch = "x86_64"), target_feature(enable = "avx2,fma")]
);
leaves!(Portable, to_points_portable, from_points_portable, #[]);
