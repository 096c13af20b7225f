//! What the unit tests of the layers share: making a layer from its parameters,
//! telling a refusal with its place, running the reference.

use super::{Cx, Layer, Registry};
use crate::diag::{Errors, FileId, Result, Span};
use crate::frontend::Dialect;
use crate::frontend::proto::{LayerParameter, Phase};
use crate::ir::{Shape, Tensor};
use std::borrow::Borrow;
use std::cell::RefCell;

pub fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

pub fn tensor(dims: &[usize], data: impl Into<Vec<f32>>) -> Tensor {
    Tensor::new(shape(dims), data.into())
}

/// A blob of repeatable values between −1 and 1.
pub fn noise(dims: &[usize]) -> Tensor {
    let shape = shape(dims);
    let value = |i: usize| (i * 2_654_435_761 % 1009) as f32 / 504.0 - 1.0;
    let data = (0..shape.count()).map(value).collect();
    Tensor::new(shape, data)
}

/// Calls `f` with what a layer of one bottom and one top knows in phase TEST.
pub fn with_cx<T>(f: impl FnOnce(&Cx) -> T) -> T {
    f(&Cx {
        name: "test",
        phase: Phase::Test,
        bottoms: 1,
        tops: 1,
        in_place: false,
        dialect: None,
        registry: &Registry::default(),
        file: None,
        span: &|_| None,
    })
}

/// A layer of these parameters and the shapes of its tops, or `field: message`.
/// Without bottom or top names it has one of each.
pub fn infer<L: Layer>(
    param: &LayerParameter,
    bottoms: &[&[usize]],
) -> Result<(L, Vec<Shape>), String> {
    infer_as(None, param, bottoms)
}

/// The same in a dialect.
pub fn infer_as<L: Layer>(
    dialect: Option<Dialect>,
    param: &LayerParameter,
    bottoms: &[&[usize]],
) -> Result<(L, Vec<Shape>), String> {
    let bottoms: Vec<Shape> = bottoms.iter().map(|dims| shape(dims)).collect();
    let fields = RefCell::new(Vec::new());
    let span = |field: &str| {
        fields.borrow_mut().push(field.to_string());
        let start = fields.borrow().len() as u32 - 1;
        Some(Span {
            file: FileId(0),
            start,
            end: start,
        })
    };
    let cx = Cx {
        name: "test",
        phase: param
            .phase
            .map_or(Phase::Test, |p| Phase::try_from(p).unwrap()),
        bottoms: bottoms.len(),
        tops: param.top.len().max(1),
        in_place: param
            .bottom
            .first()
            .is_some_and(|b| param.top.first() == Some(b)),
        dialect,
        registry: &Registry::default(),
        file: None,
        span: &span,
    };
    let made = L::from_param(param, &cx).and_then(|layer| {
        let tops = layer.infer(&bottoms, &cx)?;
        Ok((layer, tops))
    });
    made.map_err(|Errors(diagnostics)| {
        let at = diagnostics[0].at.expect("a refusal has a place");
        format!(
            "{}: {}",
            fields.borrow()[at.start as usize],
            diagnostics[0].message
        )
    })
}

/// Shapes of the tops for bottoms of these shapes.
pub fn tops<L: Layer>(param: &LayerParameter, bottoms: &[&[usize]]) -> Vec<Vec<usize>> {
    let (_, tops) = infer::<L>(param, bottoms).unwrap();
    tops.iter().map(|top| top.to_vec()).collect()
}

/// `field: message` of the refusal.
pub fn refusal<L: Layer>(param: &LayerParameter, bottoms: &[&[usize]]) -> String {
    infer::<L>(param, bottoms).expect_err("a refusal")
}

/// The tops by the reference; if the layer has an element-wise form, it must agree.
pub fn forward<L: Layer>(
    param: &LayerParameter,
    bottoms: &[impl Borrow<Tensor>],
    params: &[Tensor],
) -> Vec<Tensor> {
    forward_as::<L>(None, param, bottoms, params)
}

/// The same in a dialect.
pub fn forward_as<L: Layer>(
    dialect: Option<Dialect>,
    param: &LayerParameter,
    bottoms: &[impl Borrow<Tensor>],
    params: &[Tensor],
) -> Vec<Tensor> {
    let bottoms: Vec<&Tensor> = bottoms.iter().map(Borrow::borrow).collect();
    let dims: Vec<&[usize]> = bottoms.iter().map(|b| b.shape.dims()).collect();
    let shapes: Vec<Shape> = bottoms.iter().map(|b| b.shape.clone()).collect();
    let (layer, tops) = infer_as::<L>(dialect, param, &dims).unwrap();
    let specs = layer.params(&shapes).unwrap();
    let wanted: Vec<&Shape> = specs.iter().map(|spec| &spec.shape).collect();
    let given: Vec<&Shape> = params.iter().map(|p| &p.shape).collect();
    assert_eq!(wanted, given, "shapes of the parameters");
    let params: Vec<&Tensor> = params.iter().collect();
    let mut tops: Vec<Tensor> = tops.into_iter().map(Tensor::zeros).collect();
    layer.reference(&bottoms, &params, &mut tops);
    if let Some(expr) = layer.pointwise(&shapes, &params) {
        let mut top = Tensor::zeros(tops[0].shape.clone());
        expr.reference(&bottoms, &mut top);
        assert_close(&top.data, &tops[0].data, 1e-6);
    }
    tops
}

/// The tops of a layer of data-dependent extents: the elements that count.
pub fn forward_counted<L: Layer>(param: &LayerParameter, bottoms: &[Tensor]) -> Vec<Tensor> {
    let dims: Vec<&[usize]> = bottoms.iter().map(|b| b.shape.dims()).collect();
    let (layer, tops) = infer::<L>(param, &dims).unwrap();
    let axis = layer.counted().expect("an extent that depends on data");
    let bottoms: Vec<&Tensor> = bottoms.iter().collect();
    let mut tops: Vec<Tensor> = tops
        .into_iter()
        .chain([shape(&[1])])
        .map(Tensor::zeros)
        .collect();
    layer.reference(&bottoms, &[], &mut tops);
    let count = tops.pop().expect("the count").data[0] as usize;
    tops.iter().map(|top| top.first(axis, count)).collect()
}

/// Each value within `tolerance` of the wanted one, relative above 1; NaN where NaN.
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    let close = |(g, w): (&f32, &f32)| {
        g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= tolerance * w.abs().max(1.0)
    };
    assert!(got.iter().zip(want).all(close), "{got:?} is not {want:?}");
}
