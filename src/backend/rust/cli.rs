//! The main program of emitted source: runs the net on files, times it, or serves
//! runs on request.
//!
//! This file is compiled into caffec for its tests and pasted into the Rust source that
//! caffec emits: it names nothing but `std` and the support module, and is free of
//! warnings in every edition.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::support::{Context, Isa, Model, Net, Port};

/// Runs the program: exit code 0 if all went well, 1 for a failure, 2 for wrong usage.
pub fn main(model: &'static Model) -> ExitCode {
    let options = match parse(model, std::env::args_os().skip(1).collect()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = io::stdout().write_all(usage(model).as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            complain(&format!("error: {}\n\n{}", message, usage(model)));
            return ExitCode::from(2);
        }
    };
    match start(model, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&format!("error: {}", message));
            if options.worker || options.json {
                let _ = say(&format!("{{\"error\": {}}}", json_string(&message)));
            }
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug)]
struct Options {
    /// None: the embedded ones.
    weights: Option<PathBuf>,
    /// One for each input of the net.
    inputs: Vec<PathBuf>,
    output: Output,
    threads: usize,
    isa: Option<Isa>,
    /// Timed runs; 0 for one run without a report.
    runs: usize,
    json: bool,
    worker: bool,
}

#[derive(Debug)]
enum Output {
    Nowhere,
    File(PathBuf),
    Folder(PathBuf),
}

fn usage(model: &Model) -> String {
    let weights = if model.embedded.is_some() {
        ""
    } else {
        "WEIGHTS "
    };
    let ports = |ports: &[Port]| {
        let line = |p: &Port| format!("  {}  {}\n", clean(p.name), shape_text(p.shape));
        ports.iter().map(line).collect::<String>()
    };
    format!(
        "usage: PROGRAM {}[INPUT [OUTPUT]] [options]\n\n\
         Files are .npy (f32, C order) or else raw little-endian f32.\n\n\
         options:\n\
         \x20 -i, --input [NAME=]FILE  an input; one for each input of the net\n\
         \x20 --output-dir DIR         writes each output as DIR/NAME.npy\n\
         \x20 --threads N              threads to run on (1)\n\
         \x20 --isa NAME               avx512, avx2 or portable\n\
         \x20 --runs N                 runs N times and reports the times\n\
         \x20 --json                   reports as one line of JSON\n\
         \x20 --worker                 answers the lines `run N` and `quit`\n\
         \x20 -h, --help               this text\n\n\
         inputs of {} (caffec {}):\n{}outputs:\n{}",
        weights,
        clean(model.name),
        model.version,
        ports(model.inputs),
        ports(model.outputs)
    )
}

/// None: help was asked for.
fn parse(model: &Model, args: Vec<OsString>) -> Result<Option<Options>, String> {
    let mut plain = Vec::new();
    let mut inputs: Vec<OsString> = Vec::new();
    let mut folder = None;
    let mut options = Options {
        weights: None,
        inputs: Vec::new(),
        output: Output::Nowhere,
        threads: 1,
        isa: None,
        runs: 0,
        json: false,
        worker: false,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let option = arg.to_str().filter(|a| a.len() > 1 && a.starts_with('-'));
        let option = match option {
            Some(option) => option.to_string(),
            None => {
                plain.push(PathBuf::from(arg));
                continue;
            }
        };
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (&option[..], None),
        };
        let mut value = || {
            let value = inline.clone().or_else(|| args.next());
            value.ok_or(format!("{} needs a value", name))
        };
        match name {
            "-h" | "--help" => return Ok(None),
            "-i" | "--input" => inputs.push(value()?),
            "--output-dir" => folder = Some(PathBuf::from(value()?)),
            "--threads" => options.threads = number(name, &value()?, 1, 1024)?,
            "--runs" => options.runs = number(name, &value()?, 1, 1_000_000)?,
            "--isa" => options.isa = Some(isa(&value()?)?),
            "--json" => options.json = true,
            "--worker" => options.worker = true,
            _ => return Err(format!("unknown option {}", clean(name))),
        }
    }
    let mut plain = plain.into_iter();
    if model.embedded.is_none() {
        options.weights = Some(plain.next().ok_or("no weights file given")?);
    }
    inputs.extend(plain.next().map(OsString::from));
    options.inputs = assign_inputs(model, inputs)?;
    options.output = match (plain.next(), folder) {
        (Some(_), Some(_)) => return Err("both an output file and --output-dir given".into()),
        (Some(_), None) if shown_outputs(model) != 1 => {
            return Err(format!(
                "the net has {} outputs: give --output-dir",
                shown_outputs(model)
            ));
        }
        (Some(file), None) => Output::File(file),
        (None, Some(folder)) => Output::Folder(folder),
        (None, None) if options.runs == 0 && !options.worker => {
            return Err("no output given".into());
        }
        (None, None) => Output::Nowhere,
    };
    match plain.next() {
        Some(extra) => Err(format!("what is {}?", shown(&extra))),
        None => Ok(Some(options)),
    }
}

