//! `Switch` (caffe_rtpose `switch_layer.cpp`): the last bottom, unless the program that runs
//! the net chooses another one, which caffec has no way to.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Pointwise, Shape, Tensor};

#[derive(Clone, Debug)]
pub struct Switch {
    bottoms: usize,
}

impl Layer for Switch {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1.., 1..=1)?;
        let bottoms = cx.bottoms;
        if bottoms > 1 {
            cx.not_in_place()?;
        }
        Ok(Switch { bottoms })
    }

    /// Errors: `Invalid` unless all bottoms have one shape, where the original copies as
    /// many elements as the first has.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if let Some(other) = bottoms.iter().find(|&bottom| *bottom != bottoms[0]) {
            let message = format!(
                "all bottoms must have one shape, not {} and {other}",
                bottoms[0]
            );
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        tops[0].data.clone_from(&bottoms[self.bottoms - 1].data);
    }

    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        Some(Pointwise::Bottom(self.bottoms - 1))
    }

    fn shares_storage(&self) -> bool {
        self.bottoms == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;

    #[test]
    fn the_last() {
        let bottoms = [1., 2., 3.].map(|x| tensor(&[1], [x]));
        let y = forward::<Switch>(&LayerParameter::default(), &bottoms, &[]);
        assert_eq!(y[0].data, [3.]);
        let got = refusal::<Switch>(&LayerParameter::default(), &[&[2], &[3]]);
        assert!(got.starts_with("bottom: all bottoms"), "{got}");
    }
}
