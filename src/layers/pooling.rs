//! `Pooling`: maximum or average of each window, per channel
//! (Caffe `pooling_layer.cpp`).
//!
//! * bottom: `[N, C, H, W]`. Top: `[N, C, OH, OW]`; MAX may have a second top of that
//!   shape, the place `h·W + w` of each maximum as a float, −1 if there is none.
//! * `OH = round((H + 2·pad − kernel) / stride) + 1` in f32, `round_mode` CEIL or FLOOR.
//!   If there is padding on either axis, a last window that would start at
//!   `H + pad` or beyond is dropped, on both axes. Without padding it stays, and may
//!   be empty.
//! * MAX starts from −FLT_MAX and takes what is larger: of equals the first; never NaN
//!   or −∞; an empty window gives −FLT_MAX.
//! * AVE divides by the window's area after clipping it to `H + pad`: padding counts. The
//!   area of an empty window is 0 or negative, so NaN or 0 comes out.

use super::{Cx, Layer, Taps};
use crate::diag::Result;
use crate::frontend::proto::pooling_parameter::{PoolMethod, RoundMode};
use crate::frontend::proto::{LayerParameter, PoolingParameter};
use crate::ir::{Node, Shape, Tensor};
use crate::lower::{self, Builder};

/// Pairs are height, width.
#[derive(Clone, Debug)]
pub struct Pooling {
    pub method: Method,
    /// `None`: the whole picture (`global_pooling`).
    pub kernel: Option<[usize; 2]>,
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub round: Round,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Max,
    Ave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Ceil,
    Floor,
}

/// What a pooling does to bottoms of a certain shape; pairs are height, width.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
}

/// One window along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The part inside of the bottom; may be empty.
    pub start: usize,
    pub end: usize,
    /// The length that AVE counts: padding included, overhang beyond it not. Zero or
    /// negative for a window outside.
    pub counted: i64,
}

impl Geometry {
    /// Window number `out` along `axis` (0: height, 1: width).
    pub fn window(&self, axis: usize, out: usize) -> Window {
        let [input, kernel, stride, pad] =
            [self.input, self.kernel, self.stride, self.pad].map(|pair| pair[axis] as i64);
        let start = out as i64 * stride - pad;
        let end = (start + kernel).min(input + pad);
        Window {
            start: start.clamp(0, input) as usize,
            end: end.clamp(0, input) as usize,
            counted: end - start,
        }
    }
}

/// A pair of fields that come as one or as `*_h` and `*_w`, both of which are needed.
fn pair(
    cx: &Cx,
    field: &str,
    one: Option<u32>,
    h_w: [Option<u32>; 2],
) -> Result<Option<[usize; 2]>> {
    let message = match (one, h_w) {
        (None, [None, None]) => return Ok(None),
        (Some(both), [None, None]) => return Ok(Some([cx.size(field, both)?; 2])),
        (None, [Some(h), Some(w)]) => return Ok(Some([cx.size(field, h)?, cx.size(field, w)?])),
        (None, _) => "needs both *_h and *_w",
        (Some(_), _) => "given for both axes and as *_h and *_w; only one form is allowed",
    };
    Err(cx.invalid(field, message).into())
}

impl Pooling {
    /// Panics unless `infer` has passed for a bottom of this shape.
    pub fn geometry(&self, bottom: &Shape) -> Geometry {
        self.resolve(bottom).expect("inferred before")
    }

    /// Errors: what is wrong with the size of the top.
    fn resolve(&self, bottom: &Shape) -> Result<Geometry, String> {
        let input = [bottom[2], bottom[3]];
        let kernel = self.kernel.unwrap_or(input);
        if kernel.contains(&0) {
            return Err(format!("a window over an empty picture ({bottom})"));
        }
        let mut output = [0; 2];
        for axis in 0..2 {
            let size = self.size(input[axis], kernel[axis], axis);
            output[axis] = usize::try_from(size)
                .ok()
                .filter(|&size| size > 0)
                .ok_or_else(|| {
                    let (axis, input, kernel) = (axis + 2, input[axis], kernel[axis]);
                    format!(
                        "axis {axis} of size {input} gives a top of size {size} (kernel {kernel})"
                    )
                })?;
        }
        Ok(Geometry {
            input,
            output,
            kernel,
            stride: self.stride,
            pad: self.pad,
        })
    }

