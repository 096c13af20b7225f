//! `DenseBlock`: a DenseNet's block as one layer (caffe_ocr `DenseBlock_layer.cpp`, `.cu`).
//!
//! * bottom `N × C × H × W`; top `N × (C + numTransition·growthRate) × H × W`.
//! * blobs, with t from 0 on and `I = C + t·growthRate`: filters `[growthRate, I, 3, 3]` for
//!   each t, then likewise scales, shifts, means and variances `[1, I, 1, 1]`, last a factor
//!   `[1]`.
//!
//! Transition t appends `growthRate` maps: of all maps so far, `scale · (x − mean) /
//! sqrt(variance + 1e-5) + shift`, rectified, a convolution with padding 1. Filters are
//! turned round, as mathematics has it and Caffe's Convolution has not. Means and variances
//! are divided by the factor, but for 0: training on a GPU leaves it so, and divides by
//! nothing. C is the bottom's; the fork does not read `initChannel`.

use super::{Cx, Layer, constant_filler};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter, Phase};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

/// Most transitions, each of which has five blobs.
const MOST: usize = 1000;

#[derive(Clone, Debug)]
pub struct DenseBlock {
    pub transitions: usize,
    growth: usize,
    /// Of filters, scales and shifts.
    fillers: [FillerParameter; 3],
}

