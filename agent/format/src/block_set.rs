//! A set of blocks of one disk, as bitmaps of 4096 blocks made where a block is a member.
//!
//! Memory follows what is in the set: 512 bytes for each touched run of 16 MiB, a few words for a run that is full, so
//! the set of all blocks of a 1 TiB disk costs 5 MiB and a few scattered blocks cost next to nothing.
//! Deliberately not here: atomics. What the kernel shares with us is `mobility-capture`'s; this is its private copy.

use std::{collections::BTreeMap, fmt};

use crate::units::{BlockIndex, BlockRange, ByteCount};

const CHUNK_BLOCKS: u64 = 4096;
const WORDS: usize = (CHUNK_BLOCKS / 64) as usize;

#[derive(Clone, PartialEq, Eq)]
enum Chunk {
    Full,
    Bits(Box<[u64; WORDS]>),
}

impl Chunk {
    fn word(&self, index: usize) -> u64 {
        match self {
            Chunk::Full => u64::MAX,
            Chunk::Bits(words) => words[index],
        }
    }

    fn len(&self) -> u64 {
        match self {
            Chunk::Full => CHUNK_BLOCKS,
            Chunk::Bits(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    fn words_mut(&mut self) -> &mut [u64; WORDS] {
        if let Chunk::Full = self {
            *self = Chunk::Bits(Box::new([u64::MAX; WORDS]));
        }
        match self {
            Chunk::Bits(words) => words,
            Chunk::Full => unreachable!("replaced above"),
        }
    }
}

/// A set of blocks. Iterates in order, as the longest runs that it holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    chunks: BTreeMap<u64, Chunk>,
}

impl BlockSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        BlockSet::default()
    }

    /// All blocks of `range`.
    #[must_use]
    pub fn of(range: BlockRange) -> Self {
        let mut set = BlockSet::new();
        set.insert_range(range);
        set
    }