fn number(name: &str, value: &OsStr, min: usize, max: usize) -> Result<usize, String> {
    let number = value.to_str().and_then(|v| v.parse().ok());
    number
        .filter(|n| (min..=max).contains(n))
        .ok_or(format!("{} needs a number from {} to {}", name, min, max))
}

fn isa(value: &OsStr) -> Result<Isa, String> {
    let isa = Isa::ALL.iter().find(|isa| value == isa.name());
    isa.copied()
        .ok_or("--isa is one of avx512, avx2, portable".into())
}

/// A file for each input of the net; a file without a name is for the only input.
fn assign_inputs(model: &Model, given: Vec<OsString>) -> Result<Vec<PathBuf>, String> {
    let mut files: Vec<Option<PathBuf>> = model.inputs.iter().map(|_| None).collect();
    for argument in given {
        let (index, file) = match named_input(model, &argument) {
            Some((index, file)) => (index, file),
            None if model.inputs.len() == 1 => (0, PathBuf::from(argument)),
            None => return Err(format!("{}: no such input", shown(Path::new(&argument)))),
        };
        if files[index].replace(file).is_some() {
            let name = clean(model.inputs[index].name);
            return Err(format!("input {} is given twice", name));
        }
    }
    let file = |(file, port): (Option<PathBuf>, &Port)| {
        file.ok_or(format!("no file given for input {}", clean(port.name)))
    };
    files.into_iter().zip(model.inputs).map(file).collect()
}

/// `NAME=FILE`, where the net has such an input.
fn named_input(model: &Model, argument: &OsStr) -> Option<(usize, PathBuf)> {
    let text = argument.to_str()?;
    model.inputs.iter().enumerate().find_map(|(index, port)| {
        let file = text.strip_prefix(port.name)?.strip_prefix('=')?;
        Some((index, PathBuf::from(file)))
    })
}

/// A net with its blobs.
struct Session {
    net: Net,
    context: Context,
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

fn start(model: &'static Model, options: &Options) -> Result<(), String> {
    let net = match options.weights {
        Some(ref file) => {
            Net::load(model, file).map_err(|error| format!("{}: {}", shown(file), error))?
        }
        None => Net::embedded(model).map_err(|error| error.to_string())?,
    };
    let net = match options.isa {
        Some(isa) => net.with_isa(isa).map_err(|error| error.to_string())?,
        None => net,
    };
    let read = |(file, port): (&PathBuf, &Port)| {
        read_blob(file, port.shape).map_err(|error| format!("{}: {}", shown(file), error))
    };
    let inputs: Result<_, String> = options.inputs.iter().zip(model.inputs).map(read).collect();
    let mut session = Session {
        context: net.context(options.threads),
        net,
        inputs: inputs?,
        outputs: model.outputs.iter().map(|p| vec![0.0; p.len()]).collect(),
    };
    if let Output::Folder(ref folder) = options.output {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {}", shown(folder), error))?;
    }
    if options.worker {
        return serve(&mut session, &options.output);
    }
    if options.runs == 0 {
        session.infer()?;
        return session.write(&options.output);
    }
    const WARM_UP: usize = 2;
    session.time(WARM_UP)?;
    let times = session.time(options.runs)?;
    session.write(&options.output)?;
    say(&session.report(times, options.json))
}

impl Session {
    fn infer(&mut self) -> Result<(), String> {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|blob| &blob[..]).collect();
        let mut outputs: Vec<&mut [f32]> =
            self.outputs.iter_mut().map(|blob| &mut blob[..]).collect();
        self.net
            .forward(&mut self.context, &inputs, &mut outputs)
            .map_err(|error| error.to_string())
    }

