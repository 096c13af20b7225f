//! What a compiled net needs around it: memory, threads and running it; files of
//! tensors and pictures; the machine's own limits.

pub mod arena;
pub mod exec;
pub mod npy;
pub mod peak;
pub mod picture;
pub mod pool;
pub mod tensor_file;

use crate::diag::{Diagnostic, Kind, Result};
use arena::Block;

/// A block of `len` zeros. Errors: `Io` if the system refuses the memory.
pub fn block(len: usize) -> Result<Block> {
    let refused = || Diagnostic::new(Kind::Io, format!("cannot get memory for {len} numbers"));
    Ok(Block::zeroed(len).ok_or_else(refused)?)
}
