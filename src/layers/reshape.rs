//! `Reshape`: the same elements under another shape (Caffe `reshape_layer.cpp`).
//!
//! With `pixelshuffler: r` (Synopsys, Intel) instead, N × C × H × W becomes
//! N × C/r² × H·r × W·r: channel `c·r² + a·r + b` at `[h][w]` goes to channel c at
//! `[h·r + a][w·r + b]`.

use super::{Cx, Layer, Moves};
use crate::diag::{Diagnostic, Result};
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Reshape {
    /// What replaces the axes: 0 copies the bottom's axis at `axis` + position, −1
    /// (once) takes what is left.
    pub dims: Vec<i32>,
    /// First axis replaced; −1 is after the last.
    pub axis: i32,
    /// Number of axes replaced; −1 is all.
    pub num_axes: i32,
    /// 1: none.
    pixelshuffler: usize,
}

impl Reshape {
    /// Gives any bottom of the right size exactly this shape.
    pub fn to(shape: &Shape) -> Reshape {
        // A dimension of 0 means "copy" in Caffe's words; it cannot occur here, since
        // blobs without elements do not pass the builder.
        let dims = shape
            .iter()
            .map(|&d| i32::try_from(d).expect("Caffe's limit"));
        Reshape {
            dims: dims.collect(),
            axis: 0,
            num_axes: -1,
            pixelshuffler: 1,
        }
    }

    /// Shape of the top where pixels are shuffled.
    fn shuffled(&self, bottom: &Shape, cx: &Cx) -> Result<Vec<Shape>> {
        let r = self.pixelshuffler;
        let area = r.checked_mul(r);
        let (&[n, c, h, w], Some(area)) = (bottom.dims(), area) else {
            let message = format!("wants a bottom of 4 axes, not {bottom}");
            return Err(cx.invalid("reshape_param.pixelshuffler", message).into());
        };
        if !c.is_multiple_of(area) {
            let message = format!("{area} does not divide the channels of {bottom}");
            return Err(cx.invalid("reshape_param.pixelshuffler", message).into());
        }
        let dims = Shape::new([n, c / area, h * r, w * r]);
        Ok(vec![cx.locate("reshape_param.pixelshuffler", dims)?])
    }
}

