pub mod schema;
pub mod text;
pub mod wire;

/// The message types of `proto/caffe.proto`.
pub mod proto {
    #![allow(clippy::all, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}