    fn size(&self, input: usize, kernel: usize, axis: usize) -> i64 {
        let [input, kernel, stride, pad] =
            [input, kernel, self.stride[axis], self.pad[axis]].map(|v| v as i64);
        // In f32 because Caffe rounds it so.
        let steps = (input + 2 * pad - kernel) as f32 / stride as f32;
        let steps = match self.round {
            Round::Ceil => steps.ceil(),
            Round::Floor => steps.floor(),
        };
        let size = steps as i64 + 1;
        let clip = self.pad != [0, 0] && (size - 1) * stride >= input + pad;
        size - i64::from(clip)
    }
}

/// Kernel, stride and pad, all with Caffe's rules.
type Windows = (Option<[usize; 2]>, [usize; 2], [usize; 2]);

fn windows(p: &PoolingParameter, cx: &Cx) -> Result<Windows> {
    let field = "pooling_param.kernel_size";
    let kernel = match (p.kernel_size, p.kernel_h, p.kernel_w) {
        // Caffe lets this pass (for the kernel only) and takes kernel_size.
        (Some(_), Some(_), None) | (Some(_), None, Some(_)) => [None, None],
        _ => [p.kernel_h, p.kernel_w],
    };
    let kernel = pair(cx, field, p.kernel_size, kernel)?;
    let field = "pooling_param.stride";
    let stride = pair(cx, field, p.stride, [p.stride_h, p.stride_w])?.unwrap_or([1; 2]);
    if stride.contains(&0) {
        return Err(cx.invalid(field, "must not be 0").into());
    }
    let pad = pair(cx, "pooling_param.pad", p.pad, [p.pad_h, p.pad_w])?.unwrap_or([0; 2]);
    let wrong = match kernel {
        Some(_) if p.global_pooling() => (
            "pooling_param.global_pooling",
            "allows no kernel size: the window is the picture",
        ),
        None if p.global_pooling() && (stride != [1; 2] || pad != [0; 2]) => (
            "pooling_param.global_pooling",
            "allows no stride and no pad",
        ),
        None if !p.global_pooling() => ("pooling_param.kernel_size", "is missing"),
        Some(kernel) if kernel.contains(&0) => ("pooling_param.kernel_size", "must not be 0"),
        Some(kernel) if pad != [0; 2] && (pad[0] >= kernel[0] || pad[1] >= kernel[1]) => {
            ("pooling_param.pad", "must be smaller than the kernel")
        }
        _ => return Ok((kernel, stride, pad)),
    };
    Err(cx.invalid(wrong.0, wrong.1).into())
}

impl Layer for Pooling {
    /// `engine` chooses between implementations with one result.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        let p = param.pooling_param.clone().unwrap_or_default();
        let method = match p.pool() {
            PoolMethod::Max => Method::Max,
            PoolMethod::Ave => Method::Ave,
            PoolMethod::Stochastic | PoolMethod::AveExcPad => {
                let message = format!("{} pooling (only MAX and AVE)", p.pool().as_str_name());
                return Err(cx.unsupported("pooling_param.pool", message).into());
            }
        };
        cx.counts(1..=1, 1..=if method == Method::Max { 2 } else { 1 })?;
        cx.not_in_place()?;
        let (kernel, stride, pad) = windows(&p, cx)?;
        let round = match p.round_mode() {
            RoundMode::Ceil => Round::Ceil,
            RoundMode::Floor => Round::Floor,
        };
        Ok(Pooling {
            method,
            kernel,
            stride,
            pad,
            round,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, _, _] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        let g = self.resolve(&bottoms[0]);
        let g = g.map_err(|message| cx.invalid("pooling_param", message))?;
        let top = Shape::new([n, c, g.output[0], g.output[1]]);
        Ok(vec![cx.locate("pooling_param", top)?; cx.tops])
    }

    fn reference(&self, bottoms: &[&Tensor], _params: &[&Tensor], tops: &mut [Tensor]) {
        let g = self.geometry(&bottoms[0].shape);
        let plane = g.input[0] * g.input[1];
        for i in 0..tops[0].data.len() {
            let window = [
                g.window(0, i / g.output[1] % g.output[0]),
                g.window(1, i % g.output[1]),
            ];
            let image = &bottoms[0].data[i / (g.output[0] * g.output[1]) * plane..][..plane];
            let points = points(window, g.input[1]);
            match self.method {
                Method::Ave => {
                    let sum = points.fold(0.0, |sum, at| sum + f64::from(image[at]));
                    let area = window[0].counted * window[1].counted;
                    tops[0].data[i] = (sum / area as f64) as f32;
                }
                Method::Max => {
                    let (max, at) = maximum(image, points);
                    tops[0].data[i] = max;
                    if let Some(mask) = tops.get_mut(1) {
                        mask.data[i] = at.map_or(-1.0, |at| at as f32);
                    }
                }
            }
        }
    }

