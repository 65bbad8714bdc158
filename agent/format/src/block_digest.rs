//! The short digest by which a block is compared with what was stored of it before.
//!
//! Deliberately not here: the digests that prove stored content, which are whole (`Digest`). This one only decides
//! whether a block has to be sent again, so it is cut to half of BLAKE3: a digest table then takes 4 GiB for a disk of
//! 1 TiB instead of 8, and a chance collision stays out of reach (2^64 different blocks for an even chance of one).

use std::fmt;

use crate::units::BLOCK_SIZE;

const ZEROS: &[u8] = &[0; BLOCK_SIZE];

/// The first 128 bits of the BLAKE3 digest of one whole block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockDigest(pub [u8; 16]);

impl BlockDigest {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// The digest of a block of zeros.
    pub const ZERO_BLOCK: BlockDigest = BlockDigest([
        0xb6, 0xfb, 0x73, 0xfc, 0x46, 0x93, 0x8c, 0x98, 0x1e, 0x2b, 0x0b, 0x4b, 0x1e, 0xf2, 0x82, 0xad,
    ]);

    /// The digest of `block`: the whole of it, [`BLOCK_SIZE`] bytes; a partial block at a disk's end is filled up with
    /// zeros first.
    #[must_use]
    pub fn of(block: &[u8]) -> BlockDigest {
        debug_assert_eq!(block.len(), BLOCK_SIZE, "a block digest covers a whole block");
        // Comparing is several times cheaper than hashing, and most disks are mostly empty.
        if block == ZEROS {
            return Self::ZERO_BLOCK;
        }
        Self::hash(block)
    }

    fn hash(block: &[u8]) -> BlockDigest {
        let mut short = [0; Self::LEN];
        short.copy_from_slice(&blake3::hash(block).as_bytes()[..Self::LEN]);
        BlockDigest(short)
    }
}

impl fmt::Display for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_for_zeros_gives_what_hashing_gives() {
        assert_eq!(BlockDigest::of(&[0; BLOCK_SIZE]), BlockDigest::hash(&[0; BLOCK_SIZE]));
        assert_eq!(BlockDigest::ZERO_BLOCK, BlockDigest::hash(&[0; BLOCK_SIZE]));
    }

    #[test]
    fn is_the_beginning_of_the_whole_digest() {
        let block = [7; BLOCK_SIZE];
        assert!(crate::Digest::of(&block).0.starts_with(&BlockDigest::of(&block).0));
    }
}
