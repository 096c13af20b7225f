//! `Eltwise`: product, sum with coefficients, or maximum of bottoms of one shape
//! (Caffe `eltwise_layer.cpp`).
//!
//! * PROD: `((b0 · b1) · b2) …`
//! * SUM: `Σ coeff[i] · b[i]`, coefficients 1 unless given. A coefficient of 0 leaves its
//!   bottom out, even infinities: BLAS does not read it.
//! * MAX: `b0 > b1 ? b0 : b1`, so NaN in b0 loses and NaN in b1 wins; each further
//!   bottom replaces the result where it is larger. Coefficients have no influence.
//!
//! In place, SUM and MAX lose bottom 0: Caffe sets the top to 0 or −FLT_MAX first.
//!
//! In Synopsys' fork (its dialect, or `axis` in the file) the second of two bottoms may
//! cover some axes of the first, neighbours from `axis` on, 0 unless given.

use super::scale::Cover;
use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::Dialect;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::eltwise_parameter::EltwiseOp;
use crate::ir::{Pointwise, Shape, Tensor};
use crate::kernel::BinaryOp;
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Eltwise {
    pub operation: Operation,
    pub in_place: bool,
    /// What bottom 1 covers of bottom 0, where it need not be all.
    cover: Option<Cover>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Prod,
    /// One coefficient for each bottom.
    Sum(Vec<f32>),
    Max,
}

impl Eltwise {
    /// SUM's bottoms and coefficients without those that do not count.
    pub fn terms(&self) -> Vec<(usize, f32)> {
        let Operation::Sum(coeff) = &self.operation else {
            return Vec::new();
        };
        let terms = coeff.iter().copied().enumerate();
        terms
            .filter(|&(i, c)| c != 0.0 && !(self.in_place && i == 0))
            .collect()
    }

    fn maximum(&self, values: &[f64]) -> f64 {
        let lost = f64::from(f32::MIN);
        let (a, b) = (if self.in_place { lost } else { values[0] }, values[1]);
        let two = if a > b { a } else { b };
        values[2..]
            .iter()
            .fold(two, |max, &b| if b > max { b } else { max })
    }

    /// The expression of some bottoms that follow each other, after `before`, the result
    /// of those before them.
    pub fn fold(&self, before: Option<Pointwise>, bottoms: Range<usize>) -> Pointwise {
        let binary = Pointwise::binary;
        match &self.operation {
            Operation::Prod => bottoms.fold(before, |product, i| {
                let x = Pointwise::Bottom(i);
                Some(product.map_or(x.clone(), |product| binary(BinaryOp::Mul, product, x)))
            }),
            Operation::Sum(_) => {
                let terms = self.terms().into_iter();
                let terms = terms.filter(|(i, _)| bottoms.contains(i));
                terms.fold(before, |sum, (i, c)| {
                    Some(add(sum, Pointwise::Bottom(i), c))
                })
            }
            Operation::Max => bottoms.fold(before, |max, i| {
                Some(match (max, i) {
                    (None, _) if self.in_place => Pointwise::Const(f32::MIN),
                    (None, i) => Pointwise::Bottom(i),
                    // Written the other way round than those that follow, so that of the
                    // first two bottoms NaN in the second wins.
                    (Some(first), 1) => binary(BinaryOp::Max, Pointwise::Bottom(1), first),
                    (Some(max), i) => binary(BinaryOp::Max, max, Pointwise::Bottom(i)),
                })
            }),
        }
        .unwrap_or(Pointwise::Const(0.0))
    }
}

/// `sum + c · x`.
fn add(sum: Option<Pointwise>, x: Pointwise, c: f32) -> Pointwise {
    match (sum, c) {
        (None, 1.0) => x,
        (None, c) => Pointwise::binary(BinaryOp::Mul, x, Pointwise::Const(c)),
        (Some(sum), 1.0) => Pointwise::binary(BinaryOp::Add, sum, x),
        (Some(sum), c) => Pointwise::Fma(Box::new(x), Box::new(Pointwise::Const(c)), Box::new(sum)),
    }
}

