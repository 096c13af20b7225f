//! What a compiled net needs at run time.
pub mod peak;
pub mod pool;