    /// Milliseconds of each of `runs` inferences.
    fn time(&mut self, runs: usize) -> Result<Vec<f64>, String> {
        let mut times = Vec::new();
        for _ in 0..runs {
            let start = Instant::now();
            self.infer()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }

    fn report(&self, mut times: Vec<f64>, json: bool) -> String {
        let isa = self.net.isa().name();
        let threads = self.context.threads();
        if json {
            return format!(
                "{{{}, \"isa\": \"{}\", \"threads\": {}, \"prec\": \"f32\"}}",
                json_times(&times),
                isa,
                threads
            );
        }
        times.sort_by(f64::total_cmp);
        format!(
            "{} runs, {} threads, {}: median {:.3} ms, minimum {:.3} ms, maximum {:.3} ms",
            times.len(),
            threads,
            isa,
            times[times.len() / 2],
            times[0],
            times[times.len() - 1]
        )
    }

    /// Shape and values of an output without elements that do not count.
    fn shown(&self, port: &Port, values: &[f32]) -> (Vec<usize>, Vec<f32>) {
        let mut shape = port.shape.to_vec();
        let (axis, output) = match port.count {
            None => return (shape, values.to_vec()),
            Some(count) => count,
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let row = shape[axis] * inner;
        shape[axis] = shape[axis].min(self.outputs[output][0] as usize);
        let kept = shape[axis] * inner;
        let rows = values.chunks(row.max(1));
        let values = rows.flat_map(|row| row[..kept].iter().cloned()).collect();
        (shape, values)
    }

    fn write(&self, output: &Output) -> Result<(), String> {
        let ports = self.net.model().outputs;
        for (i, port) in ports.iter().enumerate().filter(|&(i, _)| !counts(ports, i)) {
            let (shape, values) = self.shown(port, &self.outputs[i]);
            let file = match *output {
                Output::Nowhere => return Ok(()),
                Output::File(ref file) => file.clone(),
                Output::Folder(ref folder) => folder.join(file_name(port.name)),
            };
            write_blob(&file, &shape, &values)
                .map_err(|error| format!("{}: {}", shown(&file), error))?;
        }
        Ok(())
    }
}

/// Whether output `i` only counts the elements of another.
fn counts(outputs: &[Port], i: usize) -> bool {
    outputs
        .iter()
        .any(|port| port.count.is_some_and(|count| count.1 == i))
}

/// Number of outputs that are no counts.
fn shown_outputs(model: &Model) -> usize {
    let outputs = model.outputs;
    (0..outputs.len()).filter(|&i| !counts(outputs, i)).count()
}

/// Answers `run N` with the times of N inferences, after writing the last output.
fn serve(session: &mut Session, output: &Output) -> Result<(), String> {
    let version = format!("caffec {}", session.net.model().version);
    say(&format!(
        "{{\"ready\": true, \"version\": {}, \"prec\": \"f32\", \"isa\": \"{}\"}}",
        json_string(&version),
        session.net.isa().name()
    ))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {}", error))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["quit"] => return Ok(()),
            ["run", runs] => match number("run", runs.as_ref(), 1, 1_000_000) {
                Ok(runs) => {
                    let times = session.time(runs)?;
                    session.write(output)?;
                    say(&format!("{{{}}}", json_times(&times)))?;
                }
                Err(message) => say(&format!("{{\"error\": {}}}", json_string(&message)))?,
            },
            _ => {
                let message = format!("unknown request: {}", line);
                say(&format!("{{\"error\": {}}}", json_string(&message)))?;
            }
        }
    }
    Ok(())
}

/// Prints a line for people, if anybody listens.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", line);
}

/// Prints a line at once.
fn say(line: &str) -> Result<(), String> {
    let mut out = io::stdout();
    writeln!(out, "{}", line)
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {}", error))
}

fn json_times(times: &[f64]) -> String {
    let times: Vec<_> = times.iter().map(|ms| format!("{:.6}", ms)).collect();
    format!("\"ms\": [{}]", times.join(", "))
}

fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(&['\\', c]),
            c if c < ' ' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out + "\""
}

/// `text` with control and direction-changing characters escaped.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode())
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

fn shape_text(shape: &[usize]) -> String {
    let dims: Vec<_> = shape.iter().map(|d| d.to_string()).collect();
    match dims.is_empty() {
        true => "scalar".to_string(),
        false => dims.join("x"),
    }
}

/// The file of an output blob in a folder.
fn file_name(blob: &str) -> String {
    format!("{}.npy", blob.replace(&['/', '\\'][..], "_"))
}

fn is_npy(file: &Path) -> bool {
    file.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("npy"))
}

/// Reads the values of a blob of this shape.
fn read_blob(file: &Path, shape: &[usize]) -> Result<Vec<f32>, String> {
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    let data = match is_npy(file) {
        true => npy_data(&bytes, shape)?,
        false => &bytes[..],
    };
    let expected = 4 * shape.iter().product::<usize>();
    if data.len() != expected {
        return Err(format!(
            "{} bytes of values instead of {} (f32, {})",
            data.len(),
            expected,
            shape_text(shape)
        ));
    }
    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    Ok(data.chunks_exact(4).map(value).collect())
}

