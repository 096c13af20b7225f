//! `DepthToSpace` of Synopsys' fork: groups of channels become squares of positions.
//!
//! With s = `block_size` and D = C / s², channel `(a·s + b)·D + d` at `[h][w]` becomes
//! channel d at `[h·s + a][w·s + b]` of D × H·s × W·s. By `data_format` the axes are NCHW
//! (also called DCR) or NHWC, the default; with CRD, an order of ONNX, it is channel
//! `d·s² + a·s + b`.

use super::gs_tiling::{spread, spread_moves};
use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct DepthToSpace {
    block: usize,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Nhwc,
    /// Channels of one square lie apart.
    Dcr,
    /// They are neighbours.
    Crd,
}

impl Layer for DepthToSpace {
    fn claims() -> &'static [&'static str] {
        &["depth_to_space_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.depth_to_space_param.clone().unwrap_or_default();
        let format = match p.data_format() {
            "NHWC" => Format::Nhwc,
            "NCHW" | "DCR" => Format::Dcr,
            "CRD" => Format::Crd,
            other => {
                let message = format!("`{other}` is none of NHWC, NCHW, DCR and CRD");
                return Err(cx
                    .invalid("depth_to_space_param.data_format", message)
                    .into());
            }
        };
        let block = p.block_size().try_into().unwrap_or(0);
        Ok(DepthToSpace {
            block: cx.positive("depth_to_space_param.block_size", block)?,
            format,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let field = "depth_to_space_param.block_size";
        if self.format != Format::Nhwc {
            return Ok(vec![spread(&bottoms[0], self.block, field, cx)?]);
        }
        let channels_second = match bottoms[0].dims() {
            &[n, h, w, c] => Shape::new([n, c, h, w])?,
            _ => bottoms[0].clone(),
        };
        let top = spread(&channels_second, self.block, field, cx)?;
        Ok(vec![Shape::new([top[0], top[2], top[3], top[1]])?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let (bottom, s) = (&bottoms[0], self.block);
        let depth = |channels: usize| channels / (s * s);
        match self.format {
            Format::Dcr => Some(spread_moves(bottom, s, depth(bottom[1]), 1)),
            Format::Crd => Some(spread_moves(bottom, s, 1, s * s)),
            Format::Nhwc => {
                let &[n, h, w, c] = bottom.dims() else {
                    return None;
                };
                let d = depth(c);
                let axes = [
                    (n, h * w * c),
                    (h, w * c),
                    (s, s * d),
                    (w, c),
                    (s, d),
                    (d, 1),
                ];
                Some(Moves {
                    base: 0,
                    axes: axes.map(|(extent, step)| (extent, step as i64)).to_vec(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::DepthToSpaceParameter;

    fn param(block_size: i32, format: Option<&str>) -> LayerParameter {
        LayerParameter {
            depth_to_space_param: Some(Box::new(DepthToSpaceParameter {
                block_size: Some(block_size),
                data_format: format.map(String::from),
            })),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn three_orders() {
        let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let of = |dims: &[usize], format| {
            let x = tensor(dims, data.clone());
            forward::<DepthToSpace>(&param(2, format), &[x], &[]).remove(0)
        };
        let y = of(&[1, 8, 1, 2], Some("NCHW"));
        assert_eq!(y.shape.to_vec(), [1, 2, 2, 4]);
        let first = [0., 4., 1., 5., 8., 12., 9., 13.];
        let second = [2., 6., 3., 7., 10., 14., 11., 15.];
        assert_eq!(y.data, [first, second].concat());
        assert_eq!(of(&[1, 8, 1, 2], Some("DCR")), y);
        let y = of(&[1, 8, 1, 2], Some("CRD"));
        let first = [0., 2., 1., 3., 4., 6., 5., 7.];
        assert_eq!(y.data[..8], first);
        assert_eq!(y.data[8..], first.map(|x| x + 8.));
        let y = of(&[1, 1, 2, 8], None);
        assert_eq!(y.shape.to_vec(), [1, 2, 4, 2]);
        let rows = [
            [0., 1., 2., 3., 8., 9., 10., 11.],
            [4., 5., 6., 7., 12., 13., 14., 15.],
        ];
        assert_eq!(y.data, rows.concat());
    }

    #[test]
    fn refusals() {
        let of = |block, format| refusal::<DepthToSpace>(&param(block, format), &[&[1, 6, 2, 2]]);
        assert!(
            of(0, Some("NCHW")).starts_with("depth_to_space_param.block_size: `block_size` must")
        );
        assert!(of(2, Some("NCHW")).starts_with("depth_to_space_param.block_size: 2·2"));
        assert!(of(2, None).starts_with("depth_to_space_param.block_size: 2·2"));
        assert!(of(2, Some("NC")).starts_with("depth_to_space_param.data_format: `NC`"));
        let got = refusal::<DepthToSpace>(&param(2, None), &[&[4, 4]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
