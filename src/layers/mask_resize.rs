//! `MaskResize` (MNC `mask_resize_layer.cu`): maps of another size by bilinear interpolation.
//!
//! * bottom: at most 4 axes. Top: `[N, C, output_height, output_width]`; row i of it lies at
//!   `i · H / output_height`, beyond the last row it is the last. Columns likewise.

use super::roi_warping::routine as roi_warping;
use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct MaskResize {
    size: [usize; 2],
}

impl Layer for MaskResize {
    fn claims() -> &'static [&'static str] {
        &["mask_resize_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.mask_resize_param.clone().unwrap_or_default();
        let size =
            |field: &str, size: u32| cx.positive(&format!("mask_resize_param.{field}"), size);
        let height = size("output_height", p.output_height())?;
        Ok(MaskResize {
            size: [height, size("output_width", p.output_width())?],
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = legacy(&bottoms[0], "bottom", cx)?;
        if h == 0 || w == 0 {
            let message = format!("no map is in {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        }
        let top = Shape::new([n, c, self.size[0], self.size[1]]);
        Ok(vec![cx.locate("mask_resize_param", top)?])
    }

    /// Item by item.
    fn carries(&self, _: usize, axis: usize, _: &[Shape], _: &Shape) -> Option<usize> {
        (axis == 0).then_some(0)
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let [n, c, h, w] = bottoms[0].nchw()?;
        let sizes = vec![h, w, self.size[0], self.size[1]];
        let call = Call::new(routine!("mask_resize", "roi_warping"), sizes, Vec::new());
        Some(call.cut((n * c).max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::roi_warping::{Place, at, place};

    // One map. `sizes`: height and width of bottom and top.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let places = |size: usize, output: usize| -> Vec<Option<Place>> {
            let ratio = size as f32 / output as f32;
            (0..output).map(|i| place(i as f32 * ratio, size)).collect()
        };
        let rows = places(sizes[0], sizes[2]);
        let columns = places(sizes[1], sizes[3]);
        for (i, y) in tops[0].iter_mut().enumerate() {
            let row = &rows[i / sizes[3]];
            let column = &columns[i % sizes[3]];
            *y = match (row, column) {
                (Some(row), Some(column)) => at(bottoms[0], sizes[1], row, column),
                _ => 0.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::MaskResizeParameter;

    fn param(height: u32, width: u32) -> LayerParameter {
        let p = MaskResizeParameter {
            output_height: Some(height),
            output_width: Some(width),
        };
        LayerParameter {
            mask_resize_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn larger_and_smaller() {
        let map = || tensor(&[1, 1, 2, 2], [0., 4., 8., 12.]);
        let y = forward::<MaskResize>(&param(1, 4), &[map()], &[]);
        // Places 0, 0.5, 1, 1.5, of which the last is beyond the edge.
        assert_eq!(y[0], tensor(&[1, 1, 1, 4], [0., 2., 4., 4.]));
        let y = forward::<MaskResize>(&param(4, 1), &[map()], &[]);
        assert_eq!(y[0].data, [0., 4., 8., 8.]);
        assert!(roi_warping::place(1.6, 2).is_none());
    }

    #[test]
    fn refusals() {
        let got = refusal::<MaskResize>(&param(0, 1), &[&[1, 1, 2, 2]]);
        assert!(
            got.starts_with("mask_resize_param.output_height: "),
            "{got}"
        );
        let got = refusal::<MaskResize>(&param(1, 1), &[&[1, 1, 0, 2]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
