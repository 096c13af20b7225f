//! The front end against what the real Caffe does: `CAFFEC_CONFORMANCE` names the
//! folder of recorded cases, `CAFFEC_ZOO` that of prototxts found in the wild.
//! Without them these tests say so and do nothing.

use std::fs;
use std::path::{Path, PathBuf};

use caffec::diag::{Errors, Sources};
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::forks::of_forks;
use caffec::frontend::proto::{NetParameter, Phase, SolverParameter};
use caffec::frontend::upgrade::{upgrade_net, upgrade_solver};
use caffec::frontend::{Reading, State, bind_text, load_net, parse_text, print_text, print_wire};
use prost::Message as _;
use serde_json::Value;

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: {variable} is not set");
    }
    folder
}

fn json_lines(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64"),
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let group = |g: &[u8]| {
        let bits = (0..4).fold(0, |n, i| n << 6 | u32::from(*g.get(i).unwrap_or(&0)));
        bits.to_be_bytes()[1..g.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// Ends the test, naming what failed.
fn conclude(what: &str, total: usize, failures: &[String]) {
    println!("{what}: {} of {total} passed", total - failures.len());
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

fn position(sources: &Sources, errors: &Errors) -> Option<(u64, u64)> {
    let (line, column) = sources.position(errors.0[0].at?);
    Some((line as u64, column as u64))
}

/// The places where the case's error may be told; none: anywhere.
fn places(case: &Value) -> Vec<(u64, u64)> {
    let pair = |v: &Value| Some((v[0].as_u64()?, v[1].as_u64()?));
    let main = (case["line"].as_u64()).zip(case["col"].as_u64());
    let also = case["also"].as_array().into_iter().flatten();
    main.into_iter().chain(also.filter_map(pair)).collect()
}

fn textformat_case(case: &Value) -> Result<(), String> {
    let bytes = |plain: &str, coded: &str| match case[plain].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64(case[coded].as_str().unwrap_or_default()),
    };
    let mut sources = Sources::default();
    let file = sources.add("case", bytes("text", "base64"));
    let bound = bind_text(&sources, file, "caffe.NetParameter", Reading::default());
    match (case["expect"].as_str().unwrap(), bound) {
        ("ok", Ok(bound)) => {
            let want = bytes("canonical", "canonical_base64");
            let message = NetParameter::decode(bound.wire.as_slice()).unwrap();
            let typed = print_text(&message, "caffe.NetParameter");
            let wire = print_wire(&bound.wire, "caffe.NetParameter");
            if typed.as_bytes() != want || wire.as_bytes() != want {
                let want = String::from_utf8_lossy(&want);
                return Err(format!("printed {typed:?} and {wire:?}, not {want:?}"));
            }
            Ok(())
        }
        ("ok", Err(errors)) => Err(format!("refused: {}", sources.render_all(&errors))),
        (_, Ok(_)) => Err(format!("accepted, but {}", case["message"])),
        (_, Err(errors)) => {
            let (got, want) = (position(&sources, &errors), places(case));
            if want.is_empty() || got.is_some_and(|p| want.contains(&p)) {
                return Ok(());
            }
            let message = sources.render(&errors.0[0]);
            Err(format!("{message} is at {got:?}, not {want:?}"))
        }
    }
}

#[test]
fn text_format() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let cases = json_lines(folder.join("textformat/cases.jsonl"));
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let error = textformat_case(case).err()?;
            Some(format!("{}: {error}", case["id"]))
        })
        .collect();
    conclude("text format", cases.len(), &failures);
}

