//! `HDF5Output`: writes its bottoms to a file (Caffe `hdf5_output_layer.cpp`).
//!
//! A compiled net writes no files: here the layer only keeps its bottoms from being
//! outputs of the net.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::{Node, Shape, Tensor};
use crate::lower::Builder;

#[derive(Clone, Debug)]
pub struct Hdf5Output {
    pub file_name: String,
}

impl Layer for Hdf5Output {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2..=2, 0..=0)?;
        let p = param.hdf5_output_param.clone().unwrap_or_default();
        Ok(Hdf5Output {
            file_name: p.file_name().to_string(),
        })
    }

    fn infer(&self, _bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn reference(&self, _bottoms: &[&Tensor], _params: &[&Tensor], _tops: &mut [Tensor]) {}

    fn lower(&self, _node: &Node, _b: &mut Builder) -> Result<()> {
        Ok(())
    }

    fn note(&self) -> Option<String> {
        Some(format!("the file `{}` is not written", self.file_name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::refusal;
    use super::*;

    #[test]
    fn two_bottoms() {
        let got = refusal::<Hdf5Output>(&LayerParameter::default(), &[&[2]]);
        assert_eq!(got, "bottom: this type takes 2 bottom blobs, not 1");
    }
}