    /// Whether there is no block in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many blocks there are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunks.values().map(Chunk::len).sum()
    }

    /// How many bytes of the disk the set covers.
    #[must_use]
    pub fn bytes(&self) -> ByteCount {
        ByteCount(self.len() * crate::units::BLOCK_SIZE as u64)
    }

    /// Whether `block` is in the set.
    #[must_use]
    pub fn contains(&self, block: BlockIndex) -> bool {
        let (chunk, bit) = (block.0 / CHUNK_BLOCKS, block.0 % CHUNK_BLOCKS);
        self.chunks.get(&chunk).is_some_and(|c| c.word((bit / 64) as usize) >> (bit % 64) & 1 == 1)
    }

    /// Adds one block.
    pub fn insert(&mut self, block: BlockIndex) {
        self.insert_range(BlockRange { start: block, count: 1 });
    }

    /// Adds all blocks of `range`.
    pub fn insert_range(&mut self, range: BlockRange) {
        each_word(range, |chunk, word, mask| self.insert_word_at(chunk, word, mask));
    }

    /// Adds the blocks `64 * word_index ..` whose bits are set in `bits`: the shape in which a bitmap is read.
    pub fn insert_word(&mut self, word_index: u64, bits: u64) {
        if bits != 0 {
            self.insert_word_at(word_index / WORDS as u64, (word_index % WORDS as u64) as usize, bits);
        }
    }

    fn insert_word_at(&mut self, chunk: u64, word: usize, bits: u64) {
        let entry = self.chunks.entry(chunk).or_insert_with(|| Chunk::Bits(Box::new([0; WORDS])));
        if let Chunk::Bits(words) = entry {
            words[word] |= bits;
            // From the end, since most sets are filled from the start: the last word answers at once.
            if words[word] == u64::MAX && words.iter().rev().all(|&w| w == u64::MAX) {
                *entry = Chunk::Full;
            }
        }
    }

    /// Removes all blocks of `range`.
    pub fn remove_range(&mut self, range: BlockRange) {
        each_word(range, |chunk, word, mask| {
            if let Some(bits) = self.chunks.get_mut(&chunk) {
                bits.words_mut()[word] &= !mask;
                if bits.len() == 0 {
                    self.chunks.remove(&chunk);
                }
            }
        });
    }

    /// Adds all blocks of `other`.
    pub fn union_with(&mut self, other: &BlockSet) {
        for (&index, chunk) in &other.chunks {
            match self.chunks.get_mut(&index) {
                None => {
                    self.chunks.insert(index, chunk.clone());
                }
                Some(mine) => {
                    for (word, bits) in mine.words_mut().iter_mut().enumerate() {
                        *bits |= chunk.word(word);
                    }
                    if mine.len() == CHUNK_BLOCKS {
                        *mine = Chunk::Full;
                    }
                }
            }
        }
    }

    /// The blocks that are in either.
    #[must_use]
    pub fn union(&self, other: &BlockSet) -> BlockSet {
        let mut both = self.clone();
        both.union_with(other);
        both
    }

    /// Removes all blocks of `other`.
    pub fn subtract(&mut self, other: &BlockSet) {
        self.combine(other, |mine, theirs| mine & !theirs, true);
    }

    /// Keeps only the blocks that are in `other` too.
    pub fn intersect_with(&mut self, other: &BlockSet) {
        self.combine(other, |mine, theirs| mine & theirs, false);
    }

    fn combine(&mut self, other: &BlockSet, op: impl Fn(u64, u64) -> u64, keep_unmet: bool) {
        self.chunks.retain(|index, chunk| {
            let Some(theirs) = other.chunks.get(index) else { return keep_unmet };
            for (word, bits) in chunk.words_mut().iter_mut().enumerate() {
                *bits = op(*bits, theirs.word(word));
            }
            let len = chunk.len();
            if len == CHUNK_BLOCKS {
                *chunk = Chunk::Full;
            }
            len > 0
        });
    }

    /// The blocks that are in both.
    #[must_use]
    pub fn intersection(&self, other: &BlockSet) -> BlockSet {
        let (small, large) =
            if self.chunks.len() <= other.chunks.len() { (self, other) } else { (other, self) };
        let mut out = small.clone();
        out.intersect_with(large);
        out
    }

    /// The blocks that are in this one only.
    #[must_use]
    pub fn difference(&self, other: &BlockSet) -> BlockSet {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    /// Whether any block is in both.
    #[must_use]
    pub fn intersects(&self, other: &BlockSet) -> bool {
        let (small, large) =
            if self.chunks.len() <= other.chunks.len() { (self, other) } else { (other, self) };
        small.chunks.iter().any(|(index, chunk)| {
            large
                .chunks
                .get(index)
                .is_some_and(|theirs| (0..WORDS).any(|w| chunk.word(w) & theirs.word(w) != 0))
        })
    }

    /// The runs of adjacent blocks, in order, each as long as it can be.
    pub fn runs(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let mut words = self
            .chunks
            .iter()
            .flat_map(|(&index, chunk)| {
                (0..WORDS).map(move |w| (index * CHUNK_BLOCKS + 64 * w as u64, chunk.word(w)))
            })
            .flat_map(|(base, bits)| WordRuns { base, bits })
            .peekable();
        std::iter::from_fn(move || {
            let mut run = words.next()?;
            while let Some(next) = words.next_if(|next| next.start == run.end()) {
                run.count += next.count;
            }
            Some(run)
        })
    }

    /// The set's words that are not 0, in order: each covers the blocks `64 * index ..`.
    pub fn words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.chunks.iter().flat_map(|(&index, chunk)| {
            (0..WORDS)
                .map(move |w| (index * WORDS as u64 + w as u64, chunk.word(w)))
                .filter(|&(_, bits)| bits != 0)
        })
    }

    /// Splits off the first blocks in order, `count` of them or all there are.
    #[must_use]
    pub fn take_first(&mut self, count: u64) -> BlockSet {
        let mut taken = BlockSet::new();
        let mut left = count;
        for run in self.runs() {
            if left == 0 {
                break;
            }
            let part = BlockRange { start: run.start, count: run.count.min(left) };
            taken.insert_range(part);
            left -= part.count;
        }
        self.subtract(&taken);
        taken
    }
}

