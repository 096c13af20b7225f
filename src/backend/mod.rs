//! Two printers of one checked [`kernel::Program`](crate::kernel::Program): machine code
//! through Cranelift, and Rust source.
pub mod cranelift;
pub mod jit;
pub mod rust;
