//! What a compiled net needs around it: threads and memory, files of tensors and
//! pictures, the machine's own limits.

pub mod npy;
pub mod peak;
pub mod picture;
pub mod tensor_file;
