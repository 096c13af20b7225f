// Element-wise functions and softmax: plain Rust that the compiler vectorises,
// one copy per instruction set. Nothing is fused, so all copies compute the same bits.

use super::math::{exp, exp_m1, ln, pow, softplus, tanh};
use std::ptr::copy_nonoverlapping;

type Lanes = [f32; 16];

// n ≤ 16 elements, then zeros.
#[inline(always)]
unsafe fn load(from: *const f32, n: usize) -> Lanes {
    let mut v = [0.0; 16];
    unsafe {
        if n == 16 {
            copy_nonoverlapping(from, v.as_mut_ptr(), 16);
        } else {
            copy_nonoverlapping(from, v.as_mut_ptr(), n);
        }
    }
    v
}

#[inline(always)]
unsafe fn store(v: &Lanes, to: *mut f32, n: usize) {
    unsafe {
        if n == 16 {
            copy_nonoverlapping(v.as_ptr(), to, 16);
        } else {
            copy_nonoverlapping(v.as_ptr(), to, n);
        }
    }
}

// dst[i] = f(src[i]); dst may be src.
#[inline(always)]
unsafe fn map<F: Fn(f32) -> f32>(src: *const f32, dst: *mut f32, len: usize, f: F) {
    let mut i = 0;
    while i < len {
        let n = if len - i < 16 { len - i } else { 16 };
        unsafe {
            let mut v = load(src.add(i), n);
            for x in &mut v {
                *x = f(*x);
            }
            store(&v, dst.add(i), n);
        }
        i += 16;
    }
}

#[inline(always)]
unsafe fn sigmoid(src: *const f32, dst: *mut f32, len: usize, _a: f32, _b: f32, _c: f32) {
    unsafe { map(src, dst, len, |x| (1.0 / (1.0 + exp(-f64::from(x)))) as f32) }
}

#[inline(always)]
unsafe fn hyperbolic_tangent(
    src: *const f32,
    dst: *mut f32,
    len: usize,
    _a: f32,
    _b: f32,
    _c: f32,
) {
    unsafe { map(src, dst, len, |x| tanh(f64::from(x)) as f32) }
}

// (c + b·x)^a
#[inline(always)]
unsafe fn power(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32) {
    // Caffe adds no shift of 0: −0 stays −0, whose odd negative powers are −∞.
    let c = if c == 0.0 { -0.0 } else { c };
    unsafe { map(src, dst, len, |x| pow(b * x + c, a)) }
}

// e^(a·x + b)
#[inline(always)]
unsafe fn exponential(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, _c: f32) {
    unsafe { map(src, dst, len, |x| exp(f64::from(a * x + b)) as f32) }
}

// a · ln(b·x + c)
#[inline(always)]
unsafe fn logarithm(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32) {
    unsafe { map(src, dst, len, |x| a * (ln(f64::from(b * x + c)) as f32)) }
}

// x > 0 ? b·x : b·a·(e^x − 1)
#[inline(always)]
unsafe fn exponential_linear(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, _c: f32) {
    let [a, b] = [f64::from(a), f64::from(b)];
    let elu = |x| {
        let negative = a * exp_m1(x);
        b * if x > 0.0 { x } else { negative }
    };
    unsafe { map(src, dst, len, |x| elu(f64::from(x)) as f32) }
}

#[inline(always)]
unsafe fn soft_plus(src: *const f32, dst: *mut f32, len: usize, _a: f32, _b: f32, _c: f32) {
    unsafe { map(src, dst, len, |x| softplus(f64::from(x)) as f32) }
}

// x · sigmoid(a·x)
#[inline(always)]
unsafe fn swish(src: *const f32, dst: *mut f32, len: usize, a: f32, _b: f32, _c: f32) {
    unsafe {
        map(src, dst, len, |x| {
            x * (1.0 / (1.0 + exp(-f64::from(a * x)))) as f32
        })
    }
}

// x · tanh(ln(1 + e^x))
#[inline(always)]
unsafe fn mish(src: *const f32, dst: *mut f32, len: usize, _a: f32, _b: f32, _c: f32) {
    unsafe { map(src, dst, len, |x| x * (tanh(softplus(f64::from(x))) as f32)) }
}

