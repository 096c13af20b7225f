pub mod filter;
pub mod schema;
mod source;
pub mod text;
pub mod upgrade;
pub mod wire;

/// The message types of `proto/caffe.proto`.
pub mod proto {
    #![allow(clippy::all, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}
