//! `Tile`: copies of the bottom side by side along an axis (Caffe `tile_layer.cpp`).
//!
//! * bottom: any shape with the axis. Top: the same with `tiles` times as many elements
//!   along `axis`.

use super::{Cx, Layer, Moves};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::ir::Shape;

#[derive(Clone, Debug)]
pub struct Tile {
    /// As the file gives it; may be negative.
    pub axis: i32,
    pub tiles: usize,
}

impl Layer for Tile {
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.tile_param.clone().unwrap_or_default();
        let bad = |message: String| cx.invalid("tile_param.tiles", message);
        let tiles = p.tiles.ok_or_else(|| bad("is missing".into()))?;
        let tiles = usize::try_from(tiles).ok().filter(|&tiles| tiles > 0);
        Ok(Tile {
            axis: p.axis(),
            tiles: tiles.ok_or_else(|| bad("must be positive".into()))?,
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let axis = cx.locate("tile_param.axis", bottoms[0].axis(self.axis))?;
        let mut dims = bottoms[0].to_vec();
        dims[axis] = dims[axis].saturating_mul(self.tiles);
        Ok(vec![cx.locate("tile_param", Shape::new(dims))?])
    }

    fn moves(&self, bottoms: &[Shape]) -> Option<Moves> {
        let axis = bottoms[0].axis(self.axis).ok()?;
        let outer = bottoms[0].count_of(0..axis);
        let inner = bottoms[0].count_of(axis..bottoms[0].len());
        Some(Moves {
            base: 0,
            axes: vec![(outer, inner as i64), (self.tiles, 0), (inner, 1)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::TileParameter;

    fn param(axis: i32, tiles: Option<i32>) -> LayerParameter {
        LayerParameter {
            tile_param: Some(
                TileParameter {
                    axis: Some(axis),
                    tiles,
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn copies_along_each_axis() {
        let x = tensor(&[2, 2], [1., 2., 3., 4.]);
        let run = |axis| forward::<Tile>(&param(axis, Some(2)), &[&x], &[]).remove(0);
        assert_eq!(run(0), tensor(&[4, 2], [1., 2., 3., 4., 1., 2., 3., 4.]));
        assert_eq!(run(-1), tensor(&[2, 4], [1., 2., 1., 2., 3., 4., 3., 4.]));
        let none = forward::<Tile>(&param(1, Some(3)), &[&tensor(&[0, 2], [])], &[]);
        assert_eq!(none[0], tensor(&[0, 6], []));
    }

    #[test]
    fn bad_parameters() {
        let shape: &[&[usize]] = &[&[2, 2]];
        for (tiles, want) in [
            (None, "missing"),
            (Some(0), "positive"),
            (Some(-1), "positive"),
        ] {
            let got = refusal::<Tile>(&param(1, tiles), shape);
            assert!(
                got.starts_with("tile_param.tiles: ") && got.contains(want),
                "{got}"
            );
        }
        assert!(refusal::<Tile>(&param(2, Some(2)), shape).starts_with("tile_param.axis: "));
        assert!(refusal::<Tile>(&param(1, Some(i32::MAX)), shape).starts_with("tile_param: "));
    }
}
