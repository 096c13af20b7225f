//! What the losses share (Caffe `loss_layer.cpp`).

use super::Cx;
use crate::diag::Result;
use crate::frontend::proto::LossParameter;
use crate::frontend::proto::loss_parameter::NormalizationMode;
use crate::ir::Shape;

// Under these names routines find them here and in emitted source.
pub(super) use routine::{class, divisor, ignored};

/// The number of items, along axis 0.
/// Errors: `Invalid` unless bottoms 0 and 1 have as many, at least one.
pub(super) fn items(bottoms: &[Shape], cx: &Cx) -> Result<usize> {
    let (scores, labels) = (&bottoms[0], &bottoms[1]);
    match (scores.first(), labels.first()) {
        (Some(&items), Some(&same)) if items == same && items > 0 => Ok(items),
        _ => {
            let message = format!("bottoms of {scores} and {labels} differ on axis 0");
            Err(cx.invalid("bottom", message).into())
        }
    }
}

/// Errors: `Invalid` unless `bottom` has one value an item, as `[N]` or `[N, 1, 1, 1]`.
pub(super) fn one_value_each(bottom: &Shape, cx: &Cx) -> Result<()> {
    if bottom.nchw().is_some_and(|[_, c, h, w]| c * h * w == 1) {
        return Ok(());
    }
    let message = format!("labels must be one value an item, they are {bottom}");
    Err(cx.invalid("bottom", message).into())
}

/// `normalization`, or what the older `normalize` says, or `otherwise`.
pub(super) fn normalization(
    loss: &LossParameter,
    otherwise: NormalizationMode,
) -> NormalizationMode {
    match (loss.normalization, loss.normalize) {
        (Some(_), _) => loss.normalization(),
        (None, Some(true)) => NormalizationMode::Valid,
        (None, Some(false)) => NormalizationMode::BatchSize,
        (None, None) => otherwise,
    }
}

/// The constants that [`ignored`] and [`divisor`] read: whether a label
/// is ignored, which, and the mode.
pub(super) fn sizes(ignore_label: Option<i32>, normalization: NormalizationMode) -> [usize; 3] {
    let label = ignore_label.unwrap_or_default();
    [
        usize::from(ignore_label.is_some()),
        label as u32 as usize,
        normalization as usize,
    ]
}

/// Pasted into emitted source.
pub mod routine {
    // The class that a label means, truncated as a C cast does; none outside.
    pub fn class(label: f32, classes: usize) -> Option<usize> {
        let inside = label > -1.0 && label < classes as f32;
        inside.then_some(label as usize)
    }

    pub fn ignored(label: f32, sizes: &[usize]) -> bool {
        sizes[0] == 1 && label as i32 as u32 as usize == sizes[1]
    }

    // What the sum of `valid` of `all` losses over `batch` items is divided by.
    pub fn divisor(sizes: &[usize], all: usize, valid: usize, batch: usize) -> f64 {
        let divisor = match sizes[2] {
            0 => all,
            1 => valid,
            2 => batch,
            _ => 1,
        };
        divisor.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_truncated() {
        assert_eq!(
            [-0.5, 0., 1.9, 2.].map(|l| class(l, 2)),
            [Some(0), Some(0), Some(1), None]
        );
        assert_eq!(class(f32::NAN, 2), None);
        let minus_one = sizes(Some(-1), NormalizationMode::Full);
        assert_eq!(
            [-1., 0., 1.].map(|l| ignored(l, &minus_one)),
            [true, false, false]
        );
        assert!(!ignored(0., &sizes(None, NormalizationMode::Full)));
    }

    #[test]
    fn what_losses_are_divided_by() {
        use NormalizationMode::{BatchSize, Full, None as Nothing, Valid};
        let by = |mode| divisor(&sizes(None, mode), 12, 5, 3);
        assert_eq!([Full, Valid, BatchSize, Nothing].map(by), [12., 5., 3., 1.]);
        assert_eq!(divisor(&sizes(None, Valid), 12, 0, 3), 1.);
        let given = |normalization: Option<NormalizationMode>, normalize| LossParameter {
            normalization: normalization.map(Into::into),
            normalize,
            ..LossParameter::default()
        };
        assert_eq!(normalization(&given(None, None), Full), Full);
        assert_eq!(normalization(&given(None, Some(true)), Full), Valid);
        assert_eq!(normalization(&given(None, Some(false)), Full), BatchSize);
        assert_eq!(
            normalization(&given(Some(Nothing), Some(false)), Full),
            Nothing
        );
    }
}
