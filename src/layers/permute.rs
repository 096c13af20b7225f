//! `Permute` of SSD and `Transpose` of CTPN: axes in another order (`permute_layer.cpp`).
//!
//! Top axis i is bottom axis `order[i]`. Permute appends the axes that are not named, in
//! their order; Transpose wants all of them in `dim`.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Permute {
    /// Of the first axes of the top.
    order: Vec<usize>,
    /// Whether all axes must be named.
    whole: bool,
}

impl Permute {
    fn field(&self) -> &'static str {
        match self.whole {
            true => "transpose_param.dim",
            false => "permute_param.order",
        }
    }

    fn order(&self, axes: usize) -> Vec<usize> {
        let rest = (0..axes).filter(|axis| !self.order.contains(axis));
        self.order.iter().copied().chain(rest).collect()
    }
}

impl Layer for Permute {
    fn claims() -> &'static [&'static str] {
        &["permute_param", "transpose_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        let whole = param.r#type() == "Transpose";
        let mut layer = Permute {
            order: Vec::new(),
            whole,
        };
        let named: Vec<i64> = match whole {
            true => {
                let p = param.transpose_param.clone().unwrap_or_default();
                p.dim.iter().map(|&axis| axis.into()).collect()
            }
            false => {
                let p = param.permute_param.clone().unwrap_or_default();
                p.order.iter().map(|&axis| axis.into()).collect()
            }
        };
        for (i, axis) in named.into_iter().enumerate() {
            let field = format!("{}[{i}]", layer.field());
            let Ok(axis) = usize::try_from(axis) else {
                return Err(cx
                    .invalid(&field, format!("there is no axis {axis}"))
                    .into());
            };
            if layer.order.contains(&axis) {
                return Err(cx
                    .invalid(&field, format!("axis {axis} is named twice"))
                    .into());
            }
            layer.order.push(axis);
        }
        Ok(layer)
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let axes = bottom.len();
        if let Some(i) = self.order.iter().position(|&axis| axis >= axes) {
            let message = format!("there is no axis {} in {bottom}", self.order[i]);
            return Err(cx
                .invalid(&format!("{}[{i}]", self.field()), message)
                .into());
        }
        if self.whole && self.order.len() != axes {
            let message = format!("must name all {axes} axes, not {}", self.order.len());
            return Err(cx.invalid(self.field(), message).into());
        }
        let dims: Vec<usize> = self.order(axes).iter().map(|&a| bottom[a]).collect();
        Ok(vec![cx.locate("bottom", Shape::new(dims))?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        Some(Moves::permuted(&bottoms[0], &self.order(bottoms[0].len())))
    }

    fn shares_storage(&self) -> bool {
        self.order.iter().enumerate().all(|(i, &axis)| i == axis)
    }

    fn carries(&self, _: usize, axis: usize, bottoms: &[Shape], _: &Shape) -> Option<usize> {
        self.order(bottoms[0].len()).iter().position(|&a| a == axis)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, noise, refusal, tensor, tops};
    use super::*;
    use crate::frontend::proto::{PermuteParameter, TransposeParameter};

    fn permute(order: &[u32]) -> LayerParameter {
        LayerParameter {
            permute_param: Some(Box::new(PermuteParameter {
                order: order.to_vec(),
            })),
            ..LayerParameter::default()
        }
    }

    fn transpose(dim: &[i32]) -> LayerParameter {
        LayerParameter {
            r#type: Some("Transpose".into()),
            transpose_param: Some(Box::new(TransposeParameter { dim: dim.to_vec() })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn axes_that_are_not_named_follow() {
        assert_eq!(tops::<Permute>(&permute(&[2]), &[&[2, 3, 4]]), [[4, 2, 3]]);
        assert_eq!(tops::<Permute>(&permute(&[]), &[&[2, 3]]), [[2, 3]]);
        let x = tensor(&[2, 3], [1., 2., 3., 4., 5., 6.]);
        let y = forward::<Permute>(&permute(&[1]), &[x], &[]);
        assert_eq!(y[0].data, [1., 4., 2., 5., 3., 6.]);
    }

    #[test]
    fn there_and_back() {
        let x = noise(&[2, 3, 4, 5]);
        let y = forward::<Permute>(&permute(&[0, 2, 3, 1]), &[&x], &[]);
        let back = forward::<Permute>(&transpose(&[0, 3, 1, 2]), &y, &[]);
        assert_eq!(back[0], x);
    }

    #[test]
    fn wrong_axes() {
        let dims: &[&[usize]] = &[&[2, 3]];
        let message = refusal::<Permute>(&permute(&[0, 0]), dims);
        assert_eq!(message, "permute_param.order[1]: axis 0 is named twice");
        let message = refusal::<Permute>(&permute(&[2]), dims);
        assert_eq!(message, "permute_param.order[0]: there is no axis 2 in 2×3");
        let message = refusal::<Permute>(&transpose(&[1]), dims);
        assert_eq!(message, "transpose_param.dim: must name all 2 axes, not 1");
        assert!(refusal::<Permute>(&transpose(&[-1, 0]), dims).ends_with("no axis -1"));
    }
}
