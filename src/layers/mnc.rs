//! Python classes of MNC: see `Python`.

use super::Cx;
use super::boxes::routine as boxes;
use crate::diag::Result;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

/// Height and width of a mask.
const MASK: usize = 21;

/// The top of `MaskLayer`. Errors: `Invalid` unless the bottom has a mask for each region.
pub(super) fn masks(bottom: &Shape, cx: &Cx) -> Result<Vec<Shape>> {
    let regions = bottom.first().copied().unwrap_or(0);
    if regions == 0 || bottom.count() / regions != MASK * MASK {
        let message = format!("{bottom} instead of {MASK} × {MASK} values for each region");
        return Err(cx.invalid("bottom", message).into());
    }
    let top = Shape::new([regions, 1, MASK, MASK]);
    Ok(vec![cx.locate("bottom", top)?])
}

/// The top of `StageBridgeLayer`. Errors: `Invalid` unless the bottoms belong together.
pub(super) fn bridge(bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
    let (&[regions, classes], true) = (bottoms[2].dims(), bottoms[2].count() > 0) else {
        let message = format!("scores must be R × K, not {}", bottoms[2]);
        return Err(cx.invalid("bottom[2]", message).into());
    };
    for (i, columns) in [(0, 5), (1, classes.saturating_mul(4))] {
        if bottoms[i].dims() != [regions, columns] {
            let message = format!(
                "{} instead of {columns} values for each of {regions} regions",
                bottoms[i]
            );
            return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
        }
    }
    if bottoms[3].count() < 2 {
        let message = "height and width of the picture: 2 values";
        return Err(cx.invalid("bottom[3]", message).into());
    }
    Ok(vec![bottoms[0].clone()])
}

/// `StageBridgeLayer` of so many classes.
pub(super) fn call(classes: usize) -> Call {
    Call::new(routine!("mnc", "boxes", "math"), vec![classes], Vec::new())
}

/// Pasted into emitted source.
mod routine {
    use super::boxes::{max, min};
    use super::math::exp;

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let classes = sizes[0];
        let rows = bottoms[0]
            .chunks_exact(5)
            .zip(bottoms[1].chunks_exact(4 * classes));
        let rows = rows.zip(bottoms[2].chunks_exact(classes));
        for (to, ((region, offsets), scores)) in tops[0].chunks_exact_mut(5).zip(rows) {
            let mut best = 0;
            for class in 1..classes {
                if scores[class] > scores[best] {
                    best = class;
                }
            }
            let offsets = &offsets[4 * best..];
            to[0] = 0.0;
            for axis in 0..2 {
                let size = region[3 + axis] - region[1 + axis] + 1.0;
                let center = offsets[axis] * size + (region[1 + axis] + 0.5 * size);
                let half = 0.5 * (exp(f64::from(offsets[2 + axis])) as f32 * size);
                let last = bottoms[3][1 - axis] - 1.0;
                let clip = |x: f32| max(min(x, last), 0.0);
                to[1 + axis] = clip(center - half);
                to[3 + axis] = clip(center + half);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::python::Python;
    use super::super::testing::{assert_close, forward, refusal, tensor, tops};
    use crate::frontend::proto::{LayerParameter, PythonParameter};

    fn class(module: &str, layer: &str) -> LayerParameter {
        LayerParameter {
            python_param: Some(
                PythonParameter {
                    module: Some(module.into()),
                    layer: Some(layer.into()),
                    ..PythonParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    #[test]
    fn regions_moved_by_their_best_class() {
        let param = class("pylayer.stage_bridge_layer", "StageBridgeLayer");
        let regions = tensor(&[2, 5], [0., 4., 4., 7., 11., 0., 0., 0., 3., 3.]);
        let mut offsets = [0.; 16];
        // Class 1 of the first: a width to the right, twice as high.
        offsets[4..8].copy_from_slice(&[1., 0., 0., 2f32.ln()]);
        let scores = tensor(&[2, 2], [0.25, 0.75, 0.5, 0.5]);
        let picture = tensor(&[1, 3], [12., 32., 1.]);
        let bottoms = [regions, tensor(&[2, 8], offsets), scores, picture];
        let y = forward::<Python>(&param, &bottoms, &[]);
        // 4 wide around 6 + 4, 16 high around 8 and cut to rows 0 to 11.
        assert_close(&y[0].data[..5], &[0., 8., 0., 12., 11.], 1e-6);
        assert_eq!(y[0].data[5..], [0., 0., 0., 4., 4.]);
        let dims: [&[usize]; 4] = [&[2, 5], &[2, 4], &[2, 2], &[1, 3]];
        let got = refusal::<Python>(&param, &dims);
        assert!(got.starts_with("bottom[1]: "), "{got}");
    }

    #[test]
    fn masks_are_square() {
        let param = class("pylayer.mask_layer", "MaskLayer");
        assert_eq!(tops::<Python>(&param, &[&[2, 441]]), [[2, 1, 21, 21]]);
        let got = refusal::<Python>(&param, &[&[2, 440]]);
        assert!(got.starts_with("bottom: "), "{got}");
    }
}
