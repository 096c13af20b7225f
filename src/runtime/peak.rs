//! What the machine can do at the moment, which measured times are held against: its
//! multiply-add peak and the rate at which it reads memory.

use super::block;
use crate::diag::Result;
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
    best_of_rounds(threads.max(1), |_| round(isa))
}

/// GB/s (10⁹ bytes) at which `threads` threads together read `bytes` bytes, each a part
/// of its own, again and again: from a cache if they fit there. The best of as many
/// rounds as in [`fma_peak`].
///
/// Errors: the system refuses the memory.
pub fn read_rate(bytes: usize, threads: usize) -> Result<f64> {
    let threads = threads.max(1);
    let part = (bytes / size_of::<f32>() / threads).max(1);
    let part = part.next_multiple_of(SUMS * LANES);
    let mut block = block(part * threads)?;
    // Pages that nobody wrote would all be one page of zeros.
    block.fill(1.0);
    Ok(best_of_rounds(threads, |thread| {
        let start = Instant::now();
        let mut times = 0;
        while start.elapsed() < ROUND_TIME {
            black_box(sum(black_box(&block[thread * part..][..part])));
            times += 1;
        }
        (times * part * size_of::<f32>()) as f64 / start.elapsed().as_secs_f64() / 1e9
    }))
}

const LANES: usize = 16;

fn sum(values: &[f32]) -> f32 {
    let mut sums = [[0.0f32; LANES]; SUMS];
    for chunk in values.chunks_exact(SUMS * LANES) {
        for (sum, values) in sums.iter_mut().zip(chunk.chunks_exact(LANES)) {
            for (s, v) in sum.iter_mut().zip(values) {
                *s += v;
            }
        }
    }
    sums.iter().flatten().sum()
}

/// Runs `round` on `threads` threads at once, with the thread's number, round by round:
/// the largest sum of what they return in one round.
fn best_of_rounds(threads: usize, round: impl Fn(usize) -> f64 + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let rounds = |thread| {
        let rounds = (0..ROUNDS).map(|_| {
            barrier.wait();
            round(thread)
        });
        rounds.collect::<Vec<f64>>()
    };
    let rates: Vec<Vec<f64>> = thread::scope(|scope| {
        let rounds = &rounds;
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || rounds(thread)))
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
fn round(isa: Isa) -> f64 {
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

    #[test]
    fn all_is_read() {
        assert_eq!(sum(&vec![1.0; 3 * SUMS * LANES]), (3 * SUMS * LANES) as f32);
        assert!(read_rate(1, 2).unwrap() > 0.0);
    }
}
