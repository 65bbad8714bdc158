//! Segments: immutable objects that hold extents of one disk.
//!
//! ```text
//! header (128 bytes) | payload: extents as stored, one after the other | index: 64 bytes per extent | footer (128 bytes)
//! ```
//!
//! The footer is at the end so that a segment can be written as a stream, and the index beside it so that a reader finds
//! any block with three range reads. The segment's digest covers header, index and footer; the index holds the digest of
//! every extent's content and the footer that of the payload as stored, so nothing in a segment can change unnoticed.
//! `docs/FORMAT.md` has the byte tables. Deliberately not here: what a set of segments means together.

mod extent;
mod layout;
mod reader;
mod source;
mod writer;

pub use extent::{EncodedExtent, ExtentDecoder, ExtentEncoder, ZSTD_LEVEL, is_zero};
pub use layout::{
    ENTRY_LEN, FOOTER_LEN, HEADER_LEN, IndexEntry, Kind, MAX_DISK_BLOCKS, MAX_ENTRIES, SEGMENT_VERSION,
    SegmentHeader,
};
pub use reader::{Entries, SegmentReader};
pub use source::RangeRead;
pub use writer::{SegmentSummary, SegmentWriter};

/// What is wrong with a segment, and where.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The bytes could not be read at all.
    #[error("cannot read {length} bytes at offset {offset}: {source}")]
    Read {
        /// Where the read started, in bytes from the start of the segment.
        offset: u64,
        /// How many bytes were asked for.
        length: u64,
        /// What the storage said.
        source: std::io::Error,
    },
    /// It is shorter than any segment, or shorter than its own footer says.
    #[error("truncated: {length} bytes, expected {expected}")]
    Truncated {
        /// Its length in bytes.
        length: u64,
        /// What its length should be at least.
        expected: u64,
    },
    /// It does not start or end as a segment does.
    #[error("not a segment: wrong magic in the {region}")]
    NotASegment {
        /// `header` or `footer`.
        region: &'static str,
    },
    /// It was written by a later version.
    #[error(
        "format version {found} is not known to this program (it knows up to {SEGMENT_VERSION}): upgrade it"
    )]
    Version {
        /// The version in the header.
        found: u16,
    },
    /// Its payload is encrypted in a way this program does not know.
    #[error("payload encryption method {0} is not known to this program: upgrade it")]
    Encryption(u8),
    /// A digest does not match what it covers.
    #[error("damaged: the {region} at bytes {start}..{end} does not match its digest")]
    Digest {
        /// What part of the segment.
        region: &'static str,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// The digest is right but the content breaks a rule of the format.
    #[error("malformed {region} at byte {offset}: {problem}")]
    Malformed {
        /// What part of the segment.
        region: &'static str,
        /// Where.
        offset: u64,
        /// Which rule.
        problem: &'static str,
    },
    /// An extent's content does not decode to what its digest says.
    #[error("damaged: the extent of {count} blocks from block {start}, stored at byte {offset}, {problem}")]
    Extent {
        /// Its first block.
        start: u64,
        /// How many blocks.
        count: u32,
        /// Where it is stored, in bytes from the start of the segment.
        offset: u64,
        /// How it is damaged.
        problem: &'static str,
    },
    /// It is a sound segment, but not the one that was asked for.
    #[error("another object is in its place: {what} is {found}, expected {expected}")]
    Misplaced {
        /// Which field tells.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

#[cfg(test)]
mod tests;
