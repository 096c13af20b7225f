//! `BatchNorm`: `(x − mean[c]) / sqrt(variance[c] + eps)` (Caffe `batch_norm_layer.cpp`).
//!
//! * bottom and top: `[N, C, …]`, at least 2 axes.
//! * blobs: mean `[C]`, variance `[C]`, factor `[1]`. Mean and variance are stored as
//!   sums: both are divided by the factor; they count as 0 if the factor is 0.
//!
//! Without `use_global_stats` (its default outside of phase TEST) mean and biased
//! variance are those of the bottom itself. There is no scale and no shift; a Scale
//! layer brings them.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::{Broadcast, Node, ParamSpec, Pointwise, Shape, Tensor};
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct BatchNorm {
    pub use_global_stats: bool,
    pub eps: f32,
}

impl BatchNorm {
    /// Scale and shift of each channel, in f64: `y = scale·x + shift`. Only what the
    /// stored statistics give.
    pub fn affine(&self, params: &[&Tensor]) -> Vec<[f64; 2]> {
        let stats = stored(params).into_iter();
        let affine = stats.map(|[mean, variance]| {
            let scale = 1.0 / self.deviation(variance);
            [scale, -mean * scale]
        });
        affine.collect()
    }

    fn deviation(&self, variance: f64) -> f64 {
        (variance + f64::from(self.eps)).sqrt()
    }
}

/// Mean and variance of each channel as the blobs hold them.
fn stored(params: &[&Tensor]) -> Vec<[f64; 2]> {
    let factor = f64::from(params[2].data[0]);
    let factor = if factor == 0.0 { 0.0 } else { 1.0 / factor };
    let pairs = params[0].data.iter().zip(&params[1].data);
    pairs
        .map(|(&m, &v)| [m, v].map(|sum| f64::from(sum) * factor))
        .collect()
}

/// Mean and variance of each channel of `x`.
fn measured(x: &Tensor) -> Vec<[f64; 2]> {
    let (channels, inner) = (x.shape[1], x.shape.count_of(2..x.shape.len()));
    let values = |c| {
        let of_channel = move |&(i, _): &(usize, &f32)| i / inner % channels == c;
        x.data
            .iter()
            .enumerate()
            .filter(of_channel)
            .map(|(_, &x)| f64::from(x))
    };
    let count = (x.data.len() / channels.max(1)) as f64;
    let stats = |c| {
        let mean = values(c).sum::<f64>() / count;
        let variance = values(c).map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        [mean, variance]
    };
    (0..channels).map(stats).collect()
}

impl Layer for BatchNorm {
    /// `moving_average_fraction` matters to training only.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let learns = |spec: &&crate::frontend::proto::ParamSpec| spec.lr_mult() != 0.0;
        if param.param.iter().take(3).any(|spec| learns(&spec)) {
            let message = "lr_mult must be 0: statistics are not learned";
            return Err(cx.invalid("param", message).into());
        }
        let p = param.batch_norm_param.clone().unwrap_or_default();
        Ok(BatchNorm {
            use_global_stats: p.use_global_stats.unwrap_or(cx.phase == Phase::Test),
            eps: p.eps(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if bottoms[0].len() < 2 {
            let message = format!("the bottom must have at least 2 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![bottoms[0].clone()])
    }

    /// Item by item, but for the statistics of the batch.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0 && self.use_global_stats).then_some(0)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let channels = bottoms[0][1];
        let spec = |len| {
            Ok(ParamSpec {
                shape: Shape::new([len])?,
                filler: Default::default(),
            })
        };
        [channels, channels, 1].into_iter().map(spec).collect()
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let x = bottoms[0];
        let stats = if self.use_global_stats {
            stored(params)
        } else {
            measured(x)
        };
        let inner = x.shape.count_of(2..x.shape.len());
        for (i, (y, &x)) in tops[0].data.iter_mut().zip(&x.data).enumerate() {
            let [mean, variance] = stats[i / inner % stats.len()];
            *y = ((f64::from(x) - mean) / self.deviation(variance)) as f32;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        if !self.use_global_stats || params.len() != 3 {
            return None;
        }
        let affine = self.affine(params);
        let constants = |i: usize| {
            let values = affine.iter().map(|pair| pair[i] as f32).collect();
            Box::new(Pointwise::Broadcast(Broadcast::channels(values)))
        };
        let x = Box::new(Pointwise::Bottom(0));
        Some(Pointwise::Fma(x, constants(0), constants(1)))
    }

    /// Stored statistics make an expression of it before.
    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        lower::batch_norm(b, node, self.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{self, BatchNormParameter};

    fn param(p: BatchNormParameter) -> LayerParameter {
        LayerParameter {
            batch_norm_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn statistics_are_divided_by_the_factor() {
        let x = tensor(&[1, 2, 1, 2], [3., 5., -1., 1.]);
        let p = param(BatchNormParameter {
            eps: Some(1.0),
            ..BatchNormParameter::default()
        });
        let blobs = |factor| {
            [
                tensor(&[2], [2., 4.]),
                tensor(&[2], [6., 16.]),
                tensor(&[1], [factor]),
            ]
        };
        let y = forward::<BatchNorm>(&p, &[&x], &blobs(2.));
        assert_close(&y[0].data, &[1., 2., -1., -1. / 3.], 1e-7);
        let y = forward::<BatchNorm>(&p, &[&x], &blobs(0.));
        assert_eq!(y[0].data, x.data);
    }

    #[test]
    fn statistics_of_the_batch() {
        let x = tensor(&[2, 2, 1], [1., 5., 3., 5.]);
        let p = BatchNormParameter {
            eps: Some(0.0),
            use_global_stats: Some(false),
            ..BatchNormParameter::default()
        };
        let blobs = [
            tensor(&[2], [7.; 2]),
            tensor(&[2], [7.; 2]),
            tensor(&[1], [1.]),
        ];
        let y = forward::<BatchNorm>(&param(p), &[x], &blobs);
        assert_eq!((y[0].data[0], y[0].data[2]), (-1., 1.));
        assert!(y[0].data[1].is_nan() && y[0].data[3].is_nan());
    }

    #[test]
    fn the_phase_decides() {
        let train = LayerParameter {
            phase: Some(Phase::Train.into()),
            ..LayerParameter::default()
        };
        for (param, want) in [(train, false), (LayerParameter::default(), true)] {
            let (layer, _) = infer::<BatchNorm>(&param, &[&[1, 2]]).unwrap();
            assert_eq!(layer.use_global_stats, want);
        }
    }

    #[test]
    fn bad_parameters() {
        let one_axis = refusal::<BatchNorm>(&LayerParameter::default(), &[&[3]]);
        assert!(one_axis.starts_with("bottom: "));
        let learning = LayerParameter {
            param: vec![proto::ParamSpec::default()],
            ..LayerParameter::default()
        };
        assert!(refusal::<BatchNorm>(&learning, &[&[1, 3]]).starts_with("param: lr_mult"));
    }
}
