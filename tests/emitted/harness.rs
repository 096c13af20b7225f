//! Emits, compiles and runs in a temporary folder.

use caffec::backend::rust::{Emit, Weights, write_weights};
use caffec::kernel::Checked;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Values without a pattern, none of them zero.
pub fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 0.9999
    };
    (0..len).map(|_| next()).collect()
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A folder with `net.rs` and `net.weights`.
pub struct Emitted {
    pub dir: tempfile::TempDir,
}

impl Emitted {
    pub fn new(programs: &[&Checked], weights: &[f32], embed: bool, main: bool) -> Self {
        let emitted = Emitted {
            dir: tempfile::tempdir().unwrap(),
        };
        let emit = Emit {
            programs,
            prototxt: "net.prototxt",
            prototxt_sha256: "00",
            weights_sha256: "11",
            weights: match embed {
                true => Weights::Embed("net.weights"),
                false => Weights::File,
            },
            main,
        };
        let source = emit.source();
        assert_eq!(source, emit.source(), "not deterministic");
        emitted.write("net.rs", source);
        let mut file = Vec::new();
        write_weights(&mut file, programs, weights).unwrap();
        emitted.write("net.weights", file);
        emitted
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Compiles without a warning.
    pub fn rustc(&self, args: &[&str]) {
        let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
        let output = Command::new(rustc)
            .args(["-D", "warnings"])
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .expect("rustc starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rustc {args:?}:\n{errors}");
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("net"))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Runs it and gives the one line on stderr, without `error: `.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        let first = errors.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_string()
    }
}
