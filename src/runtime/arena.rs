//! Blocks of f32 memory for arenas, packed weights and scratch.
//!
//! This file is compiled into caffec and pasted into the Rust source that it emits:
//! it names nothing but `std` and is free of warnings in every edition.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// f32 values on the heap, the first at an address that is a multiple of 64.
///
/// A large block begins at a huge page's border and gets huge pages, if it can: nets walk
/// through megabytes of weights, and the CPU knows the places of few small pages at a
/// time.
pub struct Block {
    start: NonNull<f32>,
    len: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: a block owns its values as a `Vec` does.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

impl Block {
    /// `len` zeros; none if the system refuses the memory.
    pub fn zeroed(len: usize) -> Option<Block> {
        let bytes = len.checked_mul(4)?;
        let unit = if bytes < HUGE_PAGE {
            CACHE_LINE
        } else {
            HUGE_PAGE
        };
        let bytes = bytes.checked_next_multiple_of(unit)?;
        // Aligned by hand: std would write the zeros if asked for such an alignment.
        let layout = Layout::from_size_align(bytes.checked_add(unit)?, 8).ok()?;
        // SAFETY: the layout's size is not zero; the first multiple of `unit` is at most
        // `unit` bytes away, so that `bytes` zeros follow it.
        let (allocation, start) = unsafe {
            let allocation = NonNull::new(alloc_zeroed(layout))?;
            let start = allocation.as_ptr().add(allocation.align_offset(unit));
            if unit == HUGE_PAGE {
                get_huge_pages(start, bytes);
            }
            (allocation, NonNull::new(start as *mut f32)?)
        };
        Some(Block {
            start,
            len,
            allocation,
            layout,
        })
    }

    /// A copy of `values`; none if the system refuses the memory.
    pub fn from_slice(values: &[f32]) -> Option<Block> {
        let mut block = Block::zeroed(values.len())?;
        block.copy_from_slice(values);
        Some(block)
    }

    /// The first element. Other threads may use it to reach disjoint elements.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start.as_ptr()
    }

    /// The values as they are in memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: all bytes are initialised, and all patterns of them are f32 values.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr() as *mut u8, self.len * 4) }
    }
}

/// Gets huge pages, one after another, as long as the system has them at hand: with small
/// ones everything works as well, a few per cent slower, but to make a huge page of small
/// ones, or to get it from the host of a virtual machine, takes milliseconds, and a net
/// may need hundreds.
///
/// # Safety
/// `bytes` bytes from `start` on, both multiples of a huge page, are zeros that nobody
/// uses yet.
#[cfg(target_os = "linux")]
unsafe fn get_huge_pages(start: *mut u8, bytes: usize) {
    use std::os::raw::{c_int, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }
    // To fill one with zeros takes a fifth of this. A few may be late for other reasons.
    const AT_HAND: Duration = Duration::from_millis(1);
    const PATIENCE: usize = 3;
    static LATE: AtomicUsize = AtomicUsize::new(0);
    for at in (0..bytes).step_by(HUGE_PAGE) {
        if LATE.load(Ordering::Relaxed) >= PATIENCE {
            return;
        }
        let asked = Instant::now();
        // SAFETY: the page is the caller's; this advice changes no content.
        unsafe {
            let page = start.add(at);
            madvise(page as *mut c_void, HUGE_PAGE, MADV_HUGEPAGE);
            page.write_volatile(0);
        }
        if asked.elapsed() > AT_HAND {
            LATE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(not(target_os = "linux"))]
unsafe fn get_huge_pages(_: *mut u8, _: usize) {}

impl Deref for Block {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the allocation has `len` elements from `start` on and lives as long as
        // `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; `&mut self` makes it the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} f32)", self.len)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `zeroed`.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_zero() {
        for len in [0, 1, 17, 100, 5000, 3 << 20] {
            let mut block = Block::zeroed(len).unwrap();
            assert_eq!(block.len(), len);
            assert_eq!(block.as_mut_ptr() as usize % CACHE_LINE, 0);
            assert!(block.iter().all(|&x| x == 0.0));
            block.fill(1.5);
            assert_eq!(block.iter().sum::<f32>(), 1.5 * len as f32);
        }
        let mut large = Block::zeroed(HUGE_PAGE).unwrap();
        assert_eq!(large.as_mut_ptr() as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn refused_memory_is_told() {
        for len in [
            usize::MAX / 4,
            usize::MAX / 4 - HUGE_PAGE,
            usize::MAX,
            1 << 50,
        ] {
            assert!(Block::zeroed(len).is_none());
        }
    }
}
