//! Caffe's fillers (`filler.hpp`): initial values of parameters without weights.
//! Random ones have Caffe's distributions but not its bits, which depend on the
//! library that Caffe was built with.

use super::stream::{Stream, generated};
use crate::diag::{Diagnostic, did_you_mean};
use crate::frontend::proto::FillerParameter;
use crate::frontend::proto::filler_parameter::VarianceNorm;
use crate::ir::{FloatData, ParamSpec, Shape};
use std::sync::LazyLock;

/// All types, as a layer may name them.
pub const FILLERS: &[&str] = &[
    "constant",
    "gaussian",
    "uniform",
    "positive_unitball",
    "xavier",
    "msra",
    "bilinear",
];

/// What a layer may give its own square blobs: a value on the diagonal, else 0. It is no
/// name of Caffe's.
pub const DIAGONAL: &str = "(diagonal)";

/// The values that the parameter's filler gives, drawn from `stream`.
///
/// Errors: `Invalid` where Caffe would stop: an unknown type, `sparse` for another
/// than gaussian, bilinear for anything but square 4-axis blobs; `Unsupported` for
/// fields of forks.
pub fn fill(spec: &ParamSpec, stream: Stream) -> Result<FloatData, Diagnostic> {
    let (filler, shape) = (&spec.filler, &spec.shape);
    let len = shape.count();
    let wrong = |message: String| Err(Diagnostic::invalid(message));
    if filler.sparse() != -1 && filler.r#type() != "gaussian" {
        return wrong(format!("filler `{}` knows no `sparse`", filler.r#type()));
    }
    if filler.scale.is_some() || filler.alpha.is_some() {
        let message = "a filler with `scale` or `alpha`, fields of forks";
        return Err(Diagnostic::unsupported(message));
    }
    Ok(match filler.r#type() {
        "constant" => {
            let value = filler.value();
            generated(len, move |_| value)
        }
        "uniform" => uniform(len, stream, filler.min(), filler.max()),
        "gaussian" => gaussian(filler, shape, stream)?,
        "positive_unitball" => positive_unitball(shape, stream),
        "xavier" => {
            let bound = (3.0 / fan(filler, shape)).sqrt() as f32;
            uniform(len, stream, -bound, bound)
        }
        "msra" => {
            let deviation = (2.0 / fan(filler, shape)).sqrt() as f32;
            generated(len, move |i| deviation * stream.normal(i))
        }
        "bilinear" => bilinear(shape)?,
        DIAGONAL => {
            let (value, side) = (filler.value(), shape.last().copied().unwrap_or(1) as u64);
            generated(len, move |i| if i % (side + 1) == 0 { value } else { 0.0 })
        }
        other => return Err(unknown(other)),
    })
}

fn unknown(name: &str) -> Diagnostic {
    let d = Diagnostic::invalid(format!("unknown filler type `{name}`"));
    match did_you_mean(name, FILLERS.iter().copied()) {
        Some(known) => d.help(format!("did you mean `{known}`?")),
        None => d,
    }
}

fn uniform(len: usize, stream: Stream, min: f32, max: f32) -> FloatData {
    generated(len, move |i| min + (max - min) * stream.uniform(i))
}

/// With `sparse` ≥ 0 each value stays with probability sparse / (first dimension).
fn gaussian(
    filler: &FillerParameter,
    shape: &Shape,
    stream: Stream,
) -> Result<FloatData, Diagnostic> {
    let (mean, deviation, sparse) = (filler.mean(), filler.std(), filler.sparse());
    let value = move |i| mean + deviation * stream.normal(i);
    let probability = match (sparse, shape.first()) {
        (-1, _) => return Ok(generated(shape.count(), value)),
        (0.., Some(&outputs)) => f64::from(sparse) / outputs as f64,
        _ => {
            let message = format!("`sparse: {sparse}` does not suit a blob of shape {shape}");
            return Err(Diagnostic::invalid(message));
        }
    };
    if probability > 1.0 {
        let message = format!("`sparse: {sparse}` is more than the outputs of a blob of {shape}");
        return Err(Diagnostic::invalid(message));
    }
    let mask = stream.derive("sparse", 0);
    let kept = move |i| f64::from(mask.uniform(i)) < probability;
    Ok(generated(shape.count(), move |i| {
        if kept(i) { value(i) } else { 0.0 }
    }))
}

/// Uniform values, each first-axis row scaled to a sum of 1.
fn positive_unitball(shape: &Shape, stream: Stream) -> FloatData {
    let count = shape.count() as u64;
    let row = count / shape.first().map_or(1, |&d| d as u64).max(1);
    let sum = move |of: u64| -> f32 { (of * row..(of + 1) * row).map(|i| stream.uniform(i)).sum() };
    let sums = LazyLock::new(move || -> Vec<f32> { (0..count / row.max(1)).map(sum).collect() });
    generated(shape.count(), move |i| {
        stream.uniform(i) / sums[(i / row) as usize]
    })
}

