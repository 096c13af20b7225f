//! Printers of a checked [`kernel::Program`](crate::kernel::Program): machine code
//! through Cranelift.
pub mod cranelift;
pub mod jit;
