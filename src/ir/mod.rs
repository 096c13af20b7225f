//! The graph of layers between the front end and lowering.
//!
//! In: the upgraded and filtered net. Out: a [`Graph`] in which every blob is
//! written once, every shape is known and every layer's parameters are typed.
//! Passes turn graphs into graphs; lowering reads the last one.

pub mod build;
mod dump;
mod epilogue;
mod fc_to_conv;
pub mod graph;
mod labels;
pub mod pointwise;
pub mod reference;
pub mod shape;
mod sharing;
pub mod tensor;
#[cfg(test)]
mod tests;
mod valid;
mod verify;
mod wiring;

pub use build::{Built, Incomplete, Options, build};
pub use epilogue::WIDEST;
pub use fc_to_conv::fc_to_conv;
pub use graph::{
    Activation, Blob, BlobId, Count, Epilogue, Graph, Node, NodeId, Param, ParamId, ParamSpec,
    Shown,
};
pub use pointwise::{Broadcast, Pointwise};
pub use shape::Shape;
pub use tensor::{FloatData, Tensor, room};
pub use valid::Valid;
