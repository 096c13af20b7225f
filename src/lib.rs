//! caffec: the compiler for legacy Caffe models.
pub mod backend;
pub mod diag;
pub mod kernel;
pub mod leaf;
pub mod runtime;
