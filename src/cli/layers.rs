//! `caffec layers`: the layer types that there are.

use super::Outcome;
use super::args::LayersArgs;
use caffec::layers::{catalog, entries};
use serde_json::{Value, json};
use std::io::{self, Write};

pub fn run(args: &LayersArgs) -> Outcome {
    let entries = entries();
    let mut out = io::stdout().lock();
    if args.markdown {
        out.write_all(catalog::markdown(&entries).as_bytes())?;
    } else if args.json {
        let of = |entry: &catalog::Entry| -> Vec<Value> {
            let names = entry.names.iter();
            let one = |(name, from): &(&str, &str)| json!({"type": name, "from": from, "parameters": entry.messages, "forks": entry.claims});
            names.map(one).collect()
        };
        let types: Vec<Value> = entries.iter().flat_map(of).collect();
        writeln!(out, "{}", json!({"version": 1, "types": types}))?;
    } else {
        let mut rows: Vec<_> = entries
            .iter()
            .flat_map(|e| e.names.iter().map(move |name| (name, e)))
            .collect();
        rows.sort_by_key(|((name, _), _)| name.to_lowercase());
        for ((name, from), entry) in rows {
            writeln!(out, "{name:<26} {from:<18} {}", entry.messages.join(", "))?;
        }
    }
    Ok(out.flush()?)
}