/// Calls `f(chunk, word, mask)` for every word that `range` meets.
fn each_word(range: BlockRange, mut f: impl FnMut(u64, usize, u64)) {
    let (mut block, end) = (range.start.0, range.end().0);
    while block < end {
        let bit = block % 64;
        let count = (64 - bit).min(end - block);
        let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << bit };
        f(block / CHUNK_BLOCKS, (block % CHUNK_BLOCKS / 64) as usize, mask);
        block += count;
    }
}

struct WordRuns {
    base: u64,
    bits: u64,
}

impl Iterator for WordRuns {
    type Item = BlockRange;

    fn next(&mut self) -> Option<BlockRange> {
        if self.bits == 0 {
            return None;
        }
        let start = self.bits.trailing_zeros();
        let count = (self.bits >> start).trailing_ones();
        let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << start };
        self.bits &= !mask;
        Some(BlockRange::new(self.base + u64::from(start), u64::from(count)))
    }
}

impl FromIterator<BlockIndex> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockIndex>>(blocks: I) -> Self {
        let mut set = BlockSet::new();
        blocks.into_iter().for_each(|block| set.insert(block));
        set
    }
}

impl FromIterator<BlockRange> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockRange>>(ranges: I) -> Self {
        let mut set = BlockSet::new();
        ranges.into_iter().for_each(|range| set.insert_range(range));
        set
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs().map(|run| run.start.0..run.end().0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model(ranges: &[(u64, u64)]) -> (BlockSet, BTreeSet<u64>) {
        let set = ranges.iter().map(|&(start, count)| BlockRange::new(start, count)).collect();
        (set, ranges.iter().flat_map(|&(start, count)| start..start + count).collect())
    }

    fn members(set: &BlockSet) -> BTreeSet<u64> {
        set.runs().flat_map(|run| run.start.0..run.end().0).collect()
    }

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..20_000, prop_oneof![0u64..100, 3_000u64..9_000]), 0..8)
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(a in ranges(), b in ranges(), take in 0u64..9_000) {
            let ((a, am), (b, bm)) = (model(&a), model(&b));
            prop_assert_eq!(members(&a), am.clone());
            prop_assert_eq!(a.len(), am.len() as u64);
            prop_assert_eq!(members(&a.intersection(&b)), &am & &bm);
            prop_assert_eq!(members(&a.difference(&b)), &am - &bm);
            prop_assert_eq!(a.intersects(&b), !am.is_disjoint(&bm));
            let mut union = a.clone();
            union.union_with(&b);
            prop_assert_eq!(members(&union), &am | &bm);
            let mut rest = a.clone();
            let taken = rest.take_first(take);
            prop_assert_eq!(members(&taken), am.iter().copied().take(take as usize).collect::<BTreeSet<_>>());
            prop_assert_eq!(members(&rest), am.iter().copied().skip(take as usize).collect::<BTreeSet<_>>());
            let by_words = a.words().fold(BlockSet::new(), |mut set, (index, bits)| { set.insert_word(index, bits); set });
            prop_assert_eq!(by_words, a);
        }

        /// Equality compares chunks, and a full one costs a few words instead of 512 bytes: neither may depend on the
        /// order in which a chunk was filled.
        #[test]
        fn however_a_set_was_filled_it_is_the_same(a in ranges(), full in 0u64..4, at in 0u64..4_096) {
            let whole = BlockRange::new(full * CHUNK_BLOCKS, CHUNK_BLOCKS);
            let (head, tail) =
                (BlockRange::new(whole.start.0, at), BlockRange::new(whole.start.0 + at, CHUNK_BLOCKS - at));
            let (rest, _) = model(&a);
            let filled = |parts: &[BlockRange]| {
                let mut set = rest.clone();
                parts.iter().for_each(|&part| set.insert_range(part));
                set
            };
            prop_assert_eq!(&filled(&[tail, head]), &filled(&[whole]));
            prop_assert_eq!(&filled(&[head, tail]), &filled(&[whole]));
        }

        #[test]
        fn runs_are_ordered_and_never_touch(a in ranges()) {
            let (set, _) = model(&a);
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end() < w[1].start));
        }
    }
}
