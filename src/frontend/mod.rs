//! The front end.

/// Caffe's messages, generated from `proto/caffe.proto`.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}