impl Layer for Reshape {
    fn claims() -> &'static [&'static str] {
        &["reshape_param.pixelshuffler"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let reshape = param.reshape_param.clone().unwrap_or_default();
        let bad = |message: String| cx.invalid("reshape_param.shape", message);
        let mut dims = Vec::new();
        for &dim in reshape.shape.iter().flat_map(|s| &s.dim) {
            let dim = i32::try_from(dim).ok().filter(|&d| d >= -1);
            dims.push(dim.ok_or_else(|| bad("a dimension is −1, 0 or a size".into()))?);
        }
        if dims.iter().filter(|&&d| d == -1).count() > 1 {
            return Err(bad("only one dimension can be −1".into()).into());
        }
        Ok(Reshape {
            dims,
            axis: reshape.axis(),
            num_axes: reshape.num_axes(),
            pixelshuffler: match reshape.pixelshuffler() {
                1 => 1,
                r => cx.positive("reshape_param.pixelshuffler", r as u32)?,
            },
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        if self.pixelshuffler != 1 {
            return self.shuffled(bottom, cx);
        }
        let bad = |message: String| cx.invalid("reshape_param", message);
        let (start, end) = self.replaced(bottom, &bad)?;
        let mut dims = bottom[..start].to_vec();
        for (i, &dim) in self.dims.iter().enumerate() {
            dims.push(match dim {
                0 => *bottom.get(start + i).ok_or_else(|| {
                    bad(format!("a dimension of 0 copies axis {} of the bottom ({bottom}), which does not exist", start + i))
                })?,
                // −1 is put right below; 1 keeps it out of the product.
                dim => usize::try_from(dim).unwrap_or(1),
            });
        }
        dims.extend_from_slice(&bottom[end..]);
        if let Some(i) = self.dims.iter().position(|&d| d == -1) {
            dims[start + i] = rest(bottom, &dims).ok_or_else(|| {
                bad(format!("the {} elements of the bottom ({bottom}) do not divide by the other dimensions", bottom.count()))
            })?;
        }
        let top = cx.locate("reshape_param", Shape::new(dims))?;
        if top.count() != bottom.count() {
            let message = format!(
                "{bottom} has {} elements, {top} has {}",
                bottom.count(),
                top.count()
            );
            return Err(bad(message).into());
        }
        Ok(vec![top])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let r = self.pixelshuffler;
        let (&[n, c, h, w], false) = (bottoms[0].dims(), r == 1) else {
            return Some(Moves::identity(&bottoms[0]));
        };
        let plane = h * w;
        let axes = [
            (n, c * plane),
            (c / (r * r), r * r * plane),
            (h, w),
            (r, r * plane),
            (w, 1),
            (r, plane),
        ];
        Some(Moves {
            base: 0,
            axes: axes
                .map(|(extent, stride)| (extent, stride as i64))
                .to_vec(),
        })
    }

    fn shares_storage(&self) -> bool {
        self.pixelshuffler == 1
    }
}

impl Reshape {
    /// The range of the bottom's axes that is replaced.
    fn replaced(
        &self,
        bottom: &Shape,
        bad: &dyn Fn(String) -> Diagnostic,
    ) -> Result<(usize, usize)> {
        let axes = bottom.len() as i64;
        let axis = i64::from(self.axis);
        let start = if axis < 0 { axes + axis + 1 } else { axis };
        let end = match self.num_axes {
            -1 => axes,
            n => start + i64::from(n),
        };
        if !(0..=axes).contains(&start) || end > axes || end < start {
            let message = format!(
                "axis {} with num_axes {} is outside a bottom of {axes} axes ({bottom})",
                self.axis, self.num_axes
            );
            return Err(bad(message).into());
        }
        Ok((start as usize, end as usize))
    }
}

/// What one missing dimension must be; `dims` holds 1 in its place.
fn rest(bottom: &Shape, dims: &[usize]) -> Option<usize> {
    let known = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let whole = bottom.count().checked_rem(known)? == 0;
    whole.then(|| bottom.count() / known)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor, with_cx};
    use super::*;

    fn top(bottom: &[usize], dims: &[i32], axis: i32, num_axes: i32) -> Option<Vec<usize>> {
        let reshape = Reshape {
            dims: dims.to_vec(),
            axis,
            num_axes,
            pixelshuffler: 1,
        };
        let top = with_cx(|cx| reshape.infer(&[Shape::new(bottom).unwrap()], cx)).ok()?;
        Some(top[0].to_vec())
    }

    #[test]
    fn pixels_are_shuffled() {
        let param = LayerParameter {
            reshape_param: Some(
                crate::frontend::proto::ReshapeParameter {
                    pixelshuffler: Some(2),
                    ..Default::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        };
        let x = tensor(&[1, 4, 1, 2], [0., 1., 10., 11., 20., 21., 30., 31.]);
        let y = forward::<Reshape>(&param, &[x], &[]);
        assert_eq!(y[0].shape.to_vec(), [1, 1, 2, 4]);
        assert_eq!(y[0].data, [0., 10., 1., 11., 20., 30., 21., 31.]);
        assert!(refusal::<Reshape>(&param, &[&[1, 3, 2, 2]]).contains("does not divide"));
    }

    #[test]
    fn caffes_documented_examples() {
        assert_eq!(top(&[2, 8], &[0, -1, 4], 0, -1), Some(vec![2, 2, 4]));
        assert_eq!(top(&[2, 8], &[2, 4], 1, -1), Some(vec![2, 2, 4]));
        assert_eq!(top(&[2, 8], &[1], -1, 0), Some(vec![2, 8, 1]));
        assert_eq!(top(&[2, 8], &[], 0, -1), None);
        assert_eq!(top(&[2, 8], &[0, 0, 0], 0, -1), None);
        assert_eq!(top(&[2, 8], &[3, -1], 0, -1), None);
        assert_eq!(top(&[2, 8], &[16], 0, 3), None);
        assert_eq!(top(&[2, 8], &[16], i32::MIN, i32::MAX), None);
    }
}
