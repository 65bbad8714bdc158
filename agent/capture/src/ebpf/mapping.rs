//! A BPF array mapped into this process, as a slice of atomic words: all of this tracker's `unsafe` that touches memory.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::AsFd as _,
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array. Dropping it unmaps it; the kernel's programs go on using it.
pub(super) struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping stays until drop and all access to it is through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `words` words of 8 bytes of `map`, which has to be a memory-mappable array.
    pub(super) fn of(map: &MapData, words: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice. The kernel refuses a length beyond the array
        // (kernel/bpf/arraymap.c, `array_map_mmap`), so every word is inside the mapping.
        let base = unsafe {
            mmap(ptr::null_mut(), mapped_bytes(words), protection, MapFlags::SHARED, map.fd().as_fd(), 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Mapping { base, words })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is page-aligned and the mapping holds `words` words, for as long as `self` lives. The kernel and
        // other processes change them, which `AtomicU64` allows.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` is the mapping made in `of`, of this length, and nothing borrowed from it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), mapped_bytes(self.words)) };
        debug_assert!(unmapped.is_ok(), "unmapping a mapping of our own: {unmapped:?}");
    }
}

/// What the array has, rounded up to whole pages as the kernel does.
fn mapped_bytes(words: usize) -> usize {
    (words * 8).next_multiple_of(rustix::param::page_size())
}
