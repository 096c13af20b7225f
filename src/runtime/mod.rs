//! What a compiled net needs at run time.
pub mod pool;