/// Slug, format and strictness of the zoo's files.
fn zoo_files(folder: &Path) -> Vec<(String, bool, bool)> {
    let manifest = fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut lines = manifest.lines().map(|l| l.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name| header.iter().position(|h| *h == name).unwrap();
    let (slug, kind, strict) = (column("slug"), column("kind"), column("bvlc_strict_parse"));
    lines
        .map(|l| (l[slug].to_string(), l[kind] == "solver", l[strict] == "ok"))
        .collect()
}

/// All that BVLC's Caffe takes; of the rest only what has fields of forks.
#[test]
fn zoo_parses_as_bvlc_does() {
    let Some(folder) = folder("CAFFEC_ZOO") else {
        return;
    };
    let files = zoo_files(&folder);
    let mut failures = Vec::new();
    for (slug, solver, strict) in &files {
        let mut sources = Sources::default();
        let text = fs::read(folder.join(format!("{slug}.prototxt"))).unwrap();
        let file = sources.add(slug, text);
        let (net, of_solver) = ("caffe.NetParameter", "caffe.SolverParameter");
        let bind = |ty| bind_text(&sources, file, ty, Reading::default());
        let result = match solver {
            true => bind(of_solver).map(|_| false),
            false => bind(net).map(|bound| !of_forks(&bound.wire, net, &[]).is_empty()),
        };
        match (strict, &result) {
            (true, Err(errors)) => failures.push(sources.render(&errors.0[0])),
            (strict, Ok(forks)) if *strict == *forks => {
                let forks = if *forks { "with" } else { "without" };
                failures.push(format!(
                    "{slug}: accepted {forks} fields of forks; BVLC Caffe: {strict}"
                ))
            }
            _ => {}
        }
    }
    conclude("zoo", files.len(), &failures);
}

/// The upgraded file as canonical text, and whether nothing was lost.
fn upgraded(sources: &mut Sources, path: &Path, solver: bool) -> Result<(String, bool), Errors> {
    let file = sources.add(path.display().to_string(), fs::read(path).unwrap());
    if solver {
        let mut parsed = parse_text::<SolverParameter>(sources, file, "caffe.SolverParameter")?;
        upgrade_solver(&mut parsed.message, Some(&parsed.spans))?;
        return Ok((print_text(&parsed.message, "caffe.SolverParameter"), true));
    }
    let parsed = parse_text::<NetParameter>(sources, file, "caffe.NetParameter")?;
    let upgraded = upgrade_net(parsed.message, Some(&parsed.spans), false)?;
    assert_eq!(upgraded.param.layer.len(), upgraded.sources.len());
    let text = print_text(&upgraded.param, "caffe.NetParameter");
    Ok((text, upgraded.notes.is_empty()))
}

/// The recorded file as canonical text.
fn canonical(path: &Path, solver: bool) -> String {
    let mut sources = Sources::default();
    let file = sources.add("want", fs::read(path).unwrap());
    if solver {
        let parsed = parse_text::<SolverParameter>(&sources, file, "caffe.SolverParameter");
        print_text(&parsed.unwrap().message, "caffe.SolverParameter")
    } else {
        let parsed = parse_text::<NetParameter>(&sources, file, "caffe.NetParameter");
        print_text(&parsed.unwrap().message, "caffe.NetParameter")
    }
}

fn upgrade_case(folder: &Path, case: &Value) -> Result<(), String> {
    let solver = case["kind"] == "solver";
    let mut sources = Sources::default();
    let input = folder.join(case["input"].as_str().unwrap());
    let result = upgraded(&mut sources, &input, solver);
    match (case["expect"].as_str().unwrap(), result) {
        ("ok", Ok((got, complete))) => {
            let want = canonical(&folder.join(case["output"].as_str().unwrap()), solver);
            if got != want {
                let differ = got.lines().zip(want.lines()).find(|(g, w)| g != w);
                return Err(format!("printed {differ:?} (got, want)"));
            }
            match case["fully_compatible"] == false && complete {
                true => Err("Caffe warned, we did not".into()),
                false => Ok(()),
            }
        }
        ("ok", Err(errors)) => Err(sources.render_all(&errors)),
        ("undefined", _) => Ok(()),
        (_, Ok(_)) => Err(format!("accepted, but {}", case["reason"])),
        ("refuse", Err(errors)) if errors.0[0].at.is_none() => {
            Err("refused without a place".into())
        }
        (_, Err(_)) => Ok(()),
    }
}

#[test]
fn upgrades() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let folder = folder.join("upgrade");
    let cases = json_lines(folder.join("cases.jsonl"));
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let error = upgrade_case(&folder, case).err()?;
            Some(format!("{}: {error}", case["id"]))
        })
        .collect();
    conclude("upgrade", cases.len(), &failures);
}

/// Paths in a folder whose names end with `suffix`, sorted.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|p| p.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    found
}

/// Layers as `name type bottoms -> tops`, in order, of the net as loaded.
fn loaded_layers(prototxt: &Path, phase: Phase) -> Result<Vec<String>, String> {
    let mut sources = Sources::default();
    let state = State {
        phase,
        ..State::default()
    };
    let text = fs::read(prototxt).map_err(|e| format!("{}: {e}", prototxt.display()))?;
    let net = load_net("net", text, &mut sources, &state).map_err(|e| sources.render_all(&e))?;
    let line = |l: &caffec::frontend::proto::LayerParameter| {
        format!("{} {} {:?} -> {:?}", l.name(), l.r#type(), l.bottom, l.top)
    };
    assert!(net.layers.iter().all(|l| l.span().is_some()));
    Ok(net.param.layer.iter().map(line).collect())
}

fn recorded_layers(shapes: &Value) -> Vec<String> {
    let order = shapes["order"].as_array().unwrap();
    let line = |l: &Value| {
        let text = |v: &Value| v.as_str().unwrap().to_string();
        let list = |v: &Value| v.as_array().unwrap().iter().map(text).collect::<Vec<_>>();
        let (bottoms, tops) = (list(&l[2]), list(&l[3]));
        format!("{} {} {bottoms:?} -> {tops:?}", text(&l[0]), text(&l[1]))
    };
    order.iter().map(line).collect()
}

fn order_case(zoo: &Path, path: &Path) -> Result<(), String> {
    let shapes: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    let slug = name.trim_end_matches(".shapes.json");
    let prototxt = match shapes["prototxt"].as_str() {
        Some(beside) => path.with_file_name(beside),
        None => zoo.join(format!("{slug}.prototxt")),
    };
    let phase = match shapes["phase"].as_str() {
        Some("TRAIN") => Phase::Train,
        _ => Phase::Test,
    };
    let (mut got, want) = (loaded_layers(&prototxt, phase)?, recorded_layers(&shapes));
    if path.parent().unwrap().ends_with("replaced") {
        // Input layers stand for data layers there.
        for data in ["Python", "Data", "ImageData", "WindowData", "HDF5Data"] {
            let data = format!(" {data} [] ");
            got.iter_mut()
                .for_each(|l| *l = l.replace(&data, " Input [] "));
        }
    }
    // Which tops Caffe adds by itself is not this test's business.
    let differ = got
        .iter()
        .zip(&want)
        .find(|(g, w)| !w.starts_with(g.trim_end_matches(']')));
    match differ {
        Some(differ) => Err(format!("{slug}: {differ:?} (got, want)")),
        None if got.len() != want.len() => Err(format!("{slug}: {} layers", got.len())),
        None => Ok(()),
    }
}

#[test]
fn nets_have_the_layers_of_their_state() {
    let (Some(folder), Some(zoo)) = (folder("CAFFEC_CONFORMANCE"), folder("CAFFEC_ZOO")) else {
        return;
    };
    let mut cases = files(&folder.join("shapes"), ".shapes.json");
    cases.extend(files(&folder.join("shapes/replaced"), ".shapes.json"));
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| order_case(&zoo, case).err())
        .collect();
    conclude("layers and their order", cases.len(), &failures);
}

