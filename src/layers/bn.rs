//! `BN` of forks: three layers of that name, which `bn_param` tells apart, else the dialect.
//!
//! * SegNet (a filler for scale or shift, `bn_mode`, or more than one top): with `bn_mode`
//!   INFERENCE `scale · x + shift`; LEARN, the default in all phases, takes
//!   `(x − mean) / sqrt(variance + 1e-9)` of the batch for x. Tops 1 and 2 are mean and
//!   variance `[1, C, 1, 1]`. Blobs: scale, shift.
//! * PSPNet (everything else): `slope · (x − mean) / sqrt(variance + eps) + bias`, in phase
//!   TRAIN, unless `frozen`, by the statistics of the batch. Blobs: slope, bias, mean,
//!   variance.
//! * PSPNet before that, and CTPN (`moving_average`, `var_eps` or `decay`):
//!   `scale · (x − mean) / sqrt(variance + var_eps) + shift`, by the statistics of the batch
//!   unless, in phase TEST, `moving_average` says that they are stored. Blobs: scale, shift,
//!   mean, variance.
//!
//! All blobs are `[1, C, 1, 1]`; variances are biased.

use super::{Cx, Layer, batch_norm, constant_filler};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::bn_parameter::BnMode;
use crate::frontend::proto::{FillerParameter, LayerParameter, Phase};
use crate::ir::{Broadcast, ParamSpec, Pointwise, Shape, Tensor};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Bn {
    pub statistics: Statistics,
    pub eps: f32,
    /// One for each blob.
    pub fillers: Vec<FillerParameter>,
    tops: usize,
}

/// What x is normalised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    Batch,
    /// Blobs 2 and 3.
    Stored,
    /// It is not.
    None,
}