/// The values of a .npy file, which has to have this shape but for dimensions of 1.
fn npy_data<'a>(bytes: &'a [u8], shape: &[usize]) -> Result<&'a [u8], String> {
    let (header, data) = npy_parts(bytes).ok_or("not a .npy file")?;
    match npy_field(header, "descr") {
        Some("'<f4'") | Some("\"<f4\"") => {}
        Some(other) => return Err(format!("values are {} instead of '<f4'", clean(other))),
        None => return Err("the .npy header has no descr".to_string()),
    }
    let found = npy_shape(header).ok_or("the .npy header has no shape")?;
    let long =
        |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|&d| d != 1).collect() };
    if long(&found) != long(shape) {
        return Err(format!(
            "shape {} instead of {}",
            shape_text(&found),
            shape_text(shape)
        ));
    }
    match npy_field(header, "fortran_order") {
        Some("False") => Ok(data),
        // The same thing where there is but one way to count.
        Some("True") if long(&found).len() < 2 => Ok(data),
        _ => Err("values are not in C order".to_string()),
    }
}

/// Header and values.
fn npy_parts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (start, len) = match rest.first()? {
        1 => (
            4,
            usize::from(rest.get(2)?.to_owned()) | usize::from(*rest.get(3)?) << 8,
        ),
        2 | 3 => {
            let b = rest.get(2..6)?;
            (6, u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
        }
        _ => return None,
    };
    let rest = rest.get(start..)?;
    let header = std::str::from_utf8(rest.get(..len)?).ok()?;
    Some((header, &rest[len..]))
}

/// What follows `'key':` in the header, up to a comma outside of parentheses.
fn npy_field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let key = format!("'{}':", key);
    let value = header.split_once(&key[..])?.1.trim_start();
    let end = match value.starts_with('(') {
        true => value.find(')')? + 1,
        false => value.find(&[',', '}'][..])?,
    };
    Some(value[..end].trim_end())
}

fn npy_shape(header: &str) -> Option<Vec<usize>> {
    let field = npy_field(header, "shape")?;
    let inner = field.strip_prefix('(')?.strip_suffix(')')?;
    let dims = inner.split(',').map(str::trim).filter(|d| !d.is_empty());
    dims.map(|d| d.parse().ok()).collect()
}

/// The header of a .npy file, a multiple of 64 bytes long.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{}, ", d)).collect();
    let dims = match shape.len() {
        1 => dims.trim_end(),
        _ => dims.trim_end_matches(", "),
    };
    let text = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}",
        dims
    );
    let len = (10 + text.len() + 1).div_ceil(64) * 64 - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(len as u16).to_le_bytes());
    header.extend_from_slice(format!("{:<1$}\n", text, len - 1).as_bytes());
    header
}

