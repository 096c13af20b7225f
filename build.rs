//! Compiles `proto/caffe.proto`: Rust types for the front end, and the tables
//! that text format is read and printed by. Needs no protoc.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value,
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/caffe.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut compiler = protox::Compiler::new(["proto"]).map_err(io::Error::other)?;
    compiler.include_imports(true);
    compiler
        .open_file("caffe.proto")
        .map_err(|e| io::Error::other(format!("{e:?}")))?;
    fs::write(out.join("schema.rs"), schema(&compiler.descriptor_pool()))?;
    let files = compiler.file_descriptor_set();
    let mut config = prost_build::Config::new();
    // A layer has at most a few of a hundred parameters: behind a pointer, those that it
    // has not take little room, and large nets less time to read.
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    for message in messages.filter(|m| m.name().ends_with("LayerParameter")) {
        let fields = message.field.iter();
        for field in fields.filter(|f| f.name().ends_with("_param")) {
            config.boxed(format!(".caffe.{}.{}", message.name(), field.name()));
        }
    }
    config.out_dir(out).compile_fds(files)
}

/// The tables of `frontend/schema.rs`: messages and enums in the order of their names,
/// fields in that of their numbers.
fn schema(pool: &DescriptorPool) -> String {
    let mut messages: Vec<MessageDescriptor> = pool.all_messages().collect();
    messages.retain(|m| m.package_name() == "caffe");
    messages.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let mut enums: Vec<EnumDescriptor> = pool.all_enums().collect();
    enums.retain(|e| e.package_name() == "caffe");
    enums.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let names = messages.iter().map(|m| m.full_name()).enumerate();
    let names = names.chain(enums.iter().map(|e| e.full_name()).enumerate());
    let index: HashMap<&str, usize> = names.map(|(i, name)| (name, i)).collect();
    let mut out = "pub static MESSAGES: &[MessageType] = &[\n".to_string();
    for message in &messages {
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|f| f.number());
        let _ = writeln!(
            out,
            "MessageType {{ name: {:?}, fields: &[",
            message.full_name()
        );
        for field in &fields {
            let kind = match field.kind() {
                Kind::Enum(e) => format!("Enum({})", index[e.full_name()]),
                Kind::Message(m) => format!("Message({})", index[m.full_name()]),
                plain => {
                    let name = format!("{plain:?}");
                    name[..1].to_uppercase() + &name[1..]
                }
            };
            let fork = text_option(pool, "caffe.fork", &field.options());
            let no_effect = option(pool, "caffe.no_effect", &field.options());
            let no_effect = no_effect.is_some_and(|value| value.as_bool() == Some(true));
            let (name, number) = (field.name(), field.number());
            let cardinality = field.cardinality();
            let _ = writeln!(
                out,
                "FieldType {{ name: {name:?}, number: {number}, cardinality: Cardinality::{cardinality:?}, \
                 kind: ValueType::{kind}, fork: {fork:?}, no_effect: {no_effect} }},"
            );
        }
        let mut by_name: Vec<usize> = (0..fields.len()).collect();
        by_name.sort_by_key(|&i| (fields[i].name().len(), fields[i].name().to_string()));
        let _ = writeln!(out, "], by_name: &{by_name:?} }},");
    }
    out += "];\npub static ENUMS: &[EnumType] = &[\n";
    for ty in &enums {
        out += "EnumType { values: &[\n";
        for value in ty.values() {
            let fork = text_option(pool, "caffe.fork_value", &value.options());
            let (name, number) = (value.name(), value.number());
            let _ = writeln!(
                out,
                "EnumValue {{ name: {name:?}, number: {number}, fork: {fork:?} }},"
            );
        }
        out += "] },\n";
    }
    out + "];\n"
}

/// What the option called `name` says of a field or value, if it says anything.
fn option(pool: &DescriptorPool, name: &str, options: &DynamicMessage) -> Option<Value> {
    let option = pool.get_extension_by_name(name)?;
    let given = options.has_extension(&option);
    given.then(|| options.get_extension(&option).into_owned())
}

fn text_option(pool: &DescriptorPool, name: &str, options: &DynamicMessage) -> Option<String> {
    let value = option(pool, name, options)?;
    value.as_str().map(str::to_string)
}
