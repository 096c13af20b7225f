//! Our own random numbers: the same bits on every machine, in any order.
//!
//! A [`Stream`] is a counter-based generator: element i is a hash of the stream's
//! key and i (splitmix64), so large blobs can be made in parallel and only when
//! they are needed. Normal values are the sum of four 16-bit uniforms, shifted and
//! scaled to mean 0 and variance 1: integer sums and one f32 product, no libm. Their
//! tails end at 3.5 standard deviations, which weights do not miss.

use crate::ir::tensor::FloatSource;
use crate::ir::{FloatData, Shape, Tensor};
use std::borrow::Cow;
use std::ops::Range;

/// An endless sequence of random numbers with random access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream(mix(seed))
    }

    /// A stream of its own for blob `index` of the layer or input `name`.
    pub fn derive(self, name: &str, index: usize) -> Stream {
        let fold = |key: u64, byte: u8| mix(key ^ u64::from(byte));
        let named = name.bytes().fold(self.0, fold);
        Stream(mix(named ^ mix(index as u64)))
    }

    /// 64 random bits.
    pub fn bits(self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1).
    pub fn uniform(self, i: u64) -> f32 {
        const UNIT: f32 = 1.0 / (1u32 << 24) as f32;
        (self.bits(i) >> 40) as f32 * UNIT
    }

    /// Mean 0, variance 1.
    pub fn normal(self, i: u64) -> f32 {
        // Half the sum's range is its mean; 4/12·(2³² − 1) its variance.
        const MEAN: i32 = 2 * 65535;
        const PER_DEVIATION: f32 = 2.642_899_7e-5;
        const LANES: u64 = 0x0000_ffff_0000_ffff;
        let word = self.bits(i);
        let two = (word & LANES) + (word >> 16 & LANES);
        let sum = (two as u32 + (two >> 32) as u32) as i32;
        (sum - MEAN) as f32 * PER_DEVIATION
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(GOLDEN);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Values that are a function of their index, made when somebody asks.
struct Generated<F> {
    len: usize,
    value: F,
}

/// `len` values, element i being `value(i)`.
pub fn generated(len: usize, value: impl Fn(u64) -> f32 + Send + Sync + 'static) -> FloatData {
    FloatData::new(Generated { len, value })
}

impl<F: Fn(u64) -> f32 + Send + Sync> FloatSource for Generated<F> {
    fn len(&self) -> usize {
        self.len
    }

    fn window(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        // Below this a thread costs more than it saves.
        const LEAST: usize = 1 << 18;
        let mut values = vec![0.0; range.len()];
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let part = range.len().div_ceil(threads).max(LEAST);
        if range.len() <= part {
            self.fill(range.start, &mut values);
        } else {
            std::thread::scope(|scope| {
                for (n, chunk) in values.chunks_mut(part).enumerate() {
                    scope.spawn(move || self.fill(range.start + n * part, chunk));
                }
            });
        }
        Cow::Owned(values)
    }
}

impl<F: Fn(u64) -> f32> Generated<F> {
    fn fill(&self, start: usize, values: &mut [f32]) {
        for (i, value) in values.iter_mut().enumerate() {
            *value = (self.value)((start + i) as u64);
        }
    }
}

/// A normal input (mean 0, variance 1) for the input blob `name`.
pub fn random_input(name: &str, shape: Shape, seed: u64) -> Tensor {
    let stream = Stream::new(seed).derive(name, 0);
    let data = (0..shape.count() as u64).map(|i| stream.normal(i));
    let data = data.collect();
    Tensor { shape, data }
}

/// Random labels 0 … classes − 1, as floats, for the input blob `name`.
pub fn random_labels(name: &str, shape: Shape, classes: usize, seed: u64) -> Tensor {
    let stream = Stream::new(seed).derive(name, 0);
    let label = |i| stream.bits(i) % classes.max(1) as u64;
    let data = (0..shape.count() as u64).map(|i| label(i) as f32);
    let data = data.collect();
    Tensor { shape, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        (mean, square - mean * mean)
    }

    #[test]
    fn bits_never_change() {
        let stream = Stream::new(1).derive("conv1", 0);
        assert_eq!(stream.bits(0), 15_131_922_146_558_832_563);
        assert_ne!(stream, Stream::new(1).derive("conv1", 1));
        assert_ne!(stream, Stream::new(2).derive("conv1", 0));
    }

    #[test]
    fn normal_and_uniform_have_their_moments() {
        let stream = Stream::new(7);
        let normal: Vec<f32> = (0..200_000).map(|i| stream.normal(i)).collect();
        let (mean, variance) = moments(&normal);
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01);
        let beyond = normal.iter().filter(|v| v.abs() > 1.96).count() as f64 / 200_000.0;
        assert!((beyond - 0.05).abs() < 0.005, "{beyond}");
        let uniform: Vec<f32> = (0..200_000).map(|i| stream.uniform(i)).collect();
        let (mean, variance) = moments(&uniform);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.002);
        assert!(uniform.iter().all(|v| (0.0..1.0).contains(v)));
    }

    #[test]
    fn threads_do_not_change_values() {
        let stream = Stream::new(3);
        let len = (1 << 18) * 2 + 5;
        let data = generated(len, move |i| stream.normal(i));
        let direct: Vec<f32> = (0..len as u64).map(|i| stream.normal(i)).collect();
        assert_eq!(data.len(), len);
        assert_eq!(*data.floats(), direct);
    }

    #[test]
    fn labels_are_classes() {
        let labels = random_labels("label", Shape::new([1000]).unwrap(), 10, 1);
        assert!(labels.data.iter().all(|&v| v.fract() == 0.0 && v < 10.0));
        assert!((0..10).all(|c| labels.data.contains(&(c as f32))));
    }
}
