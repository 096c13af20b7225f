//! caffec: the compiler for legacy Caffe models.
pub mod backend;
pub mod diag;
pub mod frontend;
pub mod ir;
pub mod kernel;
pub mod layers;
pub mod leaf;
pub mod lower;
pub mod passes;
pub mod runtime;
