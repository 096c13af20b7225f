//! What all benchmarks have in common: names to choose by, and a table or JSON.

use serde_json::{Map, Value, json};

/// Names on the command line, or else `default`; `cargo bench` adds options of its own.
pub fn named_or(default: &[&str]) -> Vec<String> {
    let words = std::env::args().skip(1);
    let names: Vec<String> = words.filter(|word| !word.starts_with('-')).collect();
    match names.is_empty() {
        true => default.iter().map(|name| name.to_string()).collect(),
        false => names,
    }
}

/// Prints each row when it is known or, with `--json`, all of them as one object at the
/// end: `{"version": 1, "bench": name, "rows": […]}`, with the table's columns as keys.
pub struct Report {
    bench: &'static str,
    columns: &'static [&'static str],
    rows: Option<Vec<Value>>,
}

impl Report {
    /// The first column holds names.
    pub fn new(bench: &'static str, columns: &'static [&'static str]) -> Report {
        let json = std::env::args().any(|word| word == "--json");
        if !json {
            let (first, rest) = columns.split_first().expect("a column");
            let rest: String = rest
                .iter()
                .map(|c| format!("{c:>width$}", width = width(c)))
                .collect();
            println!("{first:NAME$}{rest}");
        }
        Report {
            bench,
            columns,
            rows: json.then(Vec::new),
        }
    }

    pub fn row(&mut self, name: &str, figures: &[f64]) {
        let (first, rest) = self.columns.split_first().expect("a column");
        assert_eq!(rest.len(), figures.len(), "a figure for each column");
        let columns = rest.iter().zip(figures);
        match &mut self.rows {
            Some(rows) => {
                let mut row = Map::new();
                row.insert(first.to_string(), json!(name));
                row.extend(columns.map(|(column, figure)| (column.to_string(), json!(figure))));
                rows.push(Value::Object(row));
            }
            None => {
                let cells: String = columns
                    .map(|(column, figure)| format!("{figure:>width$.3}", width = width(column)))
                    .collect();
                println!("{name:NAME$}{cells}");
            }
        }
    }
}

const NAME: usize = 34;

fn width(column: &str) -> usize {
    column.chars().count().max(8) + 2
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(rows) = self.rows.take() {
            let bench = self.bench;
            println!("{}", json!({"version": 1, "bench": bench, "rows": rows}));
        }
    }
}
