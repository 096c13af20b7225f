//! The graph of layers between the front end and lowering.
//!
//! In: the upgraded and filtered net. Out: a [`Graph`] in which every blob is
//! written once, every shape is known and every layer's parameters are typed.
//! Passes turn graphs into graphs; lowering reads the last one.

mod epilogue;
pub mod graph;
pub mod pointwise;
pub mod shape;
pub mod tensor;

pub use graph::{
    Activation, Blob, BlobId, Epilogue, Graph, Node, NodeId, Param, ParamId, ParamSpec,
};
pub use pointwise::{Broadcast, Pointwise};
pub use shape::Shape;
pub use tensor::{FloatData, Tensor};
