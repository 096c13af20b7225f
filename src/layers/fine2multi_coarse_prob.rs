//! `Fine2MultiCoarseProb` (HD-CNN `fine2multicoarseprob_layer.cpp`): from probabilities of
//! classes to those of groups of classes, which may overlap.
//!
//! * bottom: at most 4 axes, as many channels as there are `fine2multicoarse_param`. Top:
//!   `[N, num_coarse, H, W]`: for each group the sum over the classes whose `coarse_id` names
//!   it, divided by the sum over all groups.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct Fine2MultiCoarseProb {
    groups: usize,
    classes: usize,
    /// Class and group, in the order of the file.
    pairs: Vec<[usize; 2]>,
}

impl Layer for Fine2MultiCoarseProb {
    fn claims() -> &'static [&'static str] {
        &["fine2multicoarse_prob_layer_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param
            .fine2multicoarse_prob_layer_param
            .clone()
            .unwrap_or_default();
        let field = "fine2multicoarse_prob_layer_param";
        let groups = cx.positive(&format!("{field}.num_coarse"), p.num_coarse())?;
        let mut pairs = Vec::new();
        for (class, of) in p.fine2multicoarse_param.iter().enumerate() {
            for &group in &of.coarse_id {
                if group as usize >= groups {
                    let message = format!("there is no group {group} of {groups}");
                    let at = format!("{field}.fine2multicoarse_param[{class}].coarse_id");
                    return Err(cx.invalid(&at, message).into());
                }
                pairs.push([class, group as usize]);
            }
        }
        Ok(Fine2MultiCoarseProb {
            groups,
            classes: p.fine2multicoarse_param.len(),
            pairs,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = legacy(&bottoms[0], "bottom", cx)?;
        if c != self.classes {
            let message = format!("{c} channels for {} classes", self.classes);
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![
            cx.locate("bottom", Shape::new([n, self.groups, h, w]))?,
        ])
    }

    /// One call an item.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let mut sizes = vec![self.groups, self.classes];
        sizes.extend(self.pairs.iter().flatten());
        let items = bottoms[0].nchw()?[0].max(1);
        Some(Call::new(routine!("fine2multi_coarse_prob"), sizes, Vec::new()).cut(items))
    }
}

/// Pasted into emitted source.
mod routine {
    // One item. `sizes`: groups, classes, pairs of them.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let [groups, classes] = [sizes[0], sizes[1]];
        let places = tops[0].len() / groups;
        for place in 0..places.min(bottoms[0].len() / classes.max(1)) {
            let mut sums = vec![0.0; groups];
            for pair in sizes[2..].chunks_exact(2) {
                sums[pair[1]] += f64::from(bottoms[0][pair[0] * places + place]);
            }
            let all: f64 = sums.iter().sum();
            for (group, sum) in sums.iter().enumerate() {
                tops[0][group * places + place] = (sum / all) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::{Fine2MultiCoarseParameter, Fine2MultiCoarseProbLayerParameter};

    fn param(groups: &[&[u32]]) -> LayerParameter {
        let of = |groups: &&[u32]| Fine2MultiCoarseParameter {
            coarse_id: groups.to_vec(),
        };
        let p = Fine2MultiCoarseProbLayerParameter {
            num_coarse: Some(2),
            fine2multicoarse_param: groups.iter().map(of).collect(),
        };
        LayerParameter {
            fine2multicoarse_prob_layer_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn groups_share_classes() {
        let p = param(&[&[0], &[0, 1], &[]]);
        let x = tensor(&[1, 3, 1, 2], [0.25, 0., 0.5, 0.5, 0.25, 0.5]);
        let y = forward::<Fine2MultiCoarseProb>(&p, &[x], &[]);
        assert_eq!(y[0], tensor(&[1, 2, 1, 2], [0.6, 0.5, 0.4, 0.5]));
    }

    #[test]
    fn refusals() {
        let got = refusal::<Fine2MultiCoarseProb>(&param(&[&[2]]), &[&[1, 1]]);
        let want = "fine2multicoarse_prob_layer_param.fine2multicoarse_param[0].coarse_id: ";
        assert!(got.starts_with(want), "{got}");
        let got = refusal::<Fine2MultiCoarseProb>(&param(&[&[1]]), &[&[1, 2]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