/// Puts `second` for bottom 1.
fn replace(expr: &mut Pointwise, second: &Pointwise) {
    if *expr == Pointwise::Bottom(1) {
        *expr = second.clone();
        return;
    }
    for part in expr.parts_mut() {
        replace(part, second);
    }
}

impl Layer for Eltwise {
    fn claims() -> &'static [&'static str] {
        &["eltwise_param.axis"]
    }

    /// `stable_prod_grad` matters to training only.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(2.., 1..=1)?;
        let p = param.eltwise_param.clone().unwrap_or_default();
        let n = p.coeff.len();
        if n != 0 && n != cx.bottoms {
            let message = format!("{n} coefficients for {} bottoms", cx.bottoms);
            return Err(cx.invalid("eltwise_param.coeff", message).into());
        }
        let covers = p.axis.is_some() || cx.dialect == Some(Dialect::Synopsys);
        let cover = Cover {
            axis: p.axis(),
            num_axes: -1,
        };
        let operation = match p.operation() {
            EltwiseOp::Prod if n != 0 => {
                let message = "PROD takes no coefficients";
                return Err(cx.invalid("eltwise_param.coeff", message).into());
            }
            EltwiseOp::Prod => Operation::Prod,
            EltwiseOp::Sum if n == 0 => Operation::Sum(vec![1.0; cx.bottoms]),
            EltwiseOp::Sum => Operation::Sum(p.coeff),
            EltwiseOp::Max => Operation::Max,
            EltwiseOp::Div | EltwiseOp::Min => {
                let message = format!("{} (only PROD, SUM and MAX)", p.operation().as_str_name());
                return Err(cx.unsupported("eltwise_param.operation", message).into());
            }
        };
        Ok(Eltwise {
            operation,
            in_place: cx.in_place,
            cover: (covers && cx.bottoms == 2).then_some(cover),
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        if let Some(cover) = self.cover {
            cover.check(bottoms, false, "eltwise_param", cx)?;
        } else if let Some(other) = bottoms.iter().find(|&b| *b != bottoms[0]) {
            let message = format!(
                "all bottoms must have one shape, not {} and {other}",
                bottoms[0]
            );
            return Err(cx.invalid("bottom", message).into());
        }
        Ok(vec![bottoms[0].clone()])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let terms = self.terms();
        let mut values = vec![0.0; bottoms.len()];
        let place = self
            .cover
            .as_ref()
            .map(|cover| cover.index(&bottoms[0].shape, &bottoms[1].shape));
        for (i, y) in tops[0].data.iter_mut().enumerate() {
            for (n, (value, bottom)) in values.iter_mut().zip(bottoms).enumerate() {
                let at = place
                    .as_ref()
                    .filter(|_| n == 1)
                    .map_or(i, |place| place(i));
                *value = f64::from(bottom.data[at]);
            }
            *y = match &self.operation {
                Operation::Prod => values.iter().product::<f64>(),
                Operation::Sum(_) => terms
                    .iter()
                    .fold(0.0, |sum, &(b, c)| sum + f64::from(c) * values[b]),
                Operation::Max => self.maximum(&values),
            } as f32;
        }
    }

    fn pointwise(&self, bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        let mut expr = self.fold(None, 0..bottoms.len());
        if let Some(cover) = self.cover {
            replace(&mut expr, &cover.second(bottoms));
        }
        Some(expr)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, forward_as, infer_as, refusal, tensor};
    use super::*;
    use crate::frontend::proto::EltwiseParameter;

    fn param(operation: EltwiseOp, coeff: &[f32]) -> LayerParameter {
        LayerParameter {
            eltwise_param: Some(
                EltwiseParameter {
                    operation: Some(operation.into()),
                    coeff: coeff.to_vec(),
                    ..EltwiseParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    fn in_place(param: LayerParameter) -> LayerParameter {
        LayerParameter {
            bottom: vec!["x".into(), "y".into(), "z".into()],
            top: vec!["x".into()],
            ..param
        }
    }

    fn run(param: &LayerParameter, values: [[f32; 2]; 3]) -> Vec<f32> {
        let bottoms = values.map(|v| tensor(&[2], v));
        forward::<Eltwise>(param, &bottoms, &[]).remove(0).data
    }

    const VALUES: [[f32; 2]; 3] = [[7., -2.], [3., 5.], [-1., 0.5]];

    #[test]
    fn the_three_operations() {
        assert_eq!(run(&param(EltwiseOp::Prod, &[]), VALUES), [-21., -5.]);
        assert_eq!(run(&param(EltwiseOp::Sum, &[]), VALUES), [9., 3.5]);
        assert_eq!(
            run(&param(EltwiseOp::Sum, &[1., -0.5, 2.]), VALUES),
            [3.5, -3.5]
        );
        assert_eq!(run(&param(EltwiseOp::Max, &[9., 9., 9.]), VALUES), [7., 5.]);
    }

    #[test]
    fn in_place_loses_the_first_bottom() {
        assert_eq!(
            run(&in_place(param(EltwiseOp::Prod, &[])), VALUES),
            [-21., -5.]
        );
        assert_eq!(
            run(&in_place(param(EltwiseOp::Sum, &[])), VALUES),
            [2., 5.5]
        );
        assert_eq!(run(&in_place(param(EltwiseOp::Max, &[])), VALUES), [3., 5.]);
    }

    #[test]
    fn special_values() {
        let max = param(EltwiseOp::Max, &[]);
        let y = run(&max, [[f32::NAN, 1.], [1., f32::NAN], [0., 3.]]);
        assert!(y[0] == 1. && y[1].is_nan());
        let sum = param(EltwiseOp::Sum, &[0., 1., 1.]);
        assert_eq!(
            run(&sum, [[f32::NAN, f32::INFINITY], [1., 2.], [3., 4.]]),
            [4., 6.]
        );
        assert_eq!(run(&param(EltwiseOp::Sum, &[0.; 3]), VALUES), [0., 0.]);
    }

    #[test]
    fn bad_parameters() {
        let two: &[&[usize]] = &[&[2], &[2]];
        let got = refusal::<Eltwise>(&param(EltwiseOp::Sum, &[1.; 3]), two);
        assert_eq!(got, "eltwise_param.coeff: 3 coefficients for 2 bottoms");
        let got = refusal::<Eltwise>(&param(EltwiseOp::Prod, &[1.; 2]), two);
        assert!(got.starts_with("eltwise_param.coeff: PROD"), "{got}");
        assert!(refusal::<Eltwise>(&param(EltwiseOp::Sum, &[]), &[&[2]]).starts_with("bottom: "));
        assert!(
            refusal::<Eltwise>(&param(EltwiseOp::Sum, &[]), &[&[2], &[2, 1]])
                .starts_with("bottom: ")
        );
    }

    #[test]
    fn a_second_bottom_that_covers_some_axes() {
        let x = tensor(&[1, 2, 2], [1., 2., 3., 4.]);
        let each = tensor(&[2], [10., -1.]);
        let mut p = param(EltwiseOp::Prod, &[]);
        p.eltwise_param.as_mut().unwrap().axis = Some(1);
        let y = forward::<Eltwise>(&p, &[&x, &each], &[]);
        assert_eq!(y[0].data, [10., 20., -3., -4.]);
        let got = refusal::<Eltwise>(&p, &[&[1, 2, 2], &[3]]);
        assert!(
            got.starts_with("eltwise_param.axis: a second operand"),
            "{got}"
        );

        let synopsys = Some(Dialect::Synopsys);
        let scalar = tensor(&[], [2.5]);
        for (p, want) in [
            (param(EltwiseOp::Sum, &[1., -2.]), [-4., -3., -2., -1.]),
            (param(EltwiseOp::Max, &[]), [2.5, 2.5, 3., 4.]),
        ] {
            let y = forward_as::<Eltwise>(synopsys, &p, &[&x, &scalar], &[]);
            assert_eq!(y[0].data, want);
            assert!(infer_as::<Eltwise>(None, &p, &[&[1, 2, 2], &[]]).is_err());
        }
    }
}
