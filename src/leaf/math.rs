// exp, ln, tanh and pow of f32 arguments, expanded here so that all instruction sets
// compute the same bits and nothing calls libm.
//
// All are evaluated in f64 to about 1e-11 and rounded once: nearly always the
// correctly rounded value. There denormals and overflow need no care either: every f32,
// and every result that is not 0 or infinite in f32, is a normal f64. Only selects,
// no branches, so that loops over them vectorise.

use std::f64::consts::{LN_2, LOG2_E};

// 1.5 · 2^52: a double added to it leaves its nearest integer in the low bits.
const SHIFTER: f64 = 6755399441055744.0;
// Added to the bits of m · 2^e, 1/√2 ≤ m < √2, it makes the exponent field e + 1023.
const HALF_ROOT_TO_ONE: u64 = 0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd;

// x within ±150: beyond, e^x is 0 or infinite in f32. NaN stays NaN.
#[inline(always)]
fn clamp(x: f64) -> f64 {
    let x = if x > 150.0 { 150.0 } else { x };
    if x < -150.0 { -150.0 } else { x }
}

// (2^n, e^r − 1) with e^x = 2^n · e^r, |r| ≤ ln 2 / 2, for x within ±150.
#[inline(always)]
fn split_exp(x: f64) -> (f64, f64) {
    let shifted = x * LOG2_E + SHIFTER;
    let r = x - (shifted - SHIFTER) * LN_2;
    let scale = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    // Taylor's series: the next term is below 7e-12.
    let mut p = 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    (scale, p * r)
}

// e^x; outside ±150 the value at the end of that range.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let (scale, p) = split_exp(clamp(x));
    scale * p + scale
}

// ln x of a normal double, 0, infinity, NaN or a negative number, with C's results.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = bits.wrapping_add(HALF_ROOT_TO_ONE) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(exponent.wrapping_sub(1023) << 52));
    // 2^52 + exponent, then without both biases.
    let e = f64::from_bits(exponent | 0x4330_0000_0000_0000) - (4503599627370496.0 + 1023.0);
    // ln m = 2 atanh(s), |s| ≤ 0.172; the next term is below 4e-14.
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut p = 1.0 / 15.0;
    p = p * q + 1.0 / 13.0;
    p = p * q + 1.0 / 11.0;
    p = p * q + 1.0 / 9.0;
    p = p * q + 1.0 / 7.0;
    p = p * q + 0.2;
    p = p * q + 1.0 / 3.0;
    p = p * q + 1.0;
    let value = e * LN_2 + 2.0 * s * p;
    let value = if x < f64::INFINITY { value } else { x };
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    if x < 0.0 { f64::NAN } else { value }
}

#[inline(always)]
pub fn tanh(x: f64) -> f64 {
    // t = e^2x − 1 without cancellation near 0.
    let (scale, p) = split_exp(clamp(2.0 * x));
    let t = scale * p + (scale - 1.0);
    t / (t + 2.0)
}

// e^x − 1 without cancellation near 0; below −150 as exp.
#[inline(always)]
pub fn exp_m1(x: f64) -> f64 {
    let (scale, p) = split_exp(clamp(x));
    scale * p + (scale - 1.0)
}

// ln(1 + e^x) for an x of f32.
#[inline(always)]
pub fn softplus(x: f64) -> f64 {
    // ln(1 + t) = ln(u) · t / (u − 1) where u = 1 + t, rounded: what the sum loses goes
    // out of the quotient again.
    let t = exp(if x > 0.0 { -x } else { x });
    let u = 1.0 + t;
    let near = if u == 1.0 { t } else { ln(u) * (t / (u - 1.0)) };
    let linear = if x > 0.0 { x } else { 0.0 };
    linear + near
}

// C's powf.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let magnitude = exp(f64::from(y) * ln(f64::from(x.abs()))) as f32;
    // From 2^24 on, every f32 is an even integer.
    let large = y.abs() >= 16777216.0;
    let y64 = f64::from(y);
    let integer = large | ((y64 + SHIFTER) - SHIFTER == y64);
    let half = 0.5 * y64;
    let odd = !large & integer & ((half + SHIFTER) - SHIFTER != half);
    let negative = x.is_sign_negative();
    let value = if negative & odd {
        -magnitude
    } else {
        magnitude
    };
    let rootless = (x < 0.0) & (x > f32::NEG_INFINITY) & !integer;
    let value = if rootless { f32::NAN } else { value };
    // 1^y = 1 even for NaN, and (−1)^±∞ = 1.
    let one = (y == 0.0) | (x == 1.0) | ((x == -1.0) & (y.abs() == f32::INFINITY));
    if one { 1.0 } else { value }
}
