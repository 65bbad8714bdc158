//! The digest table's bytes: where each part of the file is, and how damage to it is noticed.
//!
//! ```text
//! 0        header, 4096 bytes: magic, version, disk, size, head, root, checksum of all of these
//! 4096     sums: 8 bytes for each window's page, filled up with zeros to a multiple of 4096
//! ...      pages: 4096 bytes for each window, a digest of 16 bytes for each of its 256 blocks
//! ```
//!
//! The header's root is the digest of all sums, and each sum that of its page and the page's number, so that no page can
//! be damaged, lost, swapped or left over from an earlier table without being noticed. A digest is stored XORed with the
//! digest of the zero block, and the sum of a page of zeros is zero, so that the table of an empty disk is a sparse file.
//! All numbers are little-endian. Deliberately not here: when any of this is read or written.

use std::{array, fs::File, io, os::unix::fs::FileExt};

use mobility_format::{BlockDigest, ByteCount, Digest, DiskId, WINDOW_SIZE};

use super::{Expected, WindowDigests};

const MAGIC: &[u8; 8] = b"MOBDGT01";
const VERSION: u16 = 1;
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const PAGE_LEN: usize = 4096;
pub(super) const SUM_LEN: usize = 8;
const CHECKSUM_AT: usize = HEADER_LEN - Digest::LEN;

pub(super) type Page = [u8; PAGE_LEN];

/// How a table for a disk of some size is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    windows: u64,
}

impl Layout {
    pub(super) fn for_disk(size: ByteCount) -> Layout {
        Layout { windows: size.0.div_ceil(WINDOW_SIZE as u64) }
    }

    pub(super) fn windows(self) -> u64 {
        self.windows
    }

    pub(super) fn sums_len(self) -> u64 {
        (self.windows * SUM_LEN as u64).next_multiple_of(PAGE_LEN as u64)
    }

    pub(super) fn sums_at() -> u64 {
        HEADER_LEN as u64
    }

    pub(super) fn sum_at(window: u64) -> u64 {
        HEADER_LEN as u64 + window * SUM_LEN as u64
    }

    pub(super) fn page_at(self, window: u64) -> u64 {
        HEADER_LEN as u64 + self.sums_len() + window * PAGE_LEN as u64
    }

    pub(super) fn file_len(self) -> u64 {
        self.page_at(self.windows)
    }

    /// The digest of all sums.
    pub(super) fn root(self, file: &File) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new_derive_key("mobility-agent 2026 digest table root");
        let mut buf = vec![0; 16 * PAGE_LEN];
        let (mut at, end) = (Self::sums_at(), Self::sums_at() + self.sums_len());
        while at < end {
            let part = &mut buf[..(end - at).min(16 * PAGE_LEN as u64) as usize];
            file.read_exact_at(part, at)?;
            hasher.update(part);
            at += part.len() as u64;
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// Reads the page of `window`; `None` if it is not what its sum says.
    pub(super) fn read_page(self, file: &File, window: u64) -> io::Result<Option<Page>> {
        let (mut page, mut sum) = ([0; PAGE_LEN], [0; SUM_LEN]);
        file.read_exact_at(&mut page, self.page_at(window))?;
        file.read_exact_at(&mut sum, Self::sum_at(window))?;
        Ok((sum_of(window, &page) == sum).then_some(page))
    }

    pub(super) fn write_page(self, file: &File, window: u64, page: &Page) -> io::Result<()> {
        file.write_all_at(page, self.page_at(window))?;
        file.write_all_at(&sum_of(window, page), Self::sum_at(window))
    }
}

fn sum_of(window: u64, page: &Page) -> [u8; SUM_LEN] {
    if page == &[0; PAGE_LEN] {
        return [0; SUM_LEN];
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&window.to_le_bytes()).update(page);
    let mut sum = [0; SUM_LEN];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_LEN]);
    // Zero means that the page is zeros.
    if sum == [0; SUM_LEN] { [1; SUM_LEN] } else { sum }
}

/// A page of which nothing is known: no block has these digests.
pub(super) const UNKNOWN_PAGE: Page = [0xff; PAGE_LEN];

/// Whether `digest` is the mark for "not known" rather than a block's digest.
pub(super) fn is_unknown(digest: BlockDigest) -> bool {
    stored(digest) == [0xff; BlockDigest::LEN]
}

/// A digest as the table holds it.
pub(super) fn stored(digest: BlockDigest) -> [u8; BlockDigest::LEN] {
    array::from_fn(|i| digest.0[i] ^ BlockDigest::ZERO_BLOCK.0[i])
}

pub(super) fn digests_in(page: &Page) -> Expected {
    if page == &[0; PAGE_LEN] {
        return Expected::Zero;
    }
    let mut digests: Box<WindowDigests> = Box::new([BlockDigest::ZERO_BLOCK; _]);
    for (digest, entry) in digests.iter_mut().zip(page.as_chunks::<{ BlockDigest::LEN }>().0) {
        // XOR undoes itself.
        *digest = BlockDigest(stored(BlockDigest(*entry)));
    }
    Expected::Digests(digests)
}

/// What a table says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) disk: DiskId,
    pub(super) size: ByteCount,
    /// The digest of the commit whose content the table describes.
    pub(super) head: Digest,
    pub(super) root: Digest,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.disk.0);
        bytes[32..40].copy_from_slice(&self.size.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.size.blocks().to_le_bytes());
        bytes[48..80].copy_from_slice(&self.head.0);
        bytes[80..112].copy_from_slice(&self.root.0);
        let checksum = Digest::of(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.0);
        bytes
    }

    /// What is wrong with the header is told in words, for a log.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Header, &'static str> {
        if bytes[..8].iter().all(|&byte| byte == 0) {
            return Err("it was never finished");
        }
        if &bytes[..8] != MAGIC {
            return Err("its first bytes are not those of a digest table");
        }
        if bytes[CHECKSUM_AT..] != Digest::of(&bytes[..CHECKSUM_AT]).0 {
            return Err("its header does not match the header's checksum");
        }
        if bytes[8..10] != VERSION.to_le_bytes() {
            return Err("it was written by another version of the agent");
        }
        let header = Header {
            disk: DiskId(array::from_fn(|i| bytes[16 + i])),
            size: ByteCount(u64::from_le_bytes(array::from_fn(|i| bytes[32 + i]))),
            head: Digest(array::from_fn(|i| bytes[48 + i])),
            root: Digest(array::from_fn(|i| bytes[80 + i])),
        };
        if bytes[40..48] != header.size.blocks().to_le_bytes() || header.size.0 > i64::MAX as u64 {
            return Err("its header contradicts itself about the disk's size");
        }
        Ok(header)
    }
}
