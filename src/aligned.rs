//! Bytes in memory at the alignment that images and arenas need, and in pages as large as the
//! system gives.

use std::ops::{Deref, DerefMut};
use std::prelude::rust_2024::*;

#[cfg(not(any(unix, windows)))]
use heap::Pages;
#[cfg(any(unix, windows))]
use memmap2::MmapMut as Pages;

/// Bytes that start at a multiple of 64: an image packed in or read into memory, or the arena of a
/// session.
///
/// They lie in huge pages where the system has them to give (Linux): decoding walks through all
/// weights for each token, and with pages of 4 KiB it spends a good part of the time on looking up
/// where the next one is.
///
/// Example: [`Threads`](crate::host::Threads).
pub struct AlignedBytes {
    /// At least a page, which is more than the alignment.
    pages: Pages,
    length: usize,
}

impl AlignedBytes {
    /// `length` zeros, which take memory when they are first written to.
    ///
    /// # Panics
    /// The system refuses so much address space.
    pub fn zeroed(length: usize) -> Self {
        let pages = Pages::map_anon(length.max(1)).expect("memory for an image or an arena");
        // What is refused here costs speed and nothing else. Miri does not know the call.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = pages.advise(memmap2::Advice::HugePage);
        AlignedBytes { pages, length }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages[..self.length]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.length]
    }
}

/// Memory of the heap, where the system gives no pages (WebAssembly).
#[cfg(any(test, not(any(unix, windows))))]
mod heap {
    use std::convert::Infallible;
    use std::ops::{Deref, DerefMut};
    use std::prelude::rust_2024::*;

    use crate::model::ALIGNMENT;

    pub(super) struct Pages {
        bytes: Vec<u8>,
        /// The first byte at a multiple of the alignment.
        start: usize,
    }

    impl Pages {
        pub(super) fn map_anon(length: usize) -> Result<Self, Infallible> {
            let bytes = vec![0; length + ALIGNMENT];
            let start = bytes.as_ptr().align_offset(ALIGNMENT);
            Ok(Pages { bytes, start })
        }
    }

    impl Deref for Pages {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.bytes[self.start..]
        }
    }

    impl DerefMut for Pages {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.bytes[self.start..]
        }
    }

    #[test]
    fn memory_of_the_heap_is_aligned_and_zero() {
        for length in [1, 63, 64, 65, 5000] {
            let mut pages = Pages::map_anon(length).unwrap();
            assert_eq!(pages.as_ptr() as usize % ALIGNMENT, 0);
            assert!(pages.len() >= length);
            assert!(pages.iter().all(|&byte| byte == 0));
            pages[..length].fill(1);
        }
    }
}
