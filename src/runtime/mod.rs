//! What a compiled net needs while it runs.
pub mod peak;
