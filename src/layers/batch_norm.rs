//! `BatchNorm`: `(x − mean[c]) / sqrt(variance[c] + eps)` (Caffe `batch_norm_layer.cpp`).
//!
//! * bottom and top: `[N, C, …]`, at least 2 axes.
//! * blobs: mean `[C]`, variance `[C]`, factor `[1]`. Mean and variance are stored as
//!   sums: both are divided by the factor; they count as 0 if the factor is 0.
//!
//! Without `use_global_stats` (its default outside of phase TEST) mean and biased
//! variance are those of the bottom itself. There is no scale and no shift; a Scale
//! layer brings them.
//!
//! In forks they belong to the layer, as blobs 3 and 4, `[C]` each: in `BatchNormScale`,
//! which normalises only in place (elsewhere its CPU code scales the bottom again), and in
//! NVCaffe's BatchNorm with `scale_bias` or a filler for either, which does not
//! divide by the factor. With Synopsys' `add_eps_before_sqrt: false` it is
//! `sqrt(variance[c]) + eps`.

use super::{Cx, Layer, constant_filler};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter, Phase};
use crate::ir::{Broadcast, Node, ParamSpec, Pointwise, Shape, Tensor};
use crate::leaf::routine::Call;
use crate::lower::{self, Builder};

#[derive(Clone, Debug)]
pub struct BatchNorm {
    pub use_global_stats: bool,
    pub eps: f32,
    /// `eps` is added to the deviation, not to the variance.
    pub eps_outside: bool,
    /// Where scale and bias belong to the layer.
    pub scale_bias: Option<ScaleBias>,
    /// Only scale and bias are applied.
    pub affine_only: bool,
}

#[derive(Clone, Debug)]
pub struct ScaleBias {
    /// Whether stored statistics are divided by the third blob.
    pub divided: bool,
    pub scale_filler: FillerParameter,
    pub bias_filler: FillerParameter,
}

impl BatchNorm {
    /// Scale and shift of each channel, in f64: `y = scale·x + shift`. Only what the
    /// stored statistics give.
    fn affine(&self, params: &[&Tensor]) -> Vec<[f64; 2]> {
        let stats = self.stored(params).into_iter().enumerate();
        let affine = stats.map(|(c, [mean, variance])| {
            let [scale, bias] = after(params, c);
            if self.affine_only {
                return [scale, bias];
            }
            let scale = scale / self.deviation(variance);
            [scale, bias - mean * scale]
        });
        affine.collect()
    }

    fn deviation(&self, variance: f64) -> f64 {
        let eps = f64::from(self.eps);
        match self.eps_outside {
            true => variance.sqrt() + eps,
            false => (variance + eps).sqrt(),
        }
    }

    /// Whether stored statistics are divided by the third blob.
    pub fn divides(&self) -> bool {
        self.scale_bias.as_ref().is_none_or(|own| own.divided)
    }

    /// Mean and variance of each channel as the blobs hold them.
    fn stored(&self, params: &[&Tensor]) -> Vec<[f64; 2]> {
        let factor = match f64::from(params[2].data[0]) {
            _ if !self.divides() => 1.0,
            0.0 => 0.0,
            factor => 1.0 / factor,
        };
        let pairs = params[0].data.iter().zip(&params[1].data);
        pairs
            .map(|(&m, &v)| [m, v].map(|sum| f64::from(sum) * factor))
            .collect()
    }
}

/// The layer's own scale and bias of channel c.
fn after(params: &[&Tensor], c: usize) -> [f64; 2] {
    match params {
        [_, _, _, scale, bias] => [scale, bias].map(|blob| f64::from(blob.data[c])),
        _ => [1.0, 0.0],
    }
}

/// Mean and variance of each channel of `x`.
fn measured(x: &Tensor) -> Vec<[f64; 2]> {
    let inner = x.shape.count_of(2..x.shape.len());
    statistics(&x.data, x.shape[1], inner)
}