// Softmax of `channels` neighbouring elements.
#[inline(always)]
unsafe fn softmax_row(src: *const f32, dst: *mut f32, channels: usize) {
    unsafe {
        let mut max = *src;
        for c in 1..channels {
            let v = *src.add(c);
            max = if max < v { v } else { max };
        }
        map(src, dst, channels, |x| exp(f64::from(x - max)) as f32);
        let mut sum = 0.0;
        for c in 0..channels {
            sum += *dst.add(c);
        }
        map(dst, dst, channels, |x| x / sum);
    }
}

// Softmax of `channels` elements `inner` apart, for `n` ≤ 16 neighbouring positions.
#[inline(always)]
unsafe fn softmax_columns(src: *const f32, dst: *mut f32, channels: usize, inner: usize, n: usize) {
    unsafe {
        let mut max = load(src, n);
        for c in 1..channels {
            for (m, v) in max.iter_mut().zip(&load(src.add(c * inner), n)) {
                *m = if *m < *v { *v } else { *m };
            }
        }
        let mut sum = [0.0f32; 16];
        for c in 0..channels {
            let mut v = load(src.add(c * inner), n);
            for (x, m) in v.iter_mut().zip(&max) {
                *x = exp(f64::from(*x - *m)) as f32;
            }
            for (s, x) in sum.iter_mut().zip(&v) {
                *s += *x;
            }
            store(&v, dst.add(c * inner), n);
        }
        for c in 0..channels {
            let mut v = load(dst.add(c * inner), n);
            for (x, s) in v.iter_mut().zip(&sum) {
                *x /= *s;
            }
            store(&v, dst.add(c * inner), n);
        }
    }
}

// Caffe's Softmax (softmax_layer.cpp); dst may be src.
#[inline(always)]
unsafe fn softmax(src: *const f32, dst: *mut f32, channels: usize, inner: usize) {
    unsafe {
        if inner == 1 {
            return softmax_row(src, dst, channels);
        }
        let mut i = 0;
        while i < inner {
            let n = if inner - i < 16 { inner - i } else { 16 };
            softmax_columns(src.add(i), dst.add(i), channels, inner, n);
            i += 16;
        }
    }
}

// One function for each instruction set.
//
// Safety, for all: the instruction set is there, the memory that the arguments say is
// live, and nobody else reads or writes what is written.
macro_rules! leaf {
    ($body:ident($($arg:ident: $kind:ty),*) -> $avx512:ident, $avx2:ident, $portable:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        pub unsafe extern "C" fn $avx512($($arg: $kind),*) {
            unsafe { $body($($arg),*) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        pub unsafe extern "C" fn $avx2($($arg: $kind),*) {
            unsafe { $body($($arg),*) }
        }

        pub unsafe extern "C" fn $portable($($arg: $kind),*) {
            unsafe { $body($($arg),*) }
        }
    };
}

leaf!(sigmoid(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> sigmoid_avx512, sigmoid_avx2, sigmoid_portable);
leaf!(hyperbolic_tangent(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> tanh_avx512, tanh_avx2, tanh_portable);
leaf!(power(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> power_avx512, power_avx2, power_portable);
leaf!(exponential(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> exp_avx512, exp_avx2, exp_portable);
leaf!(logarithm(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> log_avx512, log_avx2, log_portable);
leaf!(exponential_linear(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> elu_avx512, elu_avx2, elu_portable);
leaf!(soft_plus(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> softplus_avx512, softplus_avx2, softplus_portable);
leaf!(swish(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> swish_avx512, swish_avx2, swish_portable);
leaf!(mish(src: *const f32, dst: *mut f32, len: usize, a: f32, b: f32, c: f32)
    -> mish_avx512, mish_avx2, mish_portable);
leaf!(softmax(src: *const f32, dst: *mut f32, channels: usize, inner: usize)
    -> softmax_avx512, softmax_avx2, softmax_portable);
