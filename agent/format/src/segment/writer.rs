//! Writes a segment as a stream: header, extents as they come, then index and footer.
//!
//! Memory: 64 bytes per extent for the index. Extents may come in any order; the index is sorted at the end. Deliberately
//! not here: when a segment is full, and where it goes.

use std::io::{self, Write};

use super::{
    EncodedExtent, IndexEntry, MAX_ENTRIES, SegmentHeader,
    layout::{ENTRY_LEN, FOOTER_LEN, Footer, HEADER_LEN},
};
use crate::{BlockIndex, BlockRange, ByteCount, Digest, SessionId, manifest::SegmentRef};

/// What a finished segment is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its digest, by which a recovery point names it.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
    /// The first block that it says anything about.
    pub first_block: BlockIndex,
    /// The block after the last that it says anything about.
    pub end_block: BlockIndex,
    /// How many blocks it says something about.
    pub blocks: u64,
}

impl SegmentSummary {
    /// The segment as a manifest or a run names it, where it is part `part` of what `session` wrote.
    #[must_use]
    pub fn named(&self, session: SessionId, part: u32) -> SegmentRef {
        SegmentRef {
            session,
            part,
            digest: self.digest,
            length: ByteCount(self.length),
            first_block: self.first_block,
            end_block: self.end_block,
            blocks: self.blocks,
            slot: None,
        }
    }
}

/// A segment being written.
pub struct SegmentWriter<W> {
    out: W,
    header: [u8; HEADER_LEN],
    position: u64,
    payload: blake3::Hasher,
    entries: Vec<IndexEntry>,
}

impl<W: Write> SegmentWriter<W> {
    /// Starts a segment with its header.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(mut out: W, header: SegmentHeader) -> io::Result<Self> {
        let header = header.to_bytes();
        out.write_all(&header)?;
        let position = HEADER_LEN as u64;
        Ok(SegmentWriter { out, header, position, payload: blake3::Hasher::new(), entries: Vec::new() })
    }

    /// Adds an extent.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` for an extent that the encoder cannot have made.
    pub fn append(&mut self, extent: &EncodedExtent) -> io::Result<()> {
        let (Ok(count), Ok(length)) = (u32::try_from(extent.range.count), u32::try_from(extent.bytes.len()))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.out.write_all(&extent.bytes)?;
        self.payload.update(&extent.bytes);
        self.push(IndexEntry {
            start: extent.range.start,
            count,
            kind: extent.kind,
            offset: self.position,
            length,
            digest: extent.digest,
        })?;
        self.position += u64::from(length);
        Ok(())
    }

    /// Adds blocks that are all zero, in as few extents as can be.
    ///
    /// # Errors
    /// `InvalidInput` when the segment is full.
    pub fn append_zero(&mut self, range: BlockRange) -> io::Result<()> {
        IndexEntry::zeros(range).try_for_each(|entry| self.push(entry))
    }

    fn push(&mut self, entry: IndexEntry) -> io::Result<()> {
        if self.entries.len() as u64 >= MAX_ENTRIES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the segment has as many extents as it may hold",
            ));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// How long the segment would be if it were finished now, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.position + (self.entries.len() * ENTRY_LEN + FOOTER_LEN) as u64
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes index and footer.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` when two extents overlap.
    pub fn finish(mut self) -> io::Result<(W, SegmentSummary)> {
        self.entries.sort_unstable_by_key(|entry| entry.start);
        if self.entries.windows(2).any(|pair| pair[0].range().end() > pair[1].start) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "two extents of a segment overlap"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header);
        for entry in &self.entries {
            let bytes = entry.to_bytes();
            hasher.update(&bytes);
            self.out.write_all(&bytes)?;
        }
        let mut footer = Footer {
            index_offset: self.position,
            entries: self.entries.len() as u64,
            length: self.length(),
            payload: Digest(*self.payload.finalize().as_bytes()),
            digest: Digest::NONE,
        };
        hasher.update(&footer.covered());
        footer.digest = Digest(*hasher.finalize().as_bytes());
        self.out.write_all(&footer.to_bytes())?;
        let summary = SegmentSummary {
            digest: footer.digest,
            length: footer.length,
            first_block: self.entries.first().map_or(BlockIndex(0), |entry| entry.start),
            end_block: self.entries.last().map_or(BlockIndex(0), |entry| entry.range().end()),
            blocks: self.entries.iter().map(|entry| entry.range().count).sum(),
        };
        Ok((self.out, summary))
    }
}