impl Layer for BatchNorm {
    fn claims() -> &'static [&'static str] {
        &[
            "batch_norm_param.scale_bias",
            "batch_norm_param.scale_filler",
            "batch_norm_param.bias_filler",
            "batch_norm_param.add_eps_before_sqrt",
        ]
    }

    /// `moving_average_fraction` matters to training only.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.batch_norm_param.clone().unwrap_or_default();
        let merged = param.r#type() == "BatchNormScale";
        let own = merged || p.scale_bias() || p.scale_filler.is_some() || p.bias_filler.is_some();
        let (scale_filler, bias_filler) = match merged {
            false => (p.scale_filler.clone(), p.bias_filler.clone()),
            true => {
                let p = param.scale_param.clone().unwrap_or_default();
                (p.filler, p.bias_filler)
            }
        };
        let learns = |spec: &&crate::frontend::proto::ParamSpec| spec.lr_mult() != 0.0;
        if !own && param.param.iter().take(3).any(|spec| learns(&spec)) {
            let message = "lr_mult must be 0: statistics are not learned";
            return Err(cx.invalid("param", message).into());
        }
        Ok(BatchNorm {
            use_global_stats: p.use_global_stats.unwrap_or(cx.phase == Phase::Test),
            eps: p.eps(),
            eps_outside: !p.add_eps_before_sqrt(),
            scale_bias: own.then(|| ScaleBias {
                divided: merged,
                scale_filler: scale_filler.unwrap_or_else(|| constant_filler(1.0)),
                bias_filler: bias_filler.unwrap_or_default(),
            }),
            affine_only: merged && !cx.in_place,
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
        let spec = |len, filler: &FillerParameter| -> Result<ParamSpec> {
            Ok(ParamSpec {
                shape: Shape::new([len])?,
                filler: filler.clone(),
            })
        };
        let none = FillerParameter::default();
        let mut specs = vec![
            spec(channels, &none)?,
            spec(channels, &none)?,
            spec(1, &none)?,
        ];
        if let Some(own) = &self.scale_bias {
            specs.push(spec(channels, &own.scale_filler)?);
            specs.push(spec(channels, &own.bias_filler)?);
        }
        Ok(specs)
    }

    /// NVCaffe 0.15 stores scale, bias, mean, variance and one number without use.
    fn order_in_file(&self, sizes: &[usize]) -> Option<Vec<usize>> {
        let own = self.scale_bias.as_ref()?;
        let old = matches!(*sizes, [c, _, third, _, 1] if third == c);
        (!own.divided && old).then(|| vec![2, 3, 4, 0, 1])
    }

    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let x = bottoms[0];
        let stats = if self.use_global_stats {
            self.stored(params)
        } else {
            measured(x)
        };
        let inner = x.shape.count_of(2..x.shape.len());
        for (i, (y, &x)) in tops[0].data.iter_mut().zip(&x.data).enumerate() {
            let c = i / inner % stats.len();
            let ([mean, variance], [scale, bias]) = (stats[c], after(params, c));
            let unit = match self.affine_only {
                true => f64::from(x),
                false => (f64::from(x) - mean) / self.deviation(variance),
            };
            *y = (unit * scale + bias) as f32;
        }
    }

    fn pointwise(&self, _bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        let by_batch = !self.use_global_stats && !self.affine_only;
        if by_batch || params.len() < 3 {
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

    /// By the statistics of the batch; stored ones make an expression of it.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let inner = bottoms[0].count_of(2..bottoms[0].len());
        let sizes = vec![bottoms[0][1], inner, usize::from(self.eps_outside)];
        Some(Call::new(routine!("batch_norm"), sizes, vec![self.eps]))
    }

    fn note(&self) -> Option<String> {
        let note = "as in the fork, only a layer that works in place normalises";
        self.affine_only.then(|| note.to_string())
    }

    /// Stored statistics make an expression of it before.
    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        if self.scale_bias.is_none() && !self.eps_outside {
            return lower::batch_norm(b, node, self.eps);
        }
        let shape = b.graph.shape(node.bottoms[0]).clone();
        let call = self.routine(&[shape], &[]).expect("there is one");
        lower::routine(b, node, call, &[])
    }
}

// Under this name BN's routine finds it here and in emitted source.
pub(super) use routine::statistics;