impl Layer for Bn {
    /// `momentum` and `decay` matter to training only.
    fn claims() -> &'static [&'static str] {
        &[
            "bn_param.slope_filler",
            "bn_param.bias_filler",
            "bn_param.momentum",
            "bn_param.eps",
            "bn_param.frozen",
            "bn_param.scale_filler",
            "bn_param.shift_filler",
            "bn_param.bn_mode",
            "bn_param.moving_average",
            "bn_param.var_eps",
            "bn_param.decay",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.bn_param.clone().unwrap_or_default();
        let constant = |filler: Option<FillerParameter>, value| {
            filler.unwrap_or_else(|| constant_filler(value))
        };
        let earlier = p.moving_average.is_some() || p.var_eps.is_some() || p.decay.is_some();
        if earlier {
            for (field, given) in [
                ("slope_filler", p.slope_filler.is_some()),
                ("bias_filler", p.bias_filler.is_some()),
                ("frozen", p.frozen.is_some()),
                ("eps", p.eps.is_some()),
                ("bn_mode", p.bn_mode.is_some()),
            ] {
                if given {
                    let field = format!("bn_param.{field}");
                    let message = "a layer with moving_average, var_eps or decay has no such field";
                    return Err(cx.unsupported(&field, message).into());
                }
            }
            cx.counts(1..=1, 1..=1)?;
            let stored = cx.phase == Phase::Test && p.moving_average();
            return Ok(Bn {
                statistics: if stored {
                    Statistics::Stored
                } else {
                    Statistics::Batch
                },
                eps: p.var_eps(),
                fillers: vec![
                    constant(p.scale_filler, 0.0),
                    constant(p.shift_filler, 0.0),
                    constant_filler(0.0),
                    constant_filler(0.0),
                ],
                tops: 1,
            });
        }
        let fields = p.scale_filler.is_some() || p.shift_filler.is_some() || p.bn_mode.is_some();
        if fields || cx.tops > 1 || cx.dialect == Some(Dialect::SegNet) {
            cx.counts(1..=1, 1..=3)?;
            let statistics = match p.bn_mode() {
                BnMode::Learn => Statistics::Batch,
                BnMode::Inference => Statistics::None,
            };
            if statistics == Statistics::None && cx.tops > 1 {
                let message = "bn_mode INFERENCE has no mean and variance to give";
                return Err(cx.invalid("top", message).into());
            }
            return Ok(Bn {
                statistics,
                eps: 1e-9,
                fillers: vec![constant(p.scale_filler, 1.0), constant(p.shift_filler, 0.0)],
                tops: cx.tops,
            });
        }
        cx.counts(1..=1, 1..=1)?;
        let batch = cx.phase == Phase::Train && !p.frozen();
        let variance = if p.frozen() { 1.0 } else { 0.0 };
        Ok(Bn {
            statistics: if batch {
                Statistics::Batch
            } else {
                Statistics::Stored
            },
            eps: p.eps(),
            fillers: vec![
                constant(p.slope_filler, 1.0),
                constant(p.bias_filler, 0.0),
                constant_filler(0.0),
                constant_filler(variance),
            ],
            tops: 1,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if bottoms[0].len() < 2 {
            let message = format!("the bottom must have at least 2 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let statistics = Shape::new([1, bottoms[0][1], 1, 1])?;
        let mut tops = vec![statistics; self.tops];
        tops[0] = bottoms[0].clone();
        Ok(tops)
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let spec = |filler: &FillerParameter| {
            Ok(ParamSpec {
                shape: Shape::new([1, bottoms[0][1], 1, 1])?,
                filler: filler.clone(),
            })
        };
        self.fillers.iter().map(spec).collect()
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let inner = bottoms[0].count_of(2..bottoms[0].len());
        let sizes = vec![bottoms[0][1], inner, self.statistics as usize];
        Some(Call::new(
            routine!("bn", "batch_norm"),
            sizes,
            vec![self.eps],
        ))
    }

    fn pointwise(&self, _bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
        let [scales, shifts, ..] = params else {
            return None;
        };
        let blob = |n: usize, c: usize| params.get(n).map(|blob| f64::from(blob.data[c]));
        let affine = |c: usize| {
            let [scale, shift] = [scales, shifts].map(|blob| f64::from(blob.data[c]));
            match (blob(2, c), blob(3, c)) {
                (Some(mean), Some(variance)) => {
                    let scale = scale / (variance + f64::from(self.eps)).sqrt();
                    [scale, shift - scale * mean]
                }
                _ => [scale, shift],
            }
        };
        if self.statistics == Statistics::Batch {
            return None;
        }
        let affine: Vec<[f64; 2]> = (0..scales.data.len()).map(affine).collect();
        let constants = |i: usize| {
            let values = affine.iter().map(|pair| pair[i] as f32).collect();
            Box::new(Pointwise::Broadcast(Broadcast::channels(values)))
        };
        let x = Box::new(Pointwise::Bottom(0));
        Some(Pointwise::Fma(x, constants(0), constants(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::batch_norm::statistics;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (x, channels, inner) = (bottoms[0], sizes[0], sizes[1]);
        let eps = f64::from(values[0]);
        let stored = |c: usize| [3, 4].map(|blob| f64::from(bottoms[blob][c]));
        let stats: Vec<[f64; 2]> = match sizes[2] {
            0 => statistics(x, channels, inner),
            1 => (0..channels).map(stored).collect(),
            _ => vec![[0.0, 1.0 - eps]; channels],
        };
        for (i, (y, &x)) in tops[0].iter_mut().zip(x).enumerate() {
            let c = i / inner % channels;
            let [mean, variance] = stats[c];
            let [scale, shift] = [1, 2].map(|blob| f64::from(bottoms[blob][c]));
            let unit = (f64::from(x) - mean) / (variance + eps).sqrt();
            *y = (scale * unit + shift) as f32;
        }
        for (n, top) in tops.iter_mut().skip(1).enumerate() {
            for (y, stats) in top.iter_mut().zip(&stats) {
                *y = stats[n] as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::BnParameter;

    fn blob(values: [f32; 2]) -> Tensor {
        tensor(&[1, 2, 1, 1], values)
    }

    #[test]
    fn the_layer_of_segnet() {
        let x = tensor(&[2, 2, 1, 1], [1., 5., 3., 9.]);
        let blobs = [blob([10., 1.]), blob([0.5, -1.])];
        let param = |mode: BnMode, tops: usize| LayerParameter {
            top: (0..tops).map(|i| format!("top{i}")).collect(),
            bn_param: Some(Box::new(BnParameter {
                bn_mode: Some(mode.into()),
                ..BnParameter::default()
            })),
            ..LayerParameter::default()
        };
        let y = forward::<Bn>(&param(BnMode::Learn, 3), &[&x], &blobs);
        assert_close(&y[0].data, &[-9.5, -2., 10.5, 0.], 1e-6);
        assert_eq!(
            (&y[1].data[..], &y[2].data[..]),
            (&[2., 7.][..], &[1., 4.][..])
        );
        let y = forward::<Bn>(&param(BnMode::Inference, 1), &[x], &blobs);
        assert_eq!(y[0].data, [10.5, 4., 30.5, 8.]);
        let got = refusal::<Bn>(&param(BnMode::Inference, 2), &[&[1, 2]]);
        assert!(got.starts_with("top: "), "{got}");
    }

    /// Two items of two channels; scale, shift, mean and variance.
    fn batch_and_statistics() -> (Tensor, [Tensor; 4]) {
        let x = tensor(&[2, 2, 1, 1], [1., 5., 3., 9.]);
        let blobs = [[10., 1.], [0.5, -1.], [2., 1.], [3., 15.]].map(blob);
        (x, blobs)
    }

    #[test]
    fn the_earlier_layer_of_pspnet() {
        let (x, blobs) = batch_and_statistics();
        let param = |phase: Phase, moving| LayerParameter {
            phase: Some(phase.into()),
            bn_param: Some(Box::new(BnParameter {
                scale_filler: Some(FillerParameter::default()),
                var_eps: Some(1.),
                moving_average: Some(moving),
                ..BnParameter::default()
            })),
            ..LayerParameter::default()
        };
        let y = forward::<Bn>(&param(Phase::Test, true), &[&x], &blobs);
        assert_close(&y[0].data, &[-4.5, 0., 5.5, 1.], 1e-6);
        // Mean 2 and 7, variance 1 and 4 of the batch.
        let [a, b] = [10. / 2f32.sqrt(), 2. / 5f32.sqrt()];
        let batch = [0.5 - a, -1. - b, 0.5 + a, -1. + b];
        for (phase, moving) in [(Phase::Test, false), (Phase::Train, true)] {
            let y = forward::<Bn>(&param(phase, moving), &[&x], &blobs);
            assert_close(&y[0].data, &batch, 1e-6);
        }
        let mut both = param(Phase::Test, true);
        both.bn_param.as_mut().unwrap().frozen = Some(true);
        let got = refusal::<Bn>(&both, &[&[1, 2]]);
        assert!(got.starts_with("bn_param.frozen: "), "{got}");
    }

    #[test]
    fn the_layer_of_pspnet() {
        let (x, blobs) = batch_and_statistics();
        let param = |phase: Phase, frozen| LayerParameter {
            phase: Some(phase.into()),
            bn_param: Some(Box::new(BnParameter {
                eps: Some(1.),
                frozen: Some(frozen),
                ..BnParameter::default()
            })),
            ..LayerParameter::default()
        };
        let stored = [-4.5, 0., 5.5, 1.];
        for (phase, frozen) in [(Phase::Test, false), (Phase::Train, true)] {
            let y = forward::<Bn>(&param(phase, frozen), &[&x], &blobs);
            assert_close(&y[0].data, &stored, 1e-6);
        }
        let y = forward::<Bn>(&param(Phase::Train, false), &[&x], &blobs);
        let (one, two) = (10. / 2f32.sqrt(), 2. / 5f32.sqrt());
        let want = [0.5 - one, -1. - two, 0.5 + one, -1. + two];
        assert_close(&y[0].data, &want, 1e-6);
    }
}
