//! `MVN`: `(x − mean) / (deviation + eps)` of each map, or of each item with
//! `across_channels`; without `normalize_variance` only `x − mean` (Caffe
//! `mvn_layer.cpp`).
//!
//! * bottom: at most 4 axes, missing ones count as 1. Top: those 4 axes.
//! * The deviation is the root of the biased variance. `eps` is added to it, not inside.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Mvn {
    pub normalize_variance: bool,
    pub across_channels: bool,
    pub eps: f32,
}

impl Layer for Mvn {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let p = param.mvn_param.clone().unwrap_or_default();
        Ok(Mvn {
            normalize_variance: p.normalize_variance(),
            across_channels: p.across_channels(),
            eps: p.eps(),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let Some(dims) = bottoms[0].nchw() else {
            let message = format!("the bottom must have at most 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        Ok(vec![Shape::new(dims)?])
    }

    /// One call for each group of elements that share a mean.
    fn routine(&self, _bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let axes = if self.across_channels { 1 } else { 2 };
        let sizes = vec![usize::from(self.normalize_variance)];
        let call = Call::new(routine!("mvn"), sizes, vec![self.eps]);
        Some(call.cut(tops[0].count_of(0..axes)))
    }
}

/// Pasted into emitted source.
mod routine {
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        let x = bottoms[0];
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / x.len() as f64;
        let center = mean(&mut x.iter().map(|&x| f64::from(x)));
        let variance = mean(&mut x.iter().map(|&x| (f64::from(x) - center).powi(2)));
        let divisor = match sizes[0] {
            1 => variance.sqrt() + f64::from(values[0]),
            _ => 1.0,
        };
        for (y, &x) in tops[0].iter_mut().zip(x) {
            *y = ((f64::from(x) - center) / divisor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::MvnParameter;

    fn run(p: MvnParameter) -> Vec<f32> {
        let param = LayerParameter {
            mvn_param: Some(p.into()),
            ..LayerParameter::default()
        };
        let x = tensor(&[1, 2, 1, 2], [1., 5., 7., 7.]);
        forward::<Mvn>(&param, &[x], &[]).remove(0).data
    }

    #[test]
    fn values() {
        assert_close(&run(MvnParameter::default()), &[-1., 1., 0., 0.], 1e-7);
        let eps = MvnParameter {
            eps: Some(2.),
            ..MvnParameter::default()
        };
        assert_eq!(run(eps), [-0.5, 0.5, 0., 0.]);
        // The mean of all is 5, the variance 6.
        let across = MvnParameter {
            across_channels: Some(true),
            ..MvnParameter::default()
        };
        let root = 6f32.sqrt();
        let want = [-4. / root, 0., 2. / root, 2. / root];
        assert_close(&run(across), &want, 1e-7);
        let mean_only = MvnParameter {
            normalize_variance: Some(false),
            ..across
        };
        assert_eq!(run(mean_only), [-4., 0., 2., 2.]);
    }

    #[test]
    fn tops_have_4_axes() {
        let param = LayerParameter::default();
        assert_eq!(tops::<Mvn>(&param, &[&[2, 3]]), [[2, 3, 1, 1]]);
        let got = refusal::<Mvn>(&param, &[&[1, 2, 3, 4, 5]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
