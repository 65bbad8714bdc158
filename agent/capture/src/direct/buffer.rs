//! Memory that direct reads can land in.
//!
//! Deliberately not here: a pool of such buffers; how much memory reading may take is the daemon's to decide.

use std::{fmt, ops::Deref};

use mobility_format::{BLOCK_SIZE, WINDOW_SIZE};

/// A buffer whose content starts at a multiple of 4096 in memory, as `O_DIRECT` asks. It is made once, with a capacity
/// that never changes, and used again and again.
pub struct AlignedBuf {
    /// Longer than the capacity by what it takes to start at an aligned address.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer for up to `capacity` bytes, rounded up to whole blocks.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(BLOCK_SIZE);
        let memory = vec![0; capacity + BLOCK_SIZE - 1];
        // The vector never grows, so its content never moves.
        let start = memory.as_ptr().align_offset(BLOCK_SIZE);
        AlignedBuf { memory, start, capacity, len: 0 }
    }

    /// An empty buffer for one window.
    #[must_use]
    pub fn for_window() -> Self {
        Self::new(WINDOW_SIZE)
    }

    /// How many bytes it can take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts `bytes` at `at`, in place of what is there; the content becomes longer if it has to. What would be beyond the
    /// capacity is left out.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let end = at.saturating_add(bytes.len()).min(self.capacity);
        if at < end {
            self.memory[self.start + at..self.start + end].copy_from_slice(&bytes[..end - at]);
            self.len = self.len.max(end);
        }
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The first `len` bytes, whatever they hold, to be read into.
    pub(super) fn spare(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..len]
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
