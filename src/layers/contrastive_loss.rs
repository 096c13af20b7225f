//! `ContrastiveLoss`: similar pairs should be near, others at least `margin` apart (Caffe
//! `contrastive_loss_layer.cpp`).
//!
//! * bottoms: a and b, `[N, C]` or `[N, C, 1, 1]`, and for each pair whether it is
//!   similar: the integer part is not 0.
//! * top: a scalar, `Σ / 2N` of `d²` for similar pairs, else `max(margin − d, 0)²` or,
//!   with `legacy_version`, `max(margin − d², 0)`; d is the Euclidean distance.

use super::{Cx, Layer, loss};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ContrastiveLoss {
    pub margin: f32,
    pub legacy_version: bool,
}

impl Layer for ContrastiveLoss {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=3, 0..=1)?;
        cx.not_in_place()?;
        let p = param.contrastive_loss_param.clone().unwrap_or_default();
        Ok(ContrastiveLoss {
            margin: p.margin(),
            legacy_version: p.legacy_version(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let items = loss::items(bottoms, cx)?;
        let (a, b, similar) = (&bottoms[0], &bottoms[1], &bottoms[2]);
        let channels = |shape: &Shape| match shape.nchw() {
            Some([_, c, 1, 1]) => Some(c),
            _ => None,
        };
        if channels(a).is_none() || channels(a) != channels(b) {
            let message = format!("bottoms of {a} and {b} are not both N×C or N×C×1×1");
            return Err(cx.invalid("bottom", message).into());
        }
        loss::one_value_each(similar, cx)?;
        if similar.count() < items {
            let message = format!("{items} pairs need as many labels, not {}", similar.count());
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![Shape::default(); cx.tops])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![bottoms[0][0], usize::from(self.legacy_version)];
        let routine = routine!("contrastive_loss");
        Some(Call::new(routine, sizes, vec![self.margin]))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let (items, legacy, margin) = (sizes[0], sizes[1] == 1, f64::from(values[0]));
        let channels = bottoms[0].len() / items;
        let pairs = bottoms[0].chunks(channels).zip(bottoms[1].chunks(channels));
        let mut sum = 0.0;
        for ((a, b), &similar) in pairs.zip(bottoms[2]) {
            let square = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
            let squares: f64 = a.iter().zip(b).map(square).sum();
            // NaN stays NaN.
            let positive = |x: f64| if x < 0.0 { 0.0 } else { x };
            sum += if similar as i32 != 0 {
                squares
            } else if legacy {
                positive(margin - squares)
            } else {
                positive(margin - squares.sqrt()).powi(2)
            };
        }
        for top in tops {
            top[0] = (sum / (2.0 * items as f64)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ContrastiveLossParameter;

    fn run(margin: f32, legacy_version: bool) -> f32 {
        let param = LayerParameter {
            contrastive_loss_param: Some(
                ContrastiveLossParameter {
                    margin: Some(margin),
                    legacy_version: Some(legacy_version),
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        // Distances 5, 5 and 0.
        let a = tensor(&[3, 2], [3., 4., 0., 0., 1., 1.]);
        let b = tensor(&[3, 2, 1, 1], [0., 0., 3., -4., 1., 1.]);
        let similar = tensor(&[3], [1., 0., 0.5]);
        forward::<ContrastiveLoss>(&param, &[a, b, similar], &[])
            .remove(0)
            .data[0]
    }

    #[test]
    fn values() {
        assert_eq!(run(7., false), (25. + 4. + 49.) / 6.);
        assert_eq!(run(1., false), 26. / 6.);
        assert_eq!(run(30., true), (25. + 5. + 30.) / 6.);
    }

    #[test]
    fn shapes() {
        let param = LayerParameter::default();
        let refused = |bottoms: &[&[usize]]| refusal::<ContrastiveLoss>(&param, bottoms);
        assert!(refused(&[&[2, 3], &[2, 4], &[2]]).starts_with("bottom: bottoms of"));
        assert!(refused(&[&[2, 3, 2], &[2, 3, 2], &[2]]).starts_with("bottom: bottoms of"));
        assert!(refused(&[&[2, 3], &[2, 3], &[2, 2]]).starts_with("bottom: labels"));
        assert!(refused(&[&[2, 3], &[2, 3], &[1]]).starts_with("bottom: 2 pairs"));
    }
}
