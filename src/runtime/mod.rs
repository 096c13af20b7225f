//! What a compiled net needs around it: memory, threads and running it; files of
//! tensors and pictures; the machine's own limits.

pub mod arena;
pub mod exec;
pub mod npy;
pub mod peak;
pub mod picture;
pub mod pool;
pub mod tensor_file;
