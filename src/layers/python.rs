//! `Python`: a layer that is a class in a Python module (Caffe `python_layer.hpp`).
//!
//! What it does is not in the model's files, so there is nothing to compile.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Shape, Tensor};

/// Never made.
#[derive(Clone, Debug)]
pub enum Python {}

impl Layer for Python {
    /// Errors: `Unsupported`, naming module and class.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.python_param.clone().unwrap_or_default();
        let message = format!(
            "class `{}` of the Python module `{}`: only the module's own code tells what it computes",
            p.layer(),
            p.module()
        );
        let d = cx.unsupported("python_param", message);
        let help = "cut the net before it, or leave the layer out by an `include` rule";
        Err(d.help(help).into())
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        match *self {}
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::refusal;
    use super::*;
    use crate::frontend::proto::PythonParameter;

    #[test]
    fn module_and_class_are_named() {
        let param = LayerParameter {
            python_param: Some(PythonParameter {
                module: Some("rpn.proposal_layer".into()),
                layer: Some("ProposalLayer".into()),
                ..PythonParameter::default()
            }),
            ..LayerParameter::default()
        };
        let got = refusal::<Python>(&param, &[&[1]]);
        let want = "python_param: class `ProposalLayer` of the Python module `rpn.proposal_layer`";
        assert!(got.starts_with(want), "{got}");
    }
}
