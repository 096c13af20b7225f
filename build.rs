//! Compiles `proto/caffe.proto`: Rust types for the front end, and the descriptor
//! that text format is read and printed by. Needs no protoc.

use std::path::PathBuf;
use std::{env, fs, io};

/// The fields of forks have numbers above this.
const BVLC: i32 = 20_000;

/// The largest messages.
const LARGE: &[&str] = &[
    "batch_norm_param",
    "bias_param",
    "convolution_param",
    "data_param",
    "dummy_data_param",
    "embed_param",
    "hdf5_data_param",
    "image_data_param",
    "inner_product_param",
    "pooling_param",
    "prelu_param",
    "recurrent_param",
    "scale_param",
    "transform_param",
    "window_data_param",
];

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
    // A layer has at most a few of a hundred parameters: behind a pointer, those that it
    // has not take little room, and large nets less time to read.
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    for message in messages.filter(|m| m.name().ends_with("LayerParameter")) {
        let param = |name: &str| name.ends_with("_param");
        let of_forks = |number: i32, name: &str| number > BVLC && param(name);
        let boxed = |number: i32, name: &str| of_forks(number, name) || LARGE.contains(&name);
        let fields = message.field.iter();
        for field in fields.filter(|f| boxed(f.number(), f.name())) {
            config.boxed(format!(".caffe.{}.{}", message.name(), field.name()));
        }
    }
    config.out_dir(out).compile_fds(files)
}
