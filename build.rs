//! Compiles `proto/caffe.proto`: Rust types for the front end, and the descriptor
//! that text format is read and printed by. Needs no protoc.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/caffe.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut compiler = protox::Compiler::new(["proto"]).map_err(io::Error::other)?;
    compiler
        .open_file("caffe.proto")
        .map_err(|e| io::Error::other(format!("{e:?}")))?;
    fs::write(
        out.join("caffe.descriptor"),
        compiler.encode_file_descriptor_set(),
    )?;
    prost_build::Config::new()
        .out_dir(out)
        .compile_fds(compiler.file_descriptor_set())
}
