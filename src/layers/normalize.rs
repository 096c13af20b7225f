//! `Normalize` of forks: `x / norm · scale`. Three layers of that name differ in what the
//! norm is taken of; the parameter message tells them apart, else the dialect.
//!
//! * SSD (`norm_param`, or none; also called ChannelNormalize, in OpenCV NormalizeBBox):
//!   `sqrt(Σx² + eps)` over the item, or with `across_spatial: false` over the channels at each
//!   position; outside of
//!   the root with `add_eps_before_sqrt: false`. Blob: the scale, a scalar or, with
//!   `channel_shared: false`, `[C]`.
//! * happynear (`normalize_param`): over the channels at each position, `sqrt(Σx² + 1e-6)`
//!   or for L1 `Σ|x| + 1e-6`; no scale. A second top `[N, 1, H, W]` is the norm. Tops have
//!   4 axes. The first version of the fork had `normalize_type` in `softmax_param`, which is
//!   taken if it says the same.
//! * SimpleNormalize: `sqrt(Σx²)` over the item; no scale. The top has 4 axes.

use super::{Cx, Layer, constant_filler};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Normalize {
    pub norm: Norm,
    pub eps: f32,
    /// Over the item, not only over the channels at a position.
    pub across_spatial: bool,
    pub scale: Option<Scale>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `sqrt(Σx² + eps)`.
    EpsInRoot = 0,
    /// `sqrt(Σx²) + eps`.
    EpsOutside = 1,
    /// `Σ|x| + eps`.
    L1 = 2,
}

#[derive(Clone, Debug)]
pub struct Scale {
    pub channel_shared: bool,
    pub filler: FillerParameter,
}

impl Normalize {
    fn ssd(param: &LayerParameter) -> Normalize {
        let p = param
            .norm_param
            .clone()
            .or_else(|| param.normalize_bbox_param.clone());
        let p = p.unwrap_or_default();
        Normalize {
            norm: match p.add_eps_before_sqrt() {
                true => Norm::EpsInRoot,
                false => Norm::EpsOutside,
            },
            eps: p.eps(),
            across_spatial: p.across_spatial(),
            scale: Some(Scale {
                channel_shared: p.channel_shared(),
                filler: p.scale_filler.unwrap_or_else(|| constant_filler(1.0)),
            }),
        }
    }

    fn happynear(param: &LayerParameter, cx: &Cx) -> Result<Normalize> {
        let p = param.normalize_param.clone().unwrap_or_default();
        let early = param
            .softmax_param
            .as_ref()
            .and_then(|p| p.normalize_type.as_ref());
        if early.is_some_and(|name| name != p.normalize_type()) {
            // Later versions do not read that field here.
            let message = "versions of the fork differ about it: say it in normalize_param";
            return Err(cx.unsupported(EARLY, message).into());
        }
        let norm = match p.normalize_type() {
            "L2" => Norm::EpsInRoot,
            "L1" => Norm::L1,
            other => {
                let message = format!("must be L2 or L1, not `{other}`");
                return Err(cx.invalid("normalize_param.normalize_type", message).into());
            }
        };
        Ok(Normalize {
            norm,
            eps: 1e-6,
            across_spatial: false,
            scale: None,
        })
    }
}

/// Where happynear's first version had `normalize_param.normalize_type`.
const EARLY: &str = "softmax_param.normalize_type";

