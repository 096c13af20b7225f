//! What `run` says about the outputs.

use caffec::diag::{Diagnostic, Result, clean};
use caffec::ir::Tensor;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// The largest values of an output's items, and what they are called.
pub struct Top {
    pub k: usize,
    pub labels: Vec<String>,
}

/// One of the largest values.
struct Hit<'a> {
    index: usize,
    value: f32,
    label: Option<&'a str>,
}

/// Reads one label a line. Errors: `Io`.
pub fn labels(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|e| Diagnostic::io(path, &e))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(|line| line.trim_end().to_string()).collect())
}

impl Top {
    /// For each item of the batch; nothing for blobs without classes.
    fn of<'a>(&'a self, output: &Tensor) -> Vec<Vec<Hit<'a>>> {
        let items = output.shape.first().copied().unwrap_or(1).max(1);
        let classes = output.data.len() / items;
        if classes < 2 {
            return Vec::new();
        }
        let item = |values: &[f32]| self.largest(values);
        output.data.chunks_exact(classes).map(item).collect()
    }

    /// Ties by the lower index, NaN last.
    fn largest(&self, values: &[f32]) -> Vec<Hit<'_>> {
        let key = |i: &usize| match values[*i].is_nan() {
            true => f32::NEG_INFINITY,
            false => values[*i],
        };
        let mut order: Vec<usize> = (0..values.len()).collect();
        let k = self.k.min(values.len());
        let descending = |a: &usize, b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(b));
        if k < order.len() {
            order.select_nth_unstable_by(k, descending);
            order.truncate(k);
        }
        order.sort_by(descending);
        let hit = |index| Hit {
            index,
            value: values[index],
            label: self.labels.get(index).map(String::as_str),
        };
        order.into_iter().map(hit).collect()
    }
}

/// Lowest and highest finite value, mean of the finite ones, how many are not.
struct Range {
    min: f32,
    max: f32,
    mean: f64,
    odd: usize,
}

impl Range {
    fn of(values: &[f32]) -> Option<Range> {
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let count = finite.clone().count();
        (count > 0).then(|| Range {
            min: finite.clone().fold(f32::INFINITY, f32::min),
            max: finite.clone().fold(f32::NEG_INFINITY, f32::max),
            mean: finite.map(f64::from).sum::<f64>() / count as f64,
            odd: values.len() - count,
        })
    }
}

/// A few lines about an output.
pub fn text(name: &str, output: &Tensor, top: Option<&Top>) -> String {
    let mut out = format!("{}  {}", clean(name), output.shape);
    match Range::of(&output.data) {
        None => out += "  no finite value",
        Some(r) => {
            let odd = match r.odd {
                0 => String::new(),
                n => format!("  {n} not finite"),
            };
            write!(out, "  min {}  max {}  mean {:.6}{odd}", r.min, r.max, r.mean)
                .expect("a string takes it");
        }
    }
    out.push('\n');
    let items = top.map(|top| top.of(output)).unwrap_or_default();
    for (i, item) in items.iter().enumerate() {
        if items.len() > 1 {
            writeln!(out, "  item {i}").expect("a string takes it");
        }
        for hit in item {
            let label = hit.label.map(|l| format!("  {}", clean(l)));
            let label = label.unwrap_or_default();
            writeln!(out, "  {:>11.6}  {:>5}{label}", hit.value, hit.index)
                .expect("a string takes it");
        }
    }
    out
}

/// The same as JSON; values that JSON does not have are null.
pub fn json(output: &Tensor, top: Option<&Top>, file: Option<&Path>) -> Value {
    let range = Range::of(&output.data);
    let mut json = json!({
        "shape": output.shape.dims(),
        "min": range.as_ref().map(|r| r.min),
        "max": range.as_ref().map(|r| r.max),
        "mean": range.as_ref().map(|r| r.mean),
        "not_finite": range.as_ref().map_or(output.data.len(), |r| r.odd),
    });
    if let Some(file) = file {
        json["file"] = json!(file.display().to_string());
    }
    if let Some(top) = top {
        let hit = |h: &Hit| json!({"index": h.index, "value": h.value, "label": h.label});
        let items = top.of(output);
        let items = items.iter().map(|item| item.iter().map(hit).collect());
        json["top"] = items.collect::<Vec<Vec<Value>>>().into();
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use caffec::ir::Shape;

    #[test]
    fn the_largest_values_in_order() {
        let data = vec![0.1, f32::NAN, 0.5, 0.5, 0.2, 0.0];
        let output = Tensor::new(Shape::new([2, 3]).unwrap(), data);
        let top = Top {
            k: 2,
            labels: vec!["a".into(), "b".into()],
        };
        let got: Vec<Vec<usize>> = top
            .of(&output)
            .iter()
            .map(|item| item.iter().map(|h| h.index).collect())
            .collect();
        assert_eq!(got, [[2, 0], [0, 1]]);
        let text = text("p\n", &output, Some(&top));
        assert!(text.starts_with("p\\n  2×3  min 0  max 0.5  mean 0.260000  1 not finite\n"), "{text}");
        assert!(text.contains("  item 1\n     0.500000      0  a\n"), "{text}");
    }
}
