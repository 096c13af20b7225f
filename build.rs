//! Compiles `proto/caffe.proto`: Rust types for the front end, and the descriptor
//! that text format is read and printed by. Needs no protoc.

use std::path::PathBuf;
use std::{env, fs, io};

/// The fields of forks have numbers above this.
const BVLC: i32 = 20_000;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/caffe.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut compiler = protox::Compiler::new(["proto"]).map_err(io::Error::other)?;
    compiler.include_imports(true);
    compiler
        .open_file("caffe.proto")
        .map_err(|e| io::Error::other(format!("{e:?}")))?;
    fs::write(
        out.join("caffe.descriptor"),
        compiler.encode_file_descriptor_set(),
    )?;
    let files = compiler.file_descriptor_set();
    let mut config = prost_build::Config::new();
    // A layer has one of a hundred parameters of forks, or none: behind a pointer the
    // others take little room.
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    for message in messages.filter(|m| m.name().ends_with("LayerParameter")) {
        let param = |name: &str| name.ends_with("_param");
        let of_forks = message.field.iter().filter(|f| f.number() > BVLC);
        for field in of_forks.filter(|f| param(f.name())) {
            config.boxed(format!(".caffe.{}.{}", message.name(), field.name()));
        }
    }
    config.out_dir(out).compile_fds(files)
}
