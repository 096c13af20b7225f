//! The machine's multiply-add peak of the moment, which all shares of peak refer to.

use crate::leaf::Isa;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// GFLOP/s (2 for each multiply-add) of independent multiply-adds in registers on
/// `threads` threads at once, in this ISA's vectors; the best of many rounds so
/// short that few are interrupted, 24 ms in all. On `Portable` multiply and add are separate, as in its leaves.
///
/// # Panics
/// If the CPU does not have the ISA.
pub fn fma_peak(isa: Isa, threads: usize) -> f64 {
    assert!(isa.available(), "{isa} is not available");
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let rates: Vec<Vec<f64>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| (0..ROUNDS).map(|_| round(isa, &barrier)).collect()))
            .collect();
        let rates = workers.into_iter().map(|w| w.join());
        rates.map(|r| r.unwrap_or_default()).collect()
    });
    let total = |round: usize| rates.iter().filter_map(|r| r.get(round)).sum();
    (0..ROUNDS).map(total).fold(0.0, f64::max)
}

const ROUNDS: usize = 24;
const ROUND_TIME: Duration = Duration::from_millis(1);
/// Sums in flight: enough to hide the latency, fewer than registers.
const SUMS: usize = 12;
const REPEATS: usize = 1024;

/// GFLOP/s of one thread in one round.
fn round(isa: Isa, barrier: &Barrier) -> f64 {
    barrier.wait();
    let start = Instant::now();
    let mut batches = 0;
    while start.elapsed() < ROUND_TIME {
        // SAFETY: `fma_peak` checked that the ISA is there.
        black_box(unsafe { batch(isa, black_box(0.5)) });
        batches += 1;
    }
    let flops = batches * REPEATS * SUMS * lanes(isa) * 2;
    flops as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 16,
        Isa::Avx2 => 8,
        Isa::Portable => 4,
    }
}

/// # Safety
/// The CPU has the ISA.
unsafe fn batch(isa: Isa, factor: f32) -> f32 {
    match isa {
        // SAFETY: the caller's.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { batch_avx512(factor) },
        // SAFETY: the caller's.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { batch_avx2(factor) },
        _ => batch_portable(factor),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn batch_avx512(factor: f32) -> f32 {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    let b = _mm512_set1_ps(factor);
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..REPEATS {
        for s in &mut sums {
            *s = _mm512_fmadd_ps(*s, b, b);
        }
    }
    let total = sums.into_iter().fold(b, |a, s| _mm512_add_ps(a, s));
    _mm512_reduce_add_ps(total)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn batch_avx2(factor: f32) -> f32 {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps,
    };
    let b = _mm256_set1_ps(factor);
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..REPEATS {
        for s in &mut sums {
            *s = _mm256_fmadd_ps(*s, b, b);
        }
    }
    let total = sums.into_iter().fold(b, |a, s| _mm256_add_ps(a, s));
    _mm256_cvtss_f32(total)
}

/// As many sums of four lanes, the vectors of any 64-bit CPU.
fn batch_portable(factor: f32) -> f32 {
    let mut sums = [[0.0f32; 4]; SUMS];
    for _ in 0..REPEATS {
        for s in &mut sums {
            *s = s.map(|v| v * factor + factor);
        }
    }
    // Stored side by side, or the compiler would not keep them in vectors.
    black_box(&sums)[0][0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_vectors_are_not_slower() {
        let portable = fma_peak(Isa::Portable, 1);
        let best = fma_peak(Isa::detect(), 1);
        assert!(portable > 0.1, "{portable}");
        assert!(best > 0.5 * portable, "{best} against {portable}");
    }
}
