//! What the detections of YOLO layers share: suppression and rows.

use super::boxes::routine as boxes;
use crate::leaf::math;

/// Pasted into emitted source.
pub mod routine {
    use super::boxes::{descending, keep, nothing, ranked_by, write_rows};
    use super::math::exp;

    // Centre and size as shares of the picture.
    pub struct Found {
        pub place: [f32; 4],
        pub score: f32,
        pub class: usize,
    }

    pub fn sigmoid(x: f32) -> f32 {
        (1.0 / (1.0 + exp(-f64::from(x)))) as f32
    }

    // Of the cell at `at`, along an axis with so many cells: offset t, logarithm of the
    // size over an anchor, which is a share of the picture of `anchor / whole`.
    pub fn place(at: usize, cells: usize, t: f32, log: f32, anchor: f32, whole: f32) -> [f32; 2] {
        let center = (at as f32 + sigmoid(t)) / cells as f32;
        [center, exp(f64::from(log)) as f32 * anchor / whole]
    }

    // Calls `each` with the cell and the anchor of every box of some maps, and with its
    // values, of which there are so many.
    pub fn boxes(
        maps: &[f32],
        [images, cells, anchors, values]: [usize; 4],
        mut each: impl FnMut(usize, usize, &dyn Fn(usize) -> f32),
    ) {
        for at in 0..images * cells * anchors {
            let (image, cell, anchor) = (at / anchors / cells, at / anchors % cells, at % anchors);
            let first = (image * anchors + anchor) * values;
            each(cell, anchor, &|value| maps[(first + value) * cells + cell]);
        }
    }

    fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
        let along = |i: usize| {
            let [low_a, low_b] = [a, b].map(|p| p[i] - p[i + 2] / 2.0);
            let [high_a, high_b] = [a, b].map(|p| p[i] + p[i + 2] / 2.0);
            let low = if low_a > low_b { low_a } else { low_b };
            let high = if high_a < high_b { high_a } else { high_b };
            high - low
        };
        let [width, height] = [along(0), along(1)];
        let both = if width < 0.0 || height < 0.0 {
            0.0
        } else {
            width * height
        };
        both / (a[2] * a[3] + b[2] * b[3] - both)
    }

    // One list of all images and classes: best first, of those that overlap the best.
    pub fn write(found: &[Found], threshold: f32, images: usize, tops: &mut [&mut [f32]]) {
        let order = ranked_by(found.len(), |a, b| {
            descending(found[a].score, found[b].score)
        });
        let suppresses =
            |a: usize, b: usize| overlap(&found[a].place, &found[b].place) >= threshold;
        let row = |i: usize| {
            let Found {
                place,
                score,
                class,
            } = &found[i];
            let side = |axis: usize, sign: f64| {
                (f64::from(place[axis]) + sign * (f64::from(place[axis + 2]) / 2.0)) as f32
            };
            let label = (class + 1) as f32;
            vec![
                0.0,
                label,
                *score,
                side(0, -1.0),
                side(1, -1.0),
                side(0, 1.0),
                side(1, 1.0),
            ]
        };
        let mut rows: Vec<Vec<f32>> = keep(&order, usize::MAX, suppresses)
            .into_iter()
            .map(row)
            .collect();
        if rows.is_empty() {
            rows = nothing(images, 7);
        }
        tops[1][0] = write_rows(&rows, tops[0]);
    }
}
