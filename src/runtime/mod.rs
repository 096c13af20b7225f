//! What a compiled net needs at run time: memory, threads, tensor files, and running it.
pub mod arena;
pub mod exec;
pub mod npy;
pub mod peak;
pub mod pool;
