//! What a compiled net needs around it: files of tensors and pictures.

pub mod npy;
pub mod picture;
pub mod tensor_file;