impl Layer for DenseBlock {
    fn claims() -> &'static [&'static str] {
        &["denseblock_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        if cx.phase == Phase::Train {
            let message = "in phase TRAIN, by the statistics of the batch";
            return Err(cx.unsupported("type", message).into());
        }
        // Dropout is for phase TRAIN.
        let p = param.denseblock_param.clone().unwrap_or_default();
        let number = |name: &str, value: Option<u32>| match value {
            Some(value) => cx.positive(&format!("denseblock_param.{name}"), value),
            None => Err(cx
                .invalid("denseblock_param", format!("{name} is missing"))
                .into()),
        };
        let transitions = number("numTransition", p.num_transition)?;
        if transitions > MOST {
            let message = format!("more than {MOST} transitions");
            return Err(cx
                .unsupported("denseblock_param.numTransition", message)
                .into());
        }
        Ok(DenseBlock {
            transitions,
            growth: number("growthRate", p.growth_rate)?,
            fillers: [p.filter_filler, p.bn_scaler_filler, p.bn_bias_filler]
                .map(Option::unwrap_or_default),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [items, channels, height, width] = bottoms[0][..] else {
            let message = format!("{} instead of N×C×H×W", bottoms[0]);
            return Err(cx.invalid("bottom[0]", message).into());
        };
        let made = self.transitions.saturating_mul(self.growth);
        let dims = [items, channels.saturating_add(made), height, width];
        let top = cx.locate("denseblock_param", Shape::new(dims))?;
        cx.locate("denseblock_param", self.params(bottoms))?;
        Ok(vec![top])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let [filter, scale, shift] = &self.fillers;
        let [zero, one] = [0.0, 1.0].map(constant_filler);
        let mut specs = Vec::new();
        for (blob, filler) in [filter, scale, shift, &zero, &one].into_iter().enumerate() {
            for t in 0..self.transitions {
                let inputs = bottoms[0][1].saturating_add(t * self.growth);
                specs.push(ParamSpec {
                    shape: match blob {
                        0 => Shape::new([self.growth, inputs, 3, 3])?,
                        _ => Shape::new([1, inputs, 1, 1])?,
                    },
                    filler: filler.clone(),
                });
            }
        }
        specs.push(ParamSpec {
            shape: Shape::new([1])?,
            filler: zero,
        });
        Ok(specs)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [items, channels, height, width] = bottoms[0][..] else {
            return None;
        };
        let sizes = vec![channels, self.transitions, self.growth, height, width];
        Some(Call::new(routine!("dense_block"), sizes, Vec::new()).cut(items.max(1)))
    }

    fn macs(&self, bottoms: &[Shape], tops: &[Shape]) -> u64 {
        let inputs = |t: usize| (bottoms[0][1] + t * self.growth) as u64;
        let inputs: u64 = (0..self.transitions).map(inputs).sum();
        let made = (tops[0].count() / tops[0][1].max(1) * self.growth) as u64;
        made.saturating_mul(9 * inputs)
    }
}

/// Pasted into emitted source.
mod routine {
    // Sums in f64, rounded once.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [channels, transitions, growth] = [sizes[0], sizes[1], sizes[2]];
        let [height, width] = [sizes[3], sizes[4]];
        let len = height * width;
        let blob = |kind: usize, t: usize| bottoms[1 + kind * transitions + t];
        let factor = match blob(5, 0)[0] {
            0.0 => 1.0,
            factor => 1.0 / f64::from(factor),
        };
        let top = &mut *tops[0];
        top[..channels * len].copy_from_slice(bottoms[0]);
        let mut active = vec![0.0; top.len()];
        let mut sums = vec![0.0; len];
        for t in 0..transitions {
            let inputs = channels + t * growth;
            let (maps, made) = top.split_at_mut(inputs * len);
            let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|kind| blob(kind, t));
            for (c, map) in maps.chunks_exact(len).enumerate() {
                let mean = f64::from(mean[c]) * factor;
                let slope = (f64::from(variance[c]) * factor + 1e-5).sqrt();
                let slope = f64::from(scale[c]) / slope;
                let normal = |x: f32| (slope * (f64::from(x) - mean) + f64::from(shift[c])) as f32;
                for (y, &x) in active[c * len..].iter_mut().zip(map) {
                    let value = normal(x);
                    *y = if value > 0.0 { value } else { 0.0 };
                }
            }
            let filters = blob(0, t).chunks_exact(inputs * 9);
            for (made, filter) in made.chunks_exact_mut(len).zip(filters) {
                sums.fill(0.0);
                for (map, taps) in active.chunks_exact(len).zip(filter.chunks_exact(9)) {
                    for (i, &tap) in taps.iter().enumerate() {
                        add(&mut sums, map, [height, width], [i / 3, i % 3], tap);
                    }
                }
                for (y, &sum) in made.iter_mut().zip(&sums) {
                    *y = sum as f32;
                }
            }
        }
    }

    // Adds what one tap takes of a map to the sums: of one row or column further where the
    // tap is the first, of one before where it is the last.
    fn add(sums: &mut [f64], map: &[f32], size: [usize; 2], tap: [usize; 2], weight: f32) {
        let [height, width] = size;
        let weight = f64::from(weight);
        let columns = tap[1].saturating_sub(1)..width - usize::from(tap[1] == 0);
        for y in tap[0].saturating_sub(1)..height - usize::from(tap[0] == 0) {
            let row = &map[(y + 1 - tap[0]) * width..][..width];
            let row = &row[columns.start + 1 - tap[1]..columns.end + 1 - tap[1]];
            let sums = &mut sums[y * width..][columns.clone()];
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += weight * f64::from(x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, noise, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DenseBlockParameter;
    use crate::ir::Tensor;

    fn param(transitions: u32, growth: u32) -> LayerParameter {
        let p = DenseBlockParameter {
            num_transition: Some(transitions),
            growth_rate: Some(growth),
            init_channel: Some(77),
            ..DenseBlockParameter::default()
        };
        LayerParameter {
            denseblock_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    /// Normalised by `(x − 1) / sqrt(4 + 1e-5) · 2`, as good as x − 1.
    fn blobs(filter: Vec<f32>, factor: f32) -> Vec<Tensor> {
        let one = |value: f32| tensor(&[1, 1, 1, 1], [value]);
        let divided = if factor == 0.0 { 1.0 } else { factor };
        vec![
            tensor(&[1, 1, 3, 3], filter),
            one(2.0),
            one(0.0),
            one(divided),
            one(4.0 * divided),
            tensor(&[1], [factor]),
        ]
    }

    #[test]
    fn filters_are_turned_round() {
        // The first tap takes what is right below, the last what is left above.
        let x = tensor(&[1, 1, 2, 3], [2., 0., 3., 4., 5., 6.]);
        let mut filter = vec![0.0; 9];
        (filter[0], filter[8]) = (1.0, 10.0);
        for factor in [0.0, 1.0, 3.0] {
            let y = forward::<DenseBlock>(&param(1, 1), &[&x], &blobs(filter.clone(), factor));
            assert_eq!(y[0].shape.dims(), [1, 2, 2, 3]);
            assert_eq!(y[0].data[..6], x.data);
            // Of x − 1, rectified: 1 0 2 / 3 4 5.
            assert_close(&y[0].data[6..], &[4., 5., 0., 0., 10., 0.], 1e-5);
        }
    }

    #[test]
    fn maps_are_appended_and_images_stand_alone() {
        let sizes = [3, 5];
        let mut blobs: Vec<Tensor> = sizes.map(|i| noise(&[2, i, 3, 3])).to_vec();
        for add in [1.0, 0.0, 0.0, 2.0] {
            for i in sizes {
                let mut blob = noise(&[1, i, 1, 1]);
                blob.data.iter_mut().for_each(|v| *v += add);
                blobs.push(blob);
            }
        }
        blobs.push(tensor(&[1], [0.0]));
        let x = noise(&[2, 3, 3, 1]);
        let y = &forward::<DenseBlock>(&param(2, 2), &[&x], &blobs)[0];
        assert_eq!(y.shape.dims(), [2, 7, 3, 1]);
        for n in 0..2 {
            let alone = tensor(&[1, 3, 3, 1], &x.data[n * 9..][..9]);
            let alone = &forward::<DenseBlock>(&param(2, 2), &[&alone], &blobs)[0];
            assert_eq!(alone.data, y.data[n * 21..][..21]);
            // Each made map by windows, from the maps before it.
            for made in 3..7 {
                let t = (made - 3) / 2;
                let active = |c: usize, row: usize| {
                    let value = |kind: usize| f64::from(blobs[kind * 2 + t].data[c]);
                    let x = f64::from(alone.data[c * 3 + row]);
                    (value(1) * (x - value(3)) / (value(4) + 1e-5).sqrt() + value(2)).max(0.0)
                };
                for row in 0..3usize {
                    let mut sum = 0.0;
                    for c in 0..sizes[t] {
                        for from in row.saturating_sub(1)..(row + 2).min(3) {
                            let tap =
                                (((made - 3) % 2 * sizes[t] + c) * 3 + 1 + row - from) * 3 + 1;
                            sum += f64::from(blobs[t].data[tap]) * active(c, from);
                        }
                    }
                    assert_close(&[alone.data[made * 3 + row]], &[sum as f32], 1e-5);
                }
            }
        }
    }

    #[test]
    fn refusals() {
        let dims: [&[usize]; 1] = [&[1, 2, 3, 3]];
        let got = refusal::<DenseBlock>(&param(0, 1), &dims);
        assert!(got.starts_with("denseblock_param.numTransition: "), "{got}");
        let got = refusal::<DenseBlock>(&param(1001, 1), &dims);
        assert!(got.contains("more than 1000"), "{got}");
        let got = refusal::<DenseBlock>(&param(1000, u32::MAX / 2), &dims);
        assert!(got.starts_with("denseblock_param: "), "{got}");
        let got = refusal::<DenseBlock>(&LayerParameter::default(), &dims);
        assert_eq!(got, "denseblock_param: numTransition is missing");
        let got = refusal::<DenseBlock>(&param(1, 1), &[&[2, 3]]);
        assert!(got.starts_with("bottom[0]: "), "{got}");
        let train = LayerParameter {
            phase: Some(Phase::Train.into()),
            ..param(1, 1)
        };
        let got = refusal::<DenseBlock>(&train, &dims);
        assert!(got.starts_with("type: in phase TRAIN"), "{got}");
    }
}