    fn taps(&self, bottoms: &[Shape]) -> Option<[Taps; 2]> {
        let g = self.geometry(&bottoms[0]);
        Some([0, 1].map(|axis| Taps {
            kernel: g.kernel[axis],
            stride: g.stride[axis],
            pad: g.pad[axis],
            dilation: 1,
            transposed: false,
        }))
    }

    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let geometry = self.geometry(b.graph.shape(node.bottoms[0]));
        if node.tops.len() == 2 {
            return lower::pool_with_mask(b, node, &geometry);
        }
        lower::pool(b, node, self.method, &geometry)
    }
}

/// Places of a window's values in a plane, row by row.
fn points(window: [Window; 2], width: usize) -> impl Iterator<Item = usize> {
    let [rows, columns] = window.map(|w| w.start..w.end);
    rows.flat_map(move |h| columns.clone().map(move |w| h * width + w))
}

fn maximum(image: &[f32], points: impl Iterator<Item = usize>) -> (f32, Option<usize>) {
    points.fold((f32::MIN, None), |(max, place), at| {
        if image[at] > max {
            (image[at], Some(at))
        } else {
            (max, place)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, tops};
    use super::*;

    fn param(p: PoolingParameter) -> LayerParameter {
        LayerParameter {
            pooling_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn square(kernel: u32, stride: u32, pad: u32) -> PoolingParameter {
        PoolingParameter {
            kernel_size: Some(kernel),
            stride: Some(stride),
            pad: Some(pad),
            ..PoolingParameter::default()
        }
    }

    fn ave(p: PoolingParameter) -> LayerParameter {
        param(PoolingParameter {
            pool: Some(PoolMethod::Ave.into()),
            ..p
        })
    }

    fn with_mask(p: PoolingParameter) -> LayerParameter {
        LayerParameter {
            top: vec!["y".into(), "mask".into()],
            ..param(p)
        }
    }

    #[test]
    fn maxima_and_mask_of_caffes_tests() {
        let x = tensor(
            &[1, 1, 3, 5],
            [1., 2., 5., 2., 3., 9., 4., 1., 4., 8., 1., 2., 5., 2., 3.],
        );
        let y = forward::<Pooling>(&with_mask(square(2, 1, 0)), &[x], &[]);
        assert_eq!(
            y[0],
            tensor(&[1, 1, 2, 4], [9., 5., 5., 8., 9., 5., 5., 8.])
        );
        assert_eq!(y[1].data, [5., 2., 2., 9., 5., 12., 12., 9.]);

        let magic = [
            35., 1., 6., 26., 19., 24., 3., 32., 7., 21., 23., 25., 31., 9., 2., 22., 27., 20., 8.,
            28., 33., 17., 10., 15., 30., 5., 34., 12., 14., 16., 4., 36., 29., 13., 18., 11.,
        ];
        let p = PoolingParameter {
            kernel_h: Some(3),
            kernel_w: Some(2),
            ..PoolingParameter::default()
        };
        let y = forward::<Pooling>(&with_mask(p), &[tensor(&[1, 1, 6, 6], magic)], &[]);
        assert_eq!(
            y[0].data[..10],
            [35., 32., 26., 27., 27., 32., 33., 33., 27., 27.]
        );
        assert_eq!(
            y[1].data[10..],
            [12., 26., 26., 16., 16., 31., 31., 26., 34., 34.]
        );
    }

    #[test]
    fn padding_of_caffes_tests() {
        let x = tensor(&[1, 1, 3, 3], [1., 2., 4., 2., 3., 2., 4., 2., 1.]);
        let y = forward::<Pooling>(&param(square(3, 2, 2)), &[x], &[]);
        assert_eq!(y[0].data, [1., 4., 4., 4., 4., 4., 4., 4., 1.]);
        let x = tensor(&[1, 1, 3, 3], [2.; 9]);
        let y = forward::<Pooling>(&ave(square(3, 1, 1)), &[x], &[]);
        let [corner, edge] = [8. / 9., 4. / 3.];
        assert_eq!(
            y[0].data,
            [corner, edge, corner, edge, 2., edge, corner, edge, corner]
        );
    }

    #[test]
    fn sizes() {
        let size =
            |p: PoolingParameter| tops::<Pooling>(&param(p), &[&[2, 3, 6, 5]])[0][2..].to_vec();
        assert_eq!(size(square(3, 2, 0)), [3, 2]);
        assert_eq!(size(square(3, 2, 1)), [4, 3]);
        let floor = PoolingParameter {
            round_mode: Some(RoundMode::Floor.into()),
            ..square(3, 2, 0)
        };
        assert_eq!(size(floor), [2, 2]);
        let global = PoolingParameter {
            global_pooling: Some(true),
            ..PoolingParameter::default()
        };
        assert_eq!(size(global), [1, 1]);
        assert_eq!(
            size(PoolingParameter {
                kernel_h: Some(9),
                ..square(3, 2, 0)
            }),
            [3, 2]
        );
        // Padding on one axis drops late windows on both.
        let one_axis = PoolingParameter {
            pad: None,
            pad_h: Some(1),
            pad_w: Some(0),
            ..square(2, 5, 0)
        };
        assert_eq!(size(one_axis), [2, 1]);
        assert_eq!(size(square(2, 5, 0)), [2, 2]);
    }

    #[test]
    fn empty_windows() {
        let x = tensor(&[1, 1, 1, 4], [1., 2., 3., 4.]);
        let last = |p: &LayerParameter| {
            let tops = forward::<Pooling>(p, &[&x], &[]);
            tops.iter().map(|top| top.data[1]).collect::<Vec<f32>>()
        };
        assert_eq!(last(&with_mask(square(1, 4, 0))), [f32::MIN, -1.]);
        assert!(last(&ave(square(1, 4, 0)))[0].is_nan());
        assert_eq!(last(&ave(square(1, 5, 0)))[0], 0.0);
    }

    #[test]
    fn nan_and_minus_infinity_never_win() {
        let x = tensor(&[1, 1, 1, 4], [f32::NAN, 1., f32::NEG_INFINITY, f32::NAN]);
        let y = forward::<Pooling>(
            &with_mask(PoolingParameter {
                kernel_size: None,
                kernel_h: Some(1),
                kernel_w: Some(2),
                ..square(1, 2, 0)
            }),
            &[x],
            &[],
        );
        assert_eq!(
            (&y[0].data[..], &y[1].data[..]),
            (&[1., f32::MIN][..], &[1., -1.][..])
        );
    }

    #[test]
    fn bad_parameters() {
        let global = PoolingParameter {
            global_pooling: Some(true),
            ..PoolingParameter::default()
        };
        let cases = [
            (square(0, 1, 0), "kernel_size: must not be 0"),
            (PoolingParameter::default(), "kernel_size: is missing"),
            (
                PoolingParameter {
                    kernel_h: Some(2),
                    ..Default::default()
                },
                "kernel_size: needs both",
            ),
            (
                PoolingParameter {
                    kernel_h: Some(2),
                    kernel_w: Some(2),
                    ..square(2, 1, 0)
                },
                "kernel_size: given",
            ),
            (square(2, 0, 0), "stride: must not be 0"),
            (
                PoolingParameter {
                    stride_h: Some(2),
                    ..square(2, 1, 0)
                },
                "stride: given",
            ),
            (square(2, 1, 2), "pad: must be smaller"),
            (square(2, 1, u32::MAX), "pad: 4294967295 is larger"),
            (
                PoolingParameter {
                    kernel_size: Some(2),
                    ..global.clone()
                },
                "global_pooling: allows no kernel",
            ),
            (
                PoolingParameter {
                    stride: Some(2),
                    ..global.clone()
                },
                "global_pooling: allows no stride",
            ),
            (
                PoolingParameter {
                    pool: Some(PoolMethod::Stochastic.into()),
                    ..global.clone()
                },
                "pool: STOCHASTIC",
            ),
        ];
        for (p, want) in cases {
            let got = refusal::<Pooling>(&param(p), &[&[1, 1, 4, 4]]);
            assert!(got.starts_with(&format!("pooling_param.{want}")), "{got}");
        }
        let empty = refusal::<Pooling>(&param(global), &[&[1, 1, 0, 4]]);
        assert!(empty.contains("empty picture"), "{empty}");
        let p = param(square(3, 2, 0));
        assert!(refusal::<Pooling>(&p, &[&[1, 4, 4]]).starts_with("bottom: "));
        assert!(refusal::<Pooling>(&p, &[&[1, 1, 1, 1]]).contains("top of size 0"));
        let two_tops = LayerParameter {
            top: vec!["a".into(), "b".into()],
            ..ave(square(2, 1, 0))
        };
        assert!(refusal::<Pooling>(&two_tops, &[&[1, 1, 4, 4]]).starts_with("top: "));
    }
}
