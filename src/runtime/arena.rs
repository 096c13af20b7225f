//! Blocks of f32 memory for arenas, packed weights and scratch.

use memmap2::MmapMut;

use crate::diag::{Diagnostic, Result};

/// A page-aligned block of f32, zero at first.
///
/// It comes straight from the operating system: pages that are never touched cost
/// nothing, and large blocks may get huge pages. Emitted source has nothing but `std`,
/// which cannot ask for that, and so a block of its own in `backend/rust/support.rs`.
pub struct Block {
    map: MmapMut,
    len: usize,
}

impl Block {
    /// `len` zeros. Errors: `Io` if the system refuses the memory.
    pub fn zeroed(len: usize) -> Result<Block> {
        let refused = |why: &dyn std::fmt::Display| {
            Diagnostic::new(
                crate::diag::Kind::Io,
                format!("cannot get memory for {len} numbers: {why}"),
            )
        };
        let bytes = len
            .checked_mul(size_of::<f32>())
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| refused(&"too large"))?;
        // A mapping cannot be empty.
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|e| refused(&e))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // Only advice: without huge pages everything works as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Block { map, len })
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Result<Block> {
        let mut block = Block::zeroed(values.len())?;
        block.copy_from_slice(values);
        Ok(block)
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.map.as_mut_ptr().cast()
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.map.as_ptr().cast()
    }
}

#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

impl std::ops::Deref for Block {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the mapping is page-aligned and holds at least `len` f32; all bit
        // patterns are valid.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} f32)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_zero() {
        for len in [0, 1, 100, 3 << 20] {
            let mut block = Block::zeroed(len).unwrap();
            assert_eq!(block.len(), len);
            assert_eq!(block.as_ptr() as usize % 64, 0);
            assert!(block.iter().all(|&x| x == 0.0));
            block.fill(1.5);
            assert_eq!(block.iter().sum::<f32>(), 1.5 * len as f32);
        }
    }

    #[test]
    fn refused_memory_is_an_error() {
        assert!(Block::zeroed(usize::MAX / 4).is_err());
        assert!(Block::zeroed(usize::MAX).is_err());
    }
}
