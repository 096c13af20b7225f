//! caffec: the compiler for legacy Caffe models.
pub mod diag;
pub mod frontend;
