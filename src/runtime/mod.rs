//! What a compiled net needs around it while it runs.

pub mod npy;
