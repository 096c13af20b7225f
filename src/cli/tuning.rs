//! `--tune`: what the machine was found to do fastest, kept in a file from one call to the
//! next.
//!
//! The file is JSON: `{"version": 1, "machines": {MACHINE: {KEY: WAY}}}`, where MACHINE is
//! the CPU's model and an instruction set, and a KEY is a layer with its shapes
//! ([`caffec::lower::Question`]). A file that is something else is told about and replaced.

use super::args::TuneArgs;
use super::run::all_threads;
use super::talk::{self, Progress};
use caffec::Options;
use caffec::diag::{Result, clean};
use caffec::ir::{BlobId, Tensor, Valid, room};
use caffec::leaf::Isa;
use caffec::lower::Tuning;
use caffec::runtime::exec::Engine;
use caffec::runtime::tensor_file::Staged;
use caffec::tune::tune;
use caffec::weights::random_input;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs, io};

/// Files that are larger are none of ours.
const MOST_BYTES: u64 = 64 << 20;

type Machines = BTreeMap<String, Tuning>;

/// The options with what was measured for `graph`, whose parameters have data, if `--tune`
/// says so. What the file does not tell is measured, on random inputs, and written to it.
pub fn tuned(args: &TuneArgs, graph: &Valid, options: Options) -> Result<Options> {
    if !args.tune {
        return Ok(options);
    }
    let file = args.tune_cache.clone().or_else(default_file);
    let mut machines = file.as_deref().map(read).unwrap_or_default();
    let isa = match options.isa.available() {
        true => options.isa,
        false => Isa::detect(),
    };
    let known = machines.entry(machine(isa)).or_default();
    let measured = Options {
        isa,
        tuning: Arc::new(known.clone()),
        engine: Engine::Jit,
        ..options.clone()
    };
    room(graph.inputs.iter().map(|&b| graph.shape(b).count()))?;
    let input = |&b: &BlobId| random_input(&graph[b].name, graph.shape(b).clone(), 1);
    let inputs: Vec<Tensor> = graph.inputs.iter().map(input).collect();
    let progress = Progress::new("measuring");
    let tuning = tune(graph, &measured, &inputs, all_threads(), |round, rounds| {
        progress.now(format!("measuring, round {round} of {rounds}"));
    })?;
    drop(progress);
    if *tuning != *known {
        known.clone_from(&tuning);
        match &file {
            Some(file) => write(file, &machines),
            None => talk::say("note: --tune: no cache folder (HOME is not set): nothing is kept"),
        }
    }
    Ok(Options { tuning, ..options })
}

/// `caffec/tuning.json` in the user's cache folder.
fn default_file() -> Option<PathBuf> {
    let folder = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("caffec").join("tuning.json"))
}

/// The CPU's model and the instruction set.
fn machine(isa: Isa) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let value = fields.find(|(key, _)| key.trim() == name)?.1;
        Some(value.trim().to_string())
    };
    let names = ["model name", "vendor_id", "cpu family", "model", "stepping"];
    let mut known: Vec<String> = names.into_iter().filter_map(field).collect();
    if known.is_empty() {
        known.push(env::consts::ARCH.to_string());
    }
    format!("{}, {isa}", known.join(" "))
}

fn read(file: &Path) -> Machines {
    let text = match fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Machines::new(),
        Ok(m) if m.is_file() && m.len() <= MOST_BYTES => fs::read_to_string(file),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(e) => Err(e),
    };
    let parsed = text.ok().and_then(|text| parse(&text));
    parsed.unwrap_or_else(|| {
        say(file, "is not a tuning cache: it is made anew");
        Machines::new()
    })
}

fn parse(text: &str) -> Option<Machines> {
    let json: Value = serde_json::from_str(text).ok()?;
    if json["version"] != 1 {
        return None;
    }
    let tuning = |(machine, found): (&String, &Value)| {
        let one = |(key, way): (&String, &Value)| Some((key.clone(), way.as_str()?.to_string()));
        let found: Option<Tuning> = found.as_object()?.iter().map(one).collect();
        Some((machine.clone(), found?))
    };
    json["machines"].as_object()?.iter().map(tuning).collect()
}

fn write(file: &Path, machines: &Machines) {
    let machines = machines.iter().map(|(name, tuning)| {
        let found = tuning.iter().map(|(key, way)| (key.clone(), json!(way)));
        (name.clone(), Value::Object(found.collect()))
    });
    let json = json!({"version": 1, "machines": machines.collect::<Map<String, Value>>()});
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), fs::create_dir_all);
    let mut staged = Staged::default();
    let written = match made {
        Ok(()) => staged
            .write(file, |out| writeln!(out, "{json:#}"))
            .and_then(|()| staged.commit())
            .is_ok(),
        Err(_) => false,
    };
    if !written {
        say(file, "cannot be written: what was measured is not kept");
    }
}

fn say(file: &Path, what: &str) {
    let file = clean(&file.display().to_string());
    talk::say(&format!("note: --tune: {file} {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_no_cache() {
        let right = r#"{"version": 1, "machines": {"M, avx2": {"k": "direct"}}}"#;
        assert_eq!(parse(right).unwrap()["M, avx2"]["k"], "direct");
        for wrong in [
            "",
            "[]",
            r#"{"version": 2, "machines": {}}"#,
            r#"{"version": 1}"#,
            r#"{"version": 1, "machines": {"M": {"k": 1}}}"#,
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
