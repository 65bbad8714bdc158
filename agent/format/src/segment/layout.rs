//! The fixed-size parts of a segment as bytes: header, index entry, footer. All numbers are little-endian.
//!
//! Parsing checks everything that can be checked without the rest of the segment. Reserved bytes must be 0: what is not
//! understood is refused, never skipped.

use super::SegmentError;
use crate::{BlockIndex, BlockRange, Digest, DiskId, Epoch, Generation, MachineId, SessionId};

/// The version that this program writes, and the highest it reads.
pub const SEGMENT_VERSION: u16 = 1;
/// Bytes in the header.
pub const HEADER_LEN: usize = 128;
/// Bytes in an index entry.
pub const ENTRY_LEN: usize = 64;
/// Bytes in the footer.
pub const FOOTER_LEN: usize = 128;
/// The most extents a segment may hold: with 4 KiB each that is 16 GiB of disk, far more than a writer packs, and it
/// bounds what a hostile footer can make a reader read.
pub const MAX_ENTRIES: u64 = 1 << 22;
/// The most blocks a disk may have: 16 EiB, the limit of byte offsets.
pub const MAX_DISK_BLOCKS: u64 = 1 << 52;

const HEADER_MAGIC: [u8; 8] = *b"\x89MOBSEG\n";
const FOOTER_MAGIC: [u8; 8] = *b"MOBSEG\n\x89";
const HEADER_CHECK_AT: usize = 120;
const FOOTER_DIGEST_AT: usize = 56;

/// Which segment this is. A reader that asks for one by key compares all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The machine the disk belongs to.
    pub machine: MachineId,
    /// The disk.
    pub disk: DiskId,
    /// The generation in which the agent wrote it; of a merged segment, that of its newest input.
    pub generation: Generation,
    /// The first epoch whose changes it holds.
    pub first_epoch: Epoch,
    /// The last epoch whose changes it holds: the same as the first, unless it was merged from several.
    pub last_epoch: Epoch,
    /// The agent's session that wrote it; zero in a merged segment.
    pub session: SessionId,
    /// Its number among the segments of this disk and epoch. Where two hold the same block, the higher part is newer.
    pub part: u32,
    /// The digest of the segment of this disk that was written before, [`Digest::NONE`] for the first.
    pub previous: Digest,
}

impl SegmentHeader {
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(&HEADER_MAGIC);
        out[8..10].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(HEADER_LEN as u16).to_le_bytes());
        // 12: payload encryption, 0 = none; 13..16 reserved.
        out[16..32].copy_from_slice(&self.machine.0);
        out[32..48].copy_from_slice(&self.disk.0);
        out[48..56].copy_from_slice(&self.generation.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.first_epoch.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.last_epoch.0.to_le_bytes());
        out[72..80].copy_from_slice(&self.session.0);
        out[80..84].copy_from_slice(&self.part.to_le_bytes());
        // 84..88 reserved.
        out[88..120].copy_from_slice(&self.previous.0);
        let check = Digest::of(&out[..HEADER_CHECK_AT]);
        out[HEADER_CHECK_AT..].copy_from_slice(&check.0[..8]);
        out
    }

    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, SegmentError> {
        if bytes[..8] != HEADER_MAGIC {
            return Err(SegmentError::NotASegment { region: "header" });
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        if version != SEGMENT_VERSION {
            return Err(SegmentError::Version { found: version });
        }
        if bytes[HEADER_CHECK_AT..] != Digest::of(&bytes[..HEADER_CHECK_AT]).0[..8] {
            return Err(SegmentError::Digest { region: "header", start: 0, end: HEADER_LEN as u64 });
        }
        if bytes[12] != 0 {
            return Err(SegmentError::Encryption(bytes[12]));
        }
        let header = SegmentHeader {
            machine: MachineId(array(bytes, 16)),
            disk: DiskId(array(bytes, 32)),
            generation: Generation(u64::from_le_bytes(array(bytes, 48))),
            first_epoch: Epoch(u64::from_le_bytes(array(bytes, 56))),
            last_epoch: Epoch(u64::from_le_bytes(array(bytes, 64))),
            session: SessionId(array(bytes, 72)),
            part: u32::from_le_bytes(array(bytes, 80)),
            previous: Digest(array(bytes, 88)),
        };
        let malformed = |offset, problem| Err(SegmentError::Malformed { region: "header", offset, problem });
        if u16::from_le_bytes(array(bytes, 10)) != HEADER_LEN as u16 {
            return malformed(10, "the header's length is not that of its version");
        }
        if bytes[13..16] != [0; 3] || bytes[84..88] != [0; 4] {
            return malformed(13, "a reserved byte is not 0");
        }
        if header.first_epoch.0 == 0 || header.first_epoch > header.last_epoch {
            return malformed(56, "the epochs are not in order");
        }
        Ok(header)
    }
}

/// How an extent is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All its blocks are zero; nothing is stored.
    Zero,
    /// As it is.
    Stored,
    /// As one zstd frame (RFC 8878).
    Zstd,
}

/// One extent in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its first block.
    pub start: BlockIndex,
    /// How many blocks. At most [`WINDOW_BLOCKS`](crate::WINDOW_BLOCKS) unless the kind is [`Kind::Zero`].
    pub count: u32,
    /// How it is stored.
    pub kind: Kind,
    /// Where, in bytes from the start of the segment; 0 for [`Kind::Zero`].
    pub offset: u64,
    /// In how many bytes; 0 for [`Kind::Zero`].
    pub length: u32,
    /// The digest of its content before compression; [`Digest::NONE`] for [`Kind::Zero`].
    pub digest: Digest,
}

