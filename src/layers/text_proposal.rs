//! CTPN's `ProposalLayer`, which is a Python class: see there.

use super::Cx;
use crate::diag::Result;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

/// Anchors of a cell.
const EACH: usize = 10;

/// Rows of their first and last pixels in a cell of 16: half the height, in whole pixels,
/// above and below 7.5, and then towards 0 (heights of 11, 16, 23, 33, 48, 68, 97, 139, 198
/// and 283).
const ROWS: [f32; 2 * EACH] = [
    2., 12., 0., 15., -3., 18., -8., 23., -16., 31., -26., 41., -40., 55., -61., 76., -91., 106.,
    -133., 148.,
];

/// Boxes and scores. Errors: `Invalid` unless the bottoms belong together.
pub(super) fn infer(bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
    for (i, bottom) in bottoms[..2].iter().enumerate() {
        let [1, channels, ..] = bottom.dims() else {
            let message = format!("must be 1 × C × H × W, not {bottom}");
            return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
        };
        if *channels != 2 * EACH || bottom.len() != 4 || *bottom != bottoms[0] {
            let message = format!(
                "scores and offsets must be 1 × {} × H × W, not {} and {}",
                2 * EACH,
                bottoms[0],
                bottoms[1]
            );
            return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
        }
    }
    if bottoms[2].count() < 2 {
        let message = "height and width of the picture: 2 values";
        return Err(cx.invalid("bottom[2]", message).into());
    }
    let rows = EACH * bottoms[0].count_of(2..4);
    let tops = [[rows, 4], [rows, 1]].map(Shape::new);
    tops.map(|top| cx.locate("top", top)).into_iter().collect()
}

pub(super) fn call(height: usize, width: usize, stride: usize) -> Call {
    let sizes = vec![height, width, stride];
    Call::new(routine!("text_proposal", "math"), sizes, ROWS.to_vec())
}

/// Pasted into emitted source.
mod routine {
    use super::math::exp;

    // Python's numbers: f32 where NumPy has them.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], rows: &[f32]) {
        let [height, width, stride] = [sizes[0], sizes[1], sizes[2]];
        let cells = height * width;
        let each = rows.len() / 2;
        // As NumPy's: NaN stays.
        let clip = |x: f32, size: f32| {
            let inside = if x > size - 1.0 { size - 1.0 } else { x };
            if inside < 0.0 { 0.0 } else { inside }
        };
        let (boxes, scores) = tops.split_at_mut(1);
        for (i, corners) in boxes[0].chunks_exact_mut(4).enumerate() {
            let (cell, k) = (i / each, i % each);
            let [x, y] = [cell % width, cell / width].map(|at| (at * stride) as f32);
            let [first, last] = [rows[2 * k] + y, rows[2 * k + 1] + y].map(f64::from);
            let offset = |n: usize| bottoms[1][(2 * k + n) * cells + cell];
            let high = last - first + 1.0;
            let size = (f64::from(exp(f64::from(offset(1))) as f32) * high) as f32;
            let middle = f64::from(offset(0)) * high + (first + last) / 2.0;
            let top = (middle - f64::from(size / 2.0)) as f32;
            let [down, right] = [bottoms[2][0], bottoms[2][1]];
            corners[0] = clip(x, right);
            corners[1] = clip(top, down);
            corners[2] = clip(x + 15.0, right);
            corners[3] = clip(top + size, down);
            scores[0][i] = bottoms[0][(each + k) * cells + cell];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::python::Python;
    use super::super::testing::{assert_close, forward, noise, refusal, tensor};
    use crate::frontend::proto::{LayerParameter, PythonParameter};

    fn param(text: &str) -> LayerParameter {
        LayerParameter {
            top: vec!["rois".into(), "scores".into()],
            python_param: Some(
                PythonParameter {
                    module: Some("layers.text_proposal_layer".into()),
                    layer: Some("ProposalLayer".into()),
                    param_str: Some(text.into()),
                    ..PythonParameter::default()
                }
                .into(),
            ),
            ..LayerParameter::default()
        }
    }

    /// A map of 1 × 2 in a picture of 20 × 30.
    #[test]
    fn anchors_moved_and_clipped() {
        let scores = noise(&[1, 20, 1, 2]);
        let mut offsets = vec![0.0; 40];
        // Anchor 1 of the second cell: half its height down, twice as high.
        [offsets[5], offsets[7]] = [0.5, 2f32.ln()];
        let bottoms = [
            scores.clone(),
            tensor(&[1, 20, 1, 2], offsets),
            tensor(&[1, 3], [20., 30., 1.]),
        ];
        let y = forward::<Python>(&param("'feat_stride': 16"), &bottoms, &[]);
        assert_eq!(y[0].shape.dims(), [20, 4]);
        assert_eq!(y[1].shape.dims(), [20, 1]);
        // 11 high round 7, and the last one, round 7.5.
        assert_eq!(y[0].data[..4], [0., 1.5, 15., 12.5]);
        assert_eq!(y[0].data[36..40], [0., 0., 15., 19.]);
        assert_close(&y[0].data[44..48], &[16., 0., 29., 19.], 1e-6);
        assert_eq!(y[1].data[0], scores.data[20]);
        assert_eq!(y[1].data[11], scores.data[23]);
    }

    #[test]
    fn refusals() {
        let shapes: [&[usize]; 3] = [&[1, 20, 3, 4], &[1, 20, 3, 4], &[1, 3]];
        for (text, want) in [
            ("", "python_param.param_str: `feat_stride` must"),
            (
                "'feat_stride': 0",
                "python_param.param_str: `feat_stride` must",
            ),
            ("{'feat_stride': 16, 'a': 1}", "python_param.param_str: `a`"),
        ] {
            let got = refusal::<Python>(&param(text), &shapes);
            assert!(got.starts_with(want), "{got}");
        }
        for (at, shape) in [(0, &[1, 18, 3, 4][..]), (1, &[1, 20, 4, 3]), (2, &[1])] {
            let mut wrong = shapes;
            wrong[at] = shape;
            let got = refusal::<Python>(&param("'feat_stride': 16"), &wrong);
            assert!(got.starts_with(&format!("bottom[{at}]: ")), "{got}");
        }
    }
}