/// A layer's name and the numbers of each of its blobs.
type LayerNumbers = (String, Vec<Vec<f32>>);

/// All layers of a weights file.
fn contents(path: &Path) -> Result<Vec<LayerNumbers>, String> {
    let weights = WeightsFile::open(path, false).map_err(|e| e.to_string())?;
    let blobs = |l: &caffec::frontend::binary::WeightLayer| {
        let blobs = l.blobs.iter().flatten();
        let numbers = blobs.map(|b| b.data.floats().into_owned());
        (l.name.clone(), numbers.collect())
    };
    Ok(weights.layers.iter().map(blobs).collect())
}

/// The alternative encodings of a case's weights hold the same; what Caffe loads,
/// loads.
fn weights_case(folder: &Path) -> Result<(), String> {
    let case: Value = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
    let tags = case["tags"].as_array().into_iter().flatten();
    let may_refuse = case["expect"] == "refuse" || tags.into_iter().any(|t| t == "refusal-welcome");
    let with_blobs = |layers: Vec<LayerNumbers>| {
        let kept = layers.into_iter().filter(|(_, blobs)| !blobs.is_empty());
        kept.collect::<Vec<_>>()
    };
    let mut first = None;
    for path in files(folder, ".caffemodel") {
        let extras = path.to_string_lossy().contains("extras");
        match contents(&path).map(with_blobs) {
            Ok(layers) if !extras => match first.get_or_insert_with(|| layers.clone()) {
                same if *same == layers => {}
                other => return Err(format!("{}: {layers:?} is not {other:?}", path.display())),
            },
            Err(error) if !may_refuse => return Err(format!("{}: {error}", path.display())),
            _ => {}
        }
    }
    match case["id"].as_str() {
        Some("weights-refuse-truncated") if first.is_some() => Err("accepted".into()),
        _ => Ok(()),
    }
}

#[test]
fn weights_load_in_every_encoding() {
    let Some(folder) = folder("CAFFEC_CONFORMANCE") else {
        return;
    };
    let mut cases = files(&folder.join("layers"), "");
    cases.extend(files(&folder.join("forks"), ""));
    cases.retain(|case| !files(case, ".caffemodel").is_empty());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.display(), weights_case(case).err()?)))
        .collect();
    conclude("weights", cases.len(), &failures);
}

#[test]
fn weights_found_in_the_wild() {
    let Some(folder) = folder("CAFFEC_ZOO") else {
        return;
    };
    let folder = folder.join("weights");
    let models: Vec<PathBuf> = files(&folder, "")
        .iter()
        .filter(|p| p.is_dir())
        .flat_map(|p| files(p, ".caffemodel"))
        .collect();
    let mut failures = Vec::new();
    for path in &models {
        let bad = path.to_string_lossy().contains("bad-weights");
        match (bad, WeightsFile::open(path, false)) {
            (true, Ok(_)) => failures.push(format!("{}: accepted", path.display())),
            (true, Err(error)) => println!("{error}"),
            (false, Err(error)) => failures.push(error.to_string()),
            (false, Ok(weights)) => {
                let mut blobs = weights.layers.iter().flat_map(|l| l.blobs.iter().flatten());
                let count = |b: &[i64]| b.iter().product::<i64>() as usize;
                if !blobs.all(|b| b.data.len() == count(&b.shape)) || weights.layers.is_empty() {
                    failures.push(format!("{}: counts differ", path.display()));
                }
            }
        }
    }
    conclude("weights in the wild", models.len(), &failures);
}