/// Writes a blob under a temporary name first, so that nobody sees half of it.
fn write_blob(file: &Path, shape: &[usize], values: &[f32]) -> io::Result<()> {
    let mut bytes = match is_npy(file) {
        true => npy_header(shape),
        false => Vec::new(),
    };
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    let name = file
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = file.with_file_name(temporary);
    let written = fs::write(&temporary, &bytes).and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::support::Aligned;
    use super::*;

    const X: Port = Port {
        name: "x",
        shape: &[1, 2, 3],
        count: None,
    };

    fn model(inputs: &'static [Port], outputs: &'static [Port], embedded: bool) -> Model {
        let file: &'static Aligned<[u8]> = &Aligned([]);
        Model {
            name: "net",
            version: "0",
            fingerprint: 0,
            weights_len: 0,
            inputs,
            outputs,
            plans: &[],
            embedded: if embedded { Some(file) } else { None },
        }
    }

    fn one() -> Model {
        model(&[X], &[X], false)
    }

    fn two() -> Model {
        const Y: Port = Port {
            name: "a=b",
            shape: &[],
            count: None,
        };
        model(&[X, Y], &[X, Y], true)
    }

    fn options(model: &Model, line: &str) -> Result<Options, String> {
        let args = line.split_whitespace().map(OsString::from).collect();
        parse(model, args).map(|options| options.expect("not --help"))
    }

    #[test]
    fn command_lines_are_understood() {
        let run = options(&one(), "w x.npy y.npy --threads 2 --isa=avx2").unwrap();
        assert_eq!(run.weights, Some("w".into()));
        assert_eq!(run.inputs, [PathBuf::from("x.npy")]);
        assert!(matches!(run.output, Output::File(file) if file == Path::new("y.npy")));
        assert_eq!((run.threads, run.isa), (2, Some(Isa::Avx2)));

        let bench = options(&one(), "w -i x=f=1 --runs 5 --json").unwrap();
        assert_eq!(bench.inputs, [PathBuf::from("f=1")]);
        assert!(matches!(bench.output, Output::Nowhere));
        assert!((bench.runs, bench.json) == (5, true));

        let two = options(&two(), "-i a=b=q --input=x=p --output-dir d --worker").unwrap();
        assert_eq!(two.weights, None);
        assert_eq!(two.inputs, [PathBuf::from("p"), PathBuf::from("q")]);
        assert!(matches!(two.output, Output::Folder(dir) if dir == Path::new("d")));
    }

    #[test]
    fn wrong_command_lines_are_told() {
        for (model, line, message) in [
            (one(), "", "no weights file given"),
            (one(), "w", "no file given for input x"),
            (one(), "w x", "no output given"),
            (one(), "w x y z", "what is z?"),
            (
                one(),
                "w x y --output-dir d",
                "both an output file and --output-dir given",
            ),
            (one(), "w x y -i x=z", "input x is given twice"),
            (
                one(),
                "w x y --threads 0",
                "--threads needs a number from 1 to 1024",
            ),
            (
                one(),
                "w x y --isa sse",
                "--isa is one of avx512, avx2, portable",
            ),
            (one(), "w x y --runs", "--runs needs a value"),
            (one(), "w x y --fast", "unknown option --fast"),
            (two(), "p", "p: no such input"),
            (two(), "-i x=p -i a=b=q", "no output given"),
            (two(), "-i x=p -i c=q", "c=q: no such input"),
            (two(), "-i x=p", "no file given for input a=b"),
        ] {
            assert_eq!(options(&model, line).unwrap_err(), message, "{line}");
        }
    }

    #[test]
    fn npy_files_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.NPY", "a.bin"] {
            for shape in [&[][..], &[3], &[2, 1, 3], &[1; 40]] {
                let len: usize = shape.iter().product();
                let values: Vec<f32> = (0..len).map(|i| i as f32 - 0.5).collect();
                let file = dir.path().join(name);
                write_blob(&file, shape, &values).unwrap();
                assert_eq!(read_blob(&file, shape).unwrap(), values);
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert!(write_blob(dir.path(), &[1], &[1.0]).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY".to_vec();
        out.extend([version, 0]);
        match version {
            1 => out.extend((header.len() as u16).to_le_bytes()),
            _ => out.extend((header.len() as u32).to_le_bytes()),
        }
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn other_writers_headers_are_read() {
        let header = "{'shape':(2,1,3),'fortran_order':False,'descr':'<f4'}\n";
        for version in 1..=3 {
            assert_eq!(
                npy_data(&npy(version, header, b"1234"), &[2, 3]),
                Ok(&b"1234"[..])
            );
        }
        let header = "{'descr': \"<f4\", 'fortran_order': True, 'shape': (1, 6L), }";
        assert!(npy_data(&npy(1, header, b""), &[6]).is_err());
        let header = "{'descr': \"<f4\", 'fortran_order': True, 'shape': (1, 6), }";
        assert_eq!(npy_data(&npy(1, header, b"x"), &[6]), Ok(&b"x"[..]));
    }

    #[test]
    fn wrong_npy_files_are_told() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let cases = [
            (
                npy(1, &good.replace("<f4", "<f8"), b""),
                "values are '<f8' instead of '<f4'",
            ),
            (
                npy(1, &good.replace("False", "True"), b""),
                "values are not in C order",
            ),
            (
                npy(1, &good.replace("2, 3", "3, 2"), b""),
                "shape 3x2 instead of 2x3",
            ),
            (
                npy(1, &good.replace("(2, 3)", "2"), b""),
                "the .npy header has no shape",
            ),
            (
                npy(1, &good.replace("descr", "d"), b""),
                "the .npy header has no descr",
            ),
            (npy(4, good, b""), "not a .npy file"),
            (b"\x93NUMPY".to_vec(), "not a .npy file"),
            (npy(1, good, b"")[..60].to_vec(), "not a .npy file"),
            (Vec::new(), "not a .npy file"),
        ];
        for (file, message) in cases {
            assert_eq!(npy_data(&file, &[2, 3]).unwrap_err(), message);
        }
    }

    #[test]
    fn names_cannot_leave_the_folder_or_the_string() {
        assert_eq!(file_name("a/../b\\c"), "a_.._b_c.npy");
        assert_eq!(json_string("a\"b\\\n\u{1}"), "\"a\\\"b\\\\\\u000a\\u0001\"");
    }
}