/// Pasted into emitted source.
pub mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (channels, inner, outside) = (sizes[0], sizes[1], sizes[2] == 1);
        let eps = f64::from(values[0]);
        let stats = statistics(bottoms[0], channels, inner);
        let own = |blob: usize, c: usize, otherwise: f32| {
            f64::from(bottoms.get(blob).map_or(otherwise, |blob| blob[c]))
        };
        for (i, (y, &x)) in tops[0].iter_mut().zip(bottoms[0]).enumerate() {
            let c = i / inner % channels;
            let [mean, variance] = stats[c];
            let deviation = match outside {
                true => variance.sqrt() + eps,
                false => (variance + eps).sqrt(),
            };
            let unit = (f64::from(x) - mean) / deviation;
            *y = (unit * own(4, c, 1.0) + own(5, c, 0.0)) as f32;
        }
    }

    /// Mean and biased variance of each channel.
    pub fn statistics(x: &[f32], channels: usize, inner: usize) -> Vec<[f64; 2]> {
        let values = |c| {
            let planes = x.chunks(inner.max(1)).skip(c).step_by(channels);
            planes.flatten().map(|&x| f64::from(x))
        };
        let count = (x.len() / channels.max(1)) as f64;
        let stats = |c| {
            let mean = values(c).sum::<f64>() / count;
            let variance = values(c).map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            [mean, variance]
        };
        (0..channels).map(stats).collect()
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
    fn eps_outside_of_the_root() {
        let p = param(BatchNormParameter {
            eps: Some(1.0),
            add_eps_before_sqrt: Some(false),
            ..BatchNormParameter::default()
        });
        let blobs = [(1, 1.), (1, 9.), (1, 1.)].map(|(n, v)| tensor(&[n], vec![v; n]));
        let y = forward::<BatchNorm>(&p, &[tensor(&[1, 1], [5.])], &blobs);
        assert_eq!(y[0].data, [1.]);
    }

    #[test]
    fn with_scale_and_bias() {
        let p = BatchNormParameter {
            eps: Some(0.0),
            scale_bias: Some(true),
            ..BatchNormParameter::default()
        };
        let merged = |top: &str| LayerParameter {
            r#type: Some("BatchNormScale".into()),
            bottom: vec!["x".into()],
            top: vec![top.into()],
            ..param(p.clone())
        };
        let x = tensor(&[1, 2], [3., 1.]);
        let blobs = [
            tensor(&[2], [1., 2.]),
            tensor(&[2], [4., 16.]),
            tensor(&[1], [2.]),
            tensor(&[2], [10., 3.]),
            tensor(&[2], [0.5, 1.]),
        ];
        let y = forward::<BatchNorm>(&param(p.clone()), &[&x], &blobs);
        assert_close(&y[0].data, &[10.5, 0.25], 1e-7);
        let y = forward::<BatchNorm>(&merged("y"), &[&x], &blobs);
        assert_eq!(y[0].data, [30.5, 4.]);
        let y = forward::<BatchNorm>(&merged("x"), &[&x], &blobs);
        let root = 2f32.sqrt();
        assert_close(&y[0].data, &[0.5 + 25. / root, 1.], 1e-6);
        let (layer, _) = infer::<BatchNorm>(&param(p), &[&[1, 2]]).unwrap();
        let order = vec![2, 3, 4, 0, 1];
        assert_eq!(layer.order_in_file(&[2, 2, 2, 2, 1]), Some(order));
        assert_eq!(layer.order_in_file(&[2, 2, 1, 2, 2]), None);
        assert_eq!(layer.order_in_file(&[2, 2, 1]), None);
    }

    #[test]
    fn scale_and_bias_after_statistics_of_the_batch() {
        let p = param(BatchNormParameter {
            eps: Some(0.0),
            use_global_stats: Some(false),
            scale_bias: Some(true),
            ..BatchNormParameter::default()
        });
        let x = tensor(&[2, 1, 1], [1., 3.]);
        let blobs = [7., 7., 1., 10., 0.5].map(|v| tensor(&[1], [v]));
        let y = forward::<BatchNorm>(&p, &[&x], &blobs);
        assert_eq!(y[0].data, [-9.5, 10.5]);
        let read: Vec<&[f32]> = [&x]
            .into_iter()
            .chain(&blobs)
            .map(|b| &b.data[..])
            .collect();
        let mut top = [0.; 2];
        routine::run(&read, &mut [&mut top], &[1, 1, 0], &[0.]);
        assert_eq!(top[..], y[0].data);
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