/// The count that xavier and msra divide by, never 0.
fn fan(filler: &FillerParameter, shape: &Shape) -> f64 {
    let count = shape.count() as f64;
    let without = |axis: usize| count / shape.get(axis).map_or(1.0, |&d| d as f64);
    let (fan_in, fan_out) = (without(0), without(1));
    match filler.variance_norm() {
        VarianceNorm::FanIn => fan_in,
        VarianceNorm::FanOut => fan_out,
        VarianceNorm::Average => (fan_in + fan_out) / 2.0,
    }
}

/// The kernel of bilinear upsampling, the same in every channel.
fn bilinear(shape: &Shape) -> Result<FloatData, Diagnostic> {
    let &[_, _, height, width] = shape.dims() else {
        let message = format!("filler `bilinear` needs a blob of 4 axes, this one is {shape}");
        return Err(Diagnostic::invalid(message));
    };
    if height != width {
        let message =
            format!("filler `bilinear` needs a square kernel, this one is {height}×{width}");
        return Err(Diagnostic::invalid(message));
    }
    let factor = width.div_ceil(2) as f32;
    let centre = (width as f32 - 1.0) / (2.0 * factor);
    let side = width.max(1) as u64;
    let tent = move |at: u64| 1.0 - (at as f32 / factor - centre).abs();
    let value = move |i: u64| tent(i % side) * tent(i / side % side);
    Ok(generated(shape.count(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(kind: &str, dims: &[usize], set: impl FnOnce(&mut FillerParameter)) -> Vec<f32> {
        try_values(kind, dims, set).unwrap()
    }

    fn try_values(
        kind: &str,
        dims: &[usize],
        set: impl FnOnce(&mut FillerParameter),
    ) -> Result<Vec<f32>, String> {
        let mut filler = FillerParameter {
            r#type: Some(kind.to_string()),
            ..Default::default()
        };
        set(&mut filler);
        let shape = Shape::new(dims).unwrap();
        let data = fill(&ParamSpec { shape, filler }, Stream::new(1)).map_err(|d| d.message)?;
        Ok(data.floats().into_owned())
    }

    fn deviation(values: &[f32]) -> f32 {
        let square: f32 = values.iter().map(|v| v * v).sum();
        (square / values.len() as f32).sqrt()
    }

    #[test]
    fn constants_and_ranges() {
        assert_eq!(values("constant", &[3], |f| f.value = Some(0.5)), [0.5; 3]);
        let uniform = values("uniform", &[1000], |f| f.min = Some(0.75));
        assert!(uniform.iter().all(|v| (0.75..1.0).contains(v)));
        let ball = values("positive_unitball", &[4, 50], |_| {});
        for row in ball.chunks(50) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn fans() {
        let dims = [40, 10, 5, 5];
        let norm =
            |n: VarianceNorm| move |f: &mut FillerParameter| f.variance_norm = Some(n as i32);
        let near = |kind: &str, norm_of: VarianceNorm, expected: f32| {
            let found = deviation(&values(kind, &dims, norm(norm_of)));
            assert!(
                (found / expected - 1.0).abs() < 0.03,
                "{kind}: {found} {expected}"
            );
        };
        near("msra", VarianceNorm::FanIn, (2.0f32 / 250.0).sqrt());
        near("msra", VarianceNorm::FanOut, (2.0f32 / 1000.0).sqrt());
        near("xavier", VarianceNorm::Average, (1.0f32 / 625.0).sqrt());
    }

    #[test]
    fn sparse_gaussian() {
        let v = values("gaussian", &[100, 100], |f| {
            (f.sparse, f.std) = (Some(15), Some(2.0));
        });
        let kept: Vec<f32> = v.iter().copied().filter(|&v| v != 0.0).collect();
        assert!((1300..1700).contains(&kept.len()), "{}", kept.len());
        assert!((deviation(&kept) - 2.0).abs() < 0.15);
    }

    #[test]
    fn bilinear_kernels() {
        let four = [0.25, 0.75, 0.75, 0.25];
        let v = values("bilinear", &[2, 1, 4, 4], |_| {});
        for (i, v) in v.iter().enumerate() {
            assert_eq!(*v, four[i % 4] * four[i / 4 % 4]);
        }
        assert_eq!(values("bilinear", &[1, 1, 1, 1], |_| {}), [1.0]);
    }

    #[test]
    fn what_caffe_refuses() {
        let error = |kind: &str, dims: &[usize], sparse: i32| {
            try_values(kind, dims, |f| f.sparse = Some(sparse)).unwrap_err()
        };
        assert_eq!(error("gausian", &[1], -1), "unknown filler type `gausian`");
        assert_eq!(error("msra", &[1, 2], 3), "filler `msra` knows no `sparse`");
        assert!(error("bilinear", &[1, 1, 2, 3], -1).contains("square"));
        assert!(error("bilinear", &[2, 3], -1).contains("4 axes"));
        assert!(error("gaussian", &[2, 3], -2).contains("sparse: -2"));
        assert!(error("gaussian", &[2, 3], 3).contains("more than"));
    }
}