impl Layer for Normalize {
    /// Whether the scale is learned, and how gradients flow, matters to training only.
    fn claims() -> &'static [&'static str] {
        &[
            "norm_param",
            "normalize_bbox_param",
            "normalize_param",
            EARLY,
            "norm_param.add_eps_before_sqrt",
            "normalize_bbox_param.add_eps_before_sqrt",
        ]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let early = param
            .softmax_param
            .as_ref()
            .is_some_and(|p| p.normalize_type.is_some());
        let silent = param.norm_param.is_none() && cx.dialect == Some(Dialect::Happynear);
        let happynear = silent || early || param.normalize_param.is_some();
        if param.norm_param.is_some() && happynear {
            let message = "norm_param and normalize_param belong to different layers";
            return Err(cx.invalid("normalize_param", message).into());
        }
        let layer = match param.r#type() {
            "Normalize" if happynear => Self::happynear(param, cx)?,
            _ if early => return Err(cx.unsupported(EARLY, EARLY).into()),
            "SimpleNormalize" => Normalize {
                norm: Norm::EpsInRoot,
                eps: 0.0,
                across_spatial: true,
                scale: None,
            },
            _ => Self::ssd(param),
        };
        let norms = layer.scale.is_none() && !layer.across_spatial;
        cx.counts(1..=1, 1..=if norms { 2 } else { 1 })?;
        Ok(layer)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let dims = bottom.nchw().filter(|_| bottom.len() >= 2);
        let Some([n, c, h, w]) = dims else {
            let message = format!("the bottom must have 2 to 4 axes, it is {bottom}");
            return Err(cx.invalid("bottom", message).into());
        };
        if self.scale.is_some() {
            return Ok(vec![bottom.clone()]);
        }
        let tops = [Shape::new([n, c, h, w])?, Shape::new([n, 1, h, w])?];
        Ok(tops[..cx.tops].to_vec())
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let Some(scale) = &self.scale else {
            return Ok(Vec::new());
        };
        let shape = match scale.channel_shared {
            true => Shape::default(),
            false => Shape::new([bottoms[0][1]])?,
        };
        let filler = scale.filler.clone();
        Ok(vec![ParamSpec { shape, filler }])
    }

    /// One call an item.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [items, channels, ..] = bottoms[0][..] else {
            return None;
        };
        let across = usize::from(self.across_spatial);
        let sizes = vec![channels, self.norm as usize, across];
        Some(Call::new(routine!("normalize"), sizes, vec![self.eps]).cut(items))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (x, channels) = (bottoms[0], sizes[0]);
        let positions = x.len() / channels;
        let mut sums = vec![0.0; positions];
        for plane in x.chunks(positions) {
            for (sum, &x) in sums.iter_mut().zip(plane) {
                let x = f64::from(x);
                *sum += if sizes[1] == 2 { x.abs() } else { x * x };
            }
        }
        if sizes[2] == 1 {
            let sum = sums.iter().sum();
            sums.fill(sum);
        }
        let eps = f64::from(values[0]);
        for sum in &mut sums {
            *sum = match sizes[1] {
                0 => (*sum + eps).sqrt(),
                1 => sum.sqrt() + eps,
                _ => *sum + eps,
            };
        }
        let planes = tops[0].chunks_mut(positions).zip(x.chunks(positions));
        for (c, (y, x)) in planes.enumerate() {
            let scale = bottoms.get(1).map_or(1.0, |scale| scale[c % scale.len()]);
            for ((y, &x), norm) in y.iter_mut().zip(x).zip(&sums) {
                *y = (f64::from(x) / norm * f64::from(scale)) as f32;
            }
        }
        if let Some(top) = tops.get_mut(1) {
            for (y, &norm) in top.iter_mut().zip(&sums) {
                *y = norm as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{NormParameter, NormalizeParameter, SoftmaxParameter};
    use crate::ir::Tensor;

    fn x() -> Tensor {
        tensor(&[1, 2, 1, 2], [3., 0., 4., -2.])
    }

    fn ssd(p: NormParameter, scale: Tensor) -> Vec<f32> {
        let param = LayerParameter {
            norm_param: Some(Box::new(p)),
            ..LayerParameter::default()
        };
        forward::<Normalize>(&param, &[x()], &[scale])
            .remove(0)
            .data
    }

    #[test]
    fn the_layer_of_ssd() {
        let across = NormParameter {
            eps: Some(-4.),
            ..NormParameter::default()
        };
        assert_eq!(ssd(across.clone(), tensor(&[], [10.])), [6., 0., 8., -4.]);
        let by_position = NormParameter {
            across_spatial: Some(false),
            channel_shared: Some(false),
            eps: Some(0.),
            ..NormParameter::default()
        };
        let scale = || tensor(&[2], [5., 10.]);
        assert_eq!(ssd(by_position.clone(), scale()), [3., 0., 8., -10.]);
        let outside = NormParameter {
            eps: Some(5.),
            add_eps_before_sqrt: Some(false),
            ..by_position
        };
        assert_close(&ssd(outside, scale()), &[1.5, 0., 4., -20. / 7.], 1e-7);
    }

    #[test]
    fn the_layers_of_happynear() {
        let run = |norm: &str| {
            let param = LayerParameter {
                r#type: Some("Normalize".into()),
                top: vec!["y".into(), "norm".into()],
                normalize_param: Some(Box::new(NormalizeParameter {
                    normalize_type: Some(norm.into()),
                    ..NormalizeParameter::default()
                })),
                ..LayerParameter::default()
            };
            forward::<Normalize>(&param, &[x()], &[])
        };
        let y = run("L1");
        assert_close(&y[0].data, &[3. / 7., 0., 4. / 7., -1.], 1e-6);
        assert_close(&y[1].data, &[7., 2.], 1e-6);
        assert_eq!(y[1].shape.dims(), [1, 1, 1, 2]);
        let y = run("L2");
        assert_close(&y[0].data, &[0.6, 0., 0.8, -1.], 1e-6);
        let simple = LayerParameter {
            r#type: Some("SimpleNormalize".into()),
            ..LayerParameter::default()
        };
        let y = forward::<Normalize>(&simple, &[tensor(&[1, 2], [3., 4.])], &[]);
        assert_eq!(y[0].shape.dims(), [1, 2, 1, 1]);
        assert_close(&y[0].data, &[0.6, 0.8], 1e-7);
    }

    #[test]
    fn shapes() {
        let got = refusal::<Normalize>(&LayerParameter::default(), &[&[3]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }

    #[test]
    fn the_fields_first_place() {
        let param = |ty: &str, norm: &str| LayerParameter {
            r#type: Some(ty.into()),
            softmax_param: Some(
                SoftmaxParameter {
                    normalize_type: Some(norm.into()),
                    ..SoftmaxParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let y = forward::<Normalize>(&param("Normalize", "L2"), &[x()], &[]);
        assert_close(&y[0].data, &[0.6, 0., 0.8, -1.], 1e-6);
        for (ty, norm) in [("Normalize", "L1"), ("SimpleNormalize", "L2")] {
            let got = refusal::<Normalize>(&param(ty, norm), &[&[1, 2, 1, 2]]);
            assert!(got.starts_with("softmax_param.normalize_type: "), "{got}");
        }
    }
}