impl IndexEntry {
    /// The blocks it covers.
    #[must_use]
    pub fn range(&self) -> BlockRange {
        BlockRange { start: self.start, count: u64::from(self.count) }
    }

    pub(super) fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[0..8].copy_from_slice(&self.start.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.count.to_le_bytes());
        out[12] = match self.kind {
            Kind::Zero => 0,
            Kind::Stored => 1,
            Kind::Zstd => 2,
        };
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..28].copy_from_slice(&self.length.to_le_bytes());
        out[32..64].copy_from_slice(&self.digest.0);
        out
    }

    /// Parses an entry that lies at byte `at` of a segment whose index starts at `index_offset`.
    pub(super) fn parse(bytes: &[u8; ENTRY_LEN], at: u64, index_offset: u64) -> Result<Self, SegmentError> {
        let malformed = |problem| Err(SegmentError::Malformed { region: "index entry", offset: at, problem });
        let kind = match bytes[12] {
            0 => Kind::Zero,
            1 => Kind::Stored,
            2 => Kind::Zstd,
            _ => return malformed("unknown kind of extent"),
        };
        let entry = IndexEntry {
            start: BlockIndex(u64::from_le_bytes(array(bytes, 0))),
            count: u32::from_le_bytes(array(bytes, 8)),
            kind,
            offset: u64::from_le_bytes(array(bytes, 16)),
            length: u32::from_le_bytes(array(bytes, 24)),
            digest: Digest(array(bytes, 32)),
        };
        if bytes[13..16] != [0; 3] || bytes[28..32] != [0; 4] {
            return malformed("a reserved byte is not 0");
        }
        if entry.count == 0 || entry.range().end().0 > MAX_DISK_BLOCKS {
            return malformed("the range of blocks is empty or beyond any disk");
        }
        if kind == Kind::Zero {
            let empty = entry.offset == 0 && entry.length == 0 && entry.digest == Digest::NONE;
            return if empty { Ok(entry) } else { malformed("a zero extent has content") };
        }
        let last = BlockIndex(entry.range().end().0 - 1);
        if entry.start.window_start() != last.window_start() {
            return malformed("the extent crosses a window's border");
        }
        let plain = entry.range().bytes().0;
        let fits = match kind {
            Kind::Stored => u64::from(entry.length) == plain,
            _ => entry.length > 0 && u64::from(entry.length) < plain,
        };
        let inside = entry.offset >= HEADER_LEN as u64
            && entry.offset.checked_add(u64::from(entry.length)).is_some_and(|end| end <= index_offset);
        match (fits, inside) {
            (true, true) => Ok(entry),
            (false, _) => malformed("the stored length does not fit the kind"),
            (_, false) => malformed("the extent lies outside of the payload"),
        }
    }

    /// Entries for blocks that are all zero, as few as can be.
    pub fn zeros(range: BlockRange) -> impl Iterator<Item = IndexEntry> {
        let (mut at, end) = (range.start, range.end());
        std::iter::from_fn(move || {
            let count = u32::try_from(end.0 - at.0).unwrap_or(u32::MAX);
            let start = at;
            at = BlockIndex(at.0 + u64::from(count));
            let (kind, digest) = (Kind::Zero, Digest::NONE);
            (count > 0).then_some(IndexEntry { start, count, kind, offset: 0, length: 0, digest })
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index_offset: u64,
    pub(super) entries: u64,
    pub(super) length: u64,
    pub(super) payload: Digest,
    pub(super) digest: Digest,
}

impl Footer {
    /// The bytes that the segment's digest covers.
    pub(super) fn covered(&self) -> [u8; FOOTER_DIGEST_AT] {
        let mut out = [0; FOOTER_DIGEST_AT];
        out[0..8].copy_from_slice(&self.index_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.entries.to_le_bytes());
        out[16..24].copy_from_slice(&self.length.to_le_bytes());
        out[24..56].copy_from_slice(&self.payload.0);
        out
    }

    pub(super) fn to_bytes(self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        out[..FOOTER_DIGEST_AT].copy_from_slice(&self.covered());
        out[FOOTER_DIGEST_AT..88].copy_from_slice(&self.digest.0);
        out[120..].copy_from_slice(&FOOTER_MAGIC);
        out
    }

    /// Parses the last bytes of a segment of `length` bytes.
    pub(super) fn parse(bytes: &[u8; FOOTER_LEN], length: u64) -> Result<Self, SegmentError> {
        if bytes[120..] != FOOTER_MAGIC {
            return Err(SegmentError::NotASegment { region: "footer" });
        }
        let footer = Footer {
            index_offset: u64::from_le_bytes(array(bytes, 0)),
            entries: u64::from_le_bytes(array(bytes, 8)),
            length: u64::from_le_bytes(array(bytes, 16)),
            payload: Digest(array(bytes, 24)),
            digest: Digest(array(bytes, FOOTER_DIGEST_AT)),
        };
        if footer.length != length {
            return Err(SegmentError::Truncated { length, expected: footer.length });
        }
        let at = length - FOOTER_LEN as u64;
        let malformed = |offset, problem| Err(SegmentError::Malformed { region: "footer", offset, problem });
        if bytes[88..120] != [0; 32] {
            return malformed(at + 88, "a reserved byte is not 0");
        }
        if footer.entries > MAX_ENTRIES {
            return malformed(at + 8, "more extents than a segment may hold");
        }
        let index_len = footer.entries * ENTRY_LEN as u64;
        let ends = footer.index_offset.checked_add(index_len);
        if footer.index_offset < HEADER_LEN as u64 || ends != Some(at) {
            return malformed(at, "the index does not lie between payload and footer");
        }
        Ok(footer)
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
