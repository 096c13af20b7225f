//! What the routines of detection layers share: order by score, overlap, suppression.

/// Pasted into emitted source.
pub mod routine {
    use std::cmp::Ordering;
    use std::ops::Range;

    // Larger scores first, NaN last.
    pub fn descending(a: f32, b: f32) -> Ordering {
        let nan = a.is_nan().cmp(&b.is_nan());
        b.partial_cmp(&a).unwrap_or(nan)
    }

    // C++'s std::max and std::min, which give the first where one is NaN.
    pub fn max(a: f32, b: f32) -> f32 {
        if a < b { b } else { a }
    }

    pub fn min(a: f32, b: f32) -> f32 {
        if b < a { b } else { a }
    }

    // Intersection over union of boxes from x, y to x, y, `edge` being what a box is
    // wider than the difference of its corners; 0 where they only touch.
    pub fn overlap(a: &[f32], b: &[f32], edge: f32) -> f32 {
        let side = |from: f32, to: f32| max(to - from + edge, 0.0);
        let area = |b: &[f32]| (b[2] - b[0] + edge) * (b[3] - b[1] + edge);
        let width = side(max(a[0], b[0]), min(a[2], b[2]));
        let height = side(max(a[1], b[1]), min(a[3], b[3]));
        let both = width * height;
        both / (area(a) + area(b) - both)
    }

    // Whether the value is above the limit or no number.
    pub fn exceeds(value: f32, limit: f32) -> bool {
        value > limit || value.is_nan()
    }

    // The candidates, best first, that no better one suppresses; at most `most`.
    pub fn keep(
        candidates: &[usize],
        most: usize,
        suppresses: impl Fn(usize, usize) -> bool,
    ) -> Vec<usize> {
        let mut kept = Vec::new();
        for &candidate in candidates {
            if kept.len() == most {
                break;
            }
            if !kept.iter().any(|&better| suppresses(better, candidate)) {
                kept.push(candidate);
            }
        }
        kept
    }

    // The first numbers, in an order that keeps that of equals.
    pub fn ranked_by(len: usize, order: impl Fn(usize, usize) -> Ordering) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..len).collect();
        ranked.sort_by(|&a, &b| order(a, b));
        ranked
    }

    // The cells from `first` on that a part of a region covers, within a map of `len`.
    pub fn part(bounds: (f32, f32), first: i64, len: usize) -> Range<usize> {
        let cell = |at: f32| first.saturating_add(at as i64).clamp(0, len as i64) as usize;
        cell(bounds.0.floor())..cell(bounds.1.ceil())
    }

    // Pools each region of bottom 1, image and corners, from the maps of its image in
    // bottom 0 into its part of the top; fault 1 where there is no such image. The first
    // sizes are those of bottom 0.
    pub fn each_region(
        bottoms: &[&[f32]],
        tops: &mut [&mut [f32]],
        sizes: &[usize],
        pool: impl Fn(&[f32], &[f32], &mut [f32]),
    ) {
        let len = sizes[1] * sizes[2] * sizes[3];
        let [top, fault] = tops else { return };
        fault[0] = 0.0;
        let each = top.len() / (bottoms[1].len() / 5);
        for (y, region) in top.chunks_exact_mut(each).zip(bottoms[1].chunks_exact(5)) {
            if region[0] > -1.0 && region[0] < sizes[0] as f32 {
                pool(&bottoms[0][region[0] as usize * len..], region, y);
            } else {
                y.fill(f32::NAN);
                fault[0] = 1.0;
            }
        }
    }

    // Writes the rows and gives how many there are; the other elements become 0.
    pub fn write_rows(rows: &[Vec<f32>], top: &mut [f32]) -> f32 {
        let (written, rest) = top.split_at_mut(rows.iter().map(Vec::len).sum());
        written.copy_from_slice(&rows.concat());
        rest.fill(0.0);
        rows.len() as f32
    }

    // A row for each image that says that nothing was found.
    pub fn nothing(images: usize, columns: usize) -> Vec<Vec<f32>> {
        let row = |image| {
            let mut row = vec![-1.0; columns];
            row[0] = image as f32;
            row
        };
        (0..images).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::routine::*;

    #[test]
    fn nan_goes_last_and_ties_stay() {
        let scores = [1., f32::NAN, 3., 3., -0., 0., f32::NAN];
        let ranked = ranked_by(7, |a, b| descending(scores[a], scores[b]));
        assert_eq!(ranked, [2, 3, 0, 4, 5, 1, 6]);
    }

    #[test]
    fn overlap_counts_edges_where_boxes_have_them() {
        let [a, b] = [[0., 0., 2., 2.], [1., 1., 3., 3.]];
        assert_eq!(overlap(&a, &b, 0.), 1. / 7.);
        assert_eq!(overlap(&a, &b, 1.), 4. / 14.);
        assert_eq!(overlap(&a, &[3., 0., 5., 2.], 1.), 0.);
    }

    #[test]
    fn what_is_suppressed_suppresses_nothing() {
        let near = |a: usize, b: usize| a.abs_diff(b) == 1;
        assert_eq!(keep(&[1, 2, 3, 4], 9, near), [1, 3]);
        assert_eq!(keep(&[1, 2, 3, 4], 1, near), [1]);
        assert!(keep(&[1, 2], 0, near).is_empty());
    }

    #[test]
    fn rows_and_zeros() {
        let mut top = [7.; 6];
        assert_eq!(write_rows(&[vec![1., 2.]], &mut top), 1.);
        assert_eq!(top, [1., 2., 0., 0., 0., 0.]);
        assert_eq!(write_rows(&nothing(2, 3), &mut top), 2.);
        assert_eq!(top, [0., -1., -1., 1., -1., -1.]);
    }
}
