//! One bitmap of a disk, shared with the kernel: an array of words that BPF programs set bits in and that is mapped here.
//!
//! After the words of blocks comes a summary, one bit for each group of 64 words (16 MiB of disk), so that looking for
//! marks costs what was marked and not what the disk is large: `bpf/tracker.bpf.c` sets a block's bit first and its
//! group's bit second, the reader here clears the group's bit first and the blocks' bits second. A reader that is killed in
//! between leaves marks without a summary, therefore [`Bitmap::rebuild_summary`] when a bitmap is taken up again.
//!
//! Deliberately not here: what a bit means, and which bitmap is emptied before which.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aya::maps::MapData;
use mobility_format::{BlockSet, ByteCount};

use super::mapping::Mapping;

const GROUP_WORDS: usize = 64;

/// How a bitmap of a disk is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) words: u32,
    summary_words: u32,
}

impl Geometry {
    /// The layout for a disk of `size`; `None` where it has no block, or more words than a BPF array can have (1 PiB).
    pub(super) fn of(size: ByteCount) -> Option<Geometry> {
        let blocks = size.blocks();
        let words = blocks.div_ceil(64);
        let summary_words = words.div_ceil(GROUP_WORDS as u64 * 64);
        let entries = u32::try_from(words + summary_words).ok()?;
        let summary_words = u32::try_from(summary_words).ok()?;
        (blocks > 0).then_some(Geometry { blocks, words: entries - summary_words, summary_words })
    }

    /// Entries of the array.
    pub(super) fn entries(self) -> u32 {
        self.words + self.summary_words
    }
}

/// A bitmap, mapped. Dropping it unmaps it; the kernel's programs go on marking.
pub(super) struct Bitmap {
    mapping: Mapping,
    geometry: Geometry,
}

impl Bitmap {
    /// Maps `map`, which has to be a memory-mappable array of 8-byte values with `geometry.entries()` entries.
    pub(super) fn map(map: &MapData, geometry: Geometry) -> io::Result<Bitmap> {
        Ok(Bitmap { mapping: Mapping::of(map, geometry.entries() as usize)?, geometry })
    }

    fn entries(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    fn words(&self) -> &[AtomicU64] {
        &self.entries()[..self.geometry.words as usize]
    }

    fn summary(&self) -> &[AtomicU64] {
        &self.entries()[self.geometry.words as usize..]
    }

    /// The words of the groups whose bits are set in word `index` of the summary.
    fn groups(&self, index: usize, mut bits: u64) -> impl Iterator<Item = (usize, &AtomicU64)> {
        std::iter::from_fn(move || {
            (bits != 0).then(|| {
                let group = index * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                group * GROUP_WORDS
            })
        })
        .flat_map(move |first| {
            let last = (first + GROUP_WORDS).min(self.words().len());
            self.words()[first.min(last)..last].iter().enumerate().map(move |(i, word)| (first + i, word))
        })
    }

    /// Moves all bits out: each into `to` first, then cleared here, so that a kill in between loses none.
    pub(super) fn take(&self, to: &Bitmap) -> BlockSet {
        let mut taken = BlockSet::new();
        for (index, summary) in self.summary().iter().enumerate() {
            let groups = if summary.load(SeqCst) == 0 { 0 } else { summary.swap(0, SeqCst) };
            for (i, word) in self.groups(index, groups) {
                let bits = word.load(SeqCst);
                if bits != 0 {
                    to.set_word(i, bits);
                    word.fetch_and(!bits, SeqCst);
                    taken.insert_word(i as u64, bits);
                }
            }
        }
        taken
    }

    /// All bits, left as they are.
    pub(super) fn peek(&self) -> BlockSet {
        let mut set = BlockSet::new();
        for (index, summary) in self.summary().iter().enumerate() {
            for (i, word) in self.groups(index, summary.load(SeqCst)) {
                set.insert_word(i as u64, word.load(SeqCst));
            }
        }
        set
    }

    /// Which blocks of `of` are marked; costs what `of` is large.
    pub(super) fn within(&self, of: &BlockSet) -> BlockSet {
        let mut set = BlockSet::new();
        for (index, bits) in of.words() {
            if let Some(word) = usize::try_from(index).ok().and_then(|i| self.words().get(i)) {
                set.insert_word(index, word.load(SeqCst) & bits);
            }
        }
        set
    }

    /// Sets the bits of `set`; blocks beyond the disk's end are left out.
    pub(super) fn insert(&self, set: &BlockSet) {
        for (index, bits) in set.words() {
            if let Ok(index) = usize::try_from(index) {
                self.set_word(index, bits);
            }
        }
    }

    fn set_word(&self, index: usize, bits: u64) {
        let bits = bits & self.valid_bits(index);
        if bits != 0
            && let Some(word) = self.words().get(index)
        {
            word.fetch_or(bits, SeqCst);
            self.set_summary(index);
        }
    }

    fn set_summary(&self, word: usize) {
        let group = word / GROUP_WORDS;
        self.summary()[group / 64].fetch_or(1 << (group % 64), SeqCst);
    }

    /// The bits of word `index` that stand for a block of the disk.
    fn valid_bits(&self, index: usize) -> u64 {
        match self.geometry.blocks.saturating_sub(index as u64 * 64) {
            0 => 0,
            count @ 1..64 => (1 << count) - 1,
            _ => u64::MAX,
        }
    }

    /// Clears all bits but those of `kept`.
    pub(super) fn retain(&self, kept: &BlockSet) {
        let found = self.peek();
        for (index, bits) in found.difference(kept).words() {
            if let Some(word) = usize::try_from(index).ok().and_then(|i| self.words().get(i)) {
                word.fetch_and(!bits, SeqCst);
            }
        }
        // A group that is empty now costs every later look; one with something left gets its bit back.
        for summary in self.summary() {
            summary.store(0, SeqCst);
        }
        self.insert(&found.intersection(kept));
    }

    /// Sets the summary's bit of every group that has a mark: what an interrupted reader may have left out.
    pub(super) fn rebuild_summary(&self) {
        for (index, word) in self.words().iter().enumerate() {
            if word.load(SeqCst) != 0 {
                self.set_summary(index);
            }
        }
    }
}
