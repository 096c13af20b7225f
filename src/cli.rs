//! The user's side: what can be typed, and what comes of it.
//!
//! One file per command; each takes its parsed arguments and answers with an
//! [`Outcome`]. Only this room prints, and only it and `runtime::tensor_file` read and
//! write files. Data goes to stdout, talk to stderr; nothing is written that is not
//! complete. Exit codes: 0 done, 1 the model or an input is at fault, 2 wrong usage.

mod args;
mod bench;
mod check;
mod compile;
mod dump;
mod inputs;
mod layers;
mod model;
mod report;
mod run;
mod summary;
mod talk;
mod tuning;
mod upgrade;
mod worker;

use args::{Cli, Command, IsaArg};
use caffec::diag::{Errors, Sources};
use clap::{CommandFactory, Parser, error::ErrorKind};
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

/// Why a command did not end well.
pub enum Failure {
    /// The model or an input is at fault, or the system.
    Model(Errors),
    /// The command line asks for what makes no sense.
    Usage(String),
    /// Nobody reads what is printed any more.
    Closed,
    /// Everything that could be said has been said.
    Told,
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Self {
        Failure::Model(errors)
    }
}

impl From<caffec::diag::Diagnostic> for Failure {
    fn from(d: caffec::diag::Diagnostic) -> Self {
        Failure::Model(d.into())
    }
}

impl From<io::Error> for Failure {
    /// For errors of stdout; those of files become diagnostics with the file's name.
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => caffec::diag::Diagnostic::io("standard output".as_ref(), &e).into(),
        }
    }
}

pub type Outcome = Result<(), Failure>;

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(with_command(std::env::args_os())) {
        Ok(cli) => cli,
        Err(e) => return told_by_clap(&e),
    };
    let mut sources = Sources::default();
    let outcome = match cli.command {
        Command::Compile(args) => compile::run(&args, &mut sources),
        Command::Run(args) => run::run(&args, &mut sources),
        Command::Bench(args) => bench::run(&args, &mut sources),
        Command::Summary(args) => summary::run(&args, &mut sources),
        Command::Dump(args) => dump::run(&args, &mut sources),
        Command::Upgrade(args) => upgrade::run(&args, &mut sources),
        Command::Check(args) => check::run(&args, &mut sources),
        Command::Layers(args) => layers::run(&args),
    };
    match outcome {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::from(1),
        Err(Failure::Model(errors)) => {
            talk::say(&sources.render_all(&errors));
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            talk::say(&format!("error: {message}"));
            ExitCode::from(2)
        }
    }
}

/// Help goes to stdout with code 0, complaints to stderr with code 2.
fn told_by_clap(e: &clap::Error) -> ExitCode {
    // A closed pipe is no reason to fail over a help text.
    let _ = e.print();
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// `caffec net.prototxt …` is `caffec compile net.prototxt …`: the command is put in
/// where the first word looks like a file or an option of `compile`.
fn with_command(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    let cli = Cli::command();
    let implied = words.get(1).is_some_and(|word| {
        let word = word.to_string_lossy();
        let command = word == "help" || cli.find_subcommand(word.as_ref()).is_some();
        let own = matches!(word.as_ref(), "-h" | "--help" | "-V" | "--version");
        let file = word.contains(['.', '/', '-']) || std::path::Path::new(word.as_ref()).exists();
        !command && !own && file
    });
    if implied {
        words.insert(1, "compile".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let words = with_command(line.split(' ').map(OsString::from));
        words
            .into_iter()
            .map(|w| w.into_string().unwrap())
            .collect()
    }

    #[test]
    fn compile_is_implied_before_files_and_options() {
        assert_eq!(words("caffec a.prototxt -o a.rs")[1], "compile");
        assert_eq!(words("caffec -o a.rs a.prototxt")[1], "compile");
        assert_eq!(words("caffec run a.prototxt")[1], "run");
        assert_eq!(words("caffec sumary a.prototxt")[1], "sumary");
        assert_eq!(words("caffec --help")[1], "--help");
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
