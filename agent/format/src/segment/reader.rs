//! Reads a segment by ranges, in memory that does not grow with it.
//!
//! Opening reads header and footer and hashes the whole index once, in chunks; what is handed out later is read again
//! and compared with the hash its chunk had then. So an entry is never believed that the segment's digest did not cover,
//! also when the storage answers differently the second time.

use super::{
    ENTRY_LEN, ExtentDecoder, FOOTER_LEN, HEADER_LEN, IndexEntry, Kind, RangeRead, SegmentError,
    SegmentHeader, layout::Footer,
};
use crate::{BlockIndex, Digest};

/// Entries in a chunk of the index: 16 KiB.
const CHUNK_ENTRIES: u64 = 256;
/// How much of the payload is read at once when it is checked as a whole.
const CHECK_CHUNK: usize = 256 * 1024;

/// A segment whose header, index and footer have been verified.
#[derive(Debug)]
pub struct SegmentReader<R> {
    source: R,
    header: SegmentHeader,
    footer: Footer,
    chunk_checks: Vec<u64>,
    blocks: u64,
}

impl<R: RangeRead> SegmentReader<R> {
    /// Opens a segment: checks its header, its whole index and its footer against its digest.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn open(source: R) -> Result<Self, SegmentError> {
        let length = source.length().map_err(|source| SegmentError::Read { offset: 0, length: 0, source })?;
        let least = (HEADER_LEN + FOOTER_LEN) as u64;
        if length < least {
            return Err(SegmentError::Truncated { length, expected: least });
        }
        let mut header = [0; HEADER_LEN];
        read(&source, 0, &mut header)?;
        let parsed = SegmentHeader::parse(&header)?;
        let mut footer = [0; FOOTER_LEN];
        read(&source, length - FOOTER_LEN as u64, &mut footer)?;
        let footer = Footer::parse(&footer, length)?;
        let mut reader =
            SegmentReader { source, header: parsed, footer, chunk_checks: Vec::new(), blocks: 0 };
        reader.check_index(&header)?;
        Ok(reader)
    }

    fn check_index(&mut self, header: &[u8; HEADER_LEN]) -> Result<(), SegmentError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header);
        let mut order = IndexOrder::default();
        let mut problem = None;
        for chunk in 0..self.footer.entries.div_ceil(CHUNK_ENTRIES) {
            let bytes = self.read_chunk(chunk)?;
            hasher.update(&bytes);
            self.chunk_checks.push(check_of(&bytes));
            let entries = self.parse_chunk(chunk, &bytes);
            if let Err(err) =
                entries.and_then(|entries| entries.iter().try_for_each(|(at, e)| order.admit(*at, e)))
            {
                problem.get_or_insert(err);
            }
        }
        hasher.update(&self.footer.covered());
        if hasher.finalize() != blake3::Hash::from_bytes(self.footer.digest.0) {
            let start = self.footer.index_offset;
            return Err(SegmentError::Digest { region: "index", start, end: self.footer.length });
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
        if order.payload != self.footer.index_offset - HEADER_LEN as u64 {
            let offset = self.footer.index_offset;
            let problem = "the extents do not fill the payload";
            return Err(SegmentError::Malformed { region: "index", offset, problem });
        }
        self.blocks = order.blocks;
        Ok(())
    }

    fn read_chunk(&self, chunk: u64) -> Result<Vec<u8>, SegmentError> {
        let first = chunk * CHUNK_ENTRIES;
        let count = CHUNK_ENTRIES.min(self.footer.entries - first);
        let mut bytes = vec![0; count as usize * ENTRY_LEN];
        read(&self.source, self.footer.index_offset + first * ENTRY_LEN as u64, &mut bytes)?;
        Ok(bytes)
    }

    fn parse_chunk(&self, chunk: u64, bytes: &[u8]) -> Result<Vec<(u64, IndexEntry)>, SegmentError> {
        let at = self.footer.index_offset + chunk * CHUNK_ENTRIES * ENTRY_LEN as u64;
        let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
        let positions = (at..).step_by(ENTRY_LEN);
        let parse = |(at, bytes)| Ok((at, IndexEntry::parse(bytes, at, self.footer.index_offset)?));
        positions.zip(entries).map(parse).collect()
    }

    /// Where its bytes come from.
    #[must_use]
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Which segment it says it is.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Its digest, verified.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.footer.digest
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.footer.length
    }

    /// How many extents it holds.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.footer.entries
    }

    /// How many blocks it says something about.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Its extents in the order of their blocks.
    pub fn entries(&self) -> Entries<'_, R> {
        Entries { reader: self, chunk: 0, buffer: Vec::new().into_iter(), failed: false }
    }

    /// The first extent that ends after `block`, and those behind it. Reads as many chunks of the index as a binary
    /// search needs.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn entries_from(&self, block: BlockIndex) -> Result<Entries<'_, R>, SegmentError> {
        let (mut low, mut high) = (0, self.footer.entries.div_ceil(CHUNK_ENTRIES));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.chunk(middle)?.last() {
                Some(last) if last.range().end() <= block => low = middle + 1,
                _ => high = middle,
            }
        }
        let mut entries = Entries { reader: self, chunk: low, buffer: Vec::new().into_iter(), failed: false };
        if low < self.footer.entries.div_ceil(CHUNK_ENTRIES) {
            let mut chunk = self.chunk(low)?;
            chunk.retain(|entry| entry.range().end() > block);
            entries.buffer = chunk.into_iter();
            entries.chunk += 1;
        }
        Ok(entries)
    }

    fn chunk(&self, chunk: u64) -> Result<Vec<IndexEntry>, SegmentError> {
        let bytes = self.read_chunk(chunk)?;
        if self.chunk_checks.get(chunk as usize) != Some(&check_of(&bytes)) {
            let start = self.footer.index_offset + chunk * CHUNK_ENTRIES * ENTRY_LEN as u64;
            return Err(SegmentError::Digest { region: "index", start, end: start + bytes.len() as u64 });
        }
        Ok(self.parse_chunk(chunk, &bytes)?.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Reads an extent as it is stored, without looking into it.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn read_stored(&self, entry: &IndexEntry, stored: &mut Vec<u8>) -> Result<(), SegmentError> {
        stored.resize(entry.length as usize, 0);
        if entry.kind == Kind::Zero { Ok(()) } else { read(&self.source, entry.offset, stored) }
    }

    /// Reads an extent and decodes it into `plain`, which must be exactly as long as its blocks. `stored` is scratch.
    ///
    /// # Errors
    /// When the storage fails or the content does not match its digest.
    pub fn read_extent(
        &self,
        entry: &IndexEntry,
        decoder: &mut ExtentDecoder,
        stored: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> Result<(), SegmentError> {
        self.read_stored(entry, stored)?;
        decoder.decode(entry, stored, plain)
    }

    /// Reads the whole payload and compares it with its digest: finds any damage, without decompressing.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn check_payload(&self) -> Result<(), SegmentError> {
        let mut hasher = blake3::Hasher::new();
        let (mut at, end) = (HEADER_LEN as u64, self.footer.index_offset);
        let mut buf = vec![0; CHECK_CHUNK.min((end - at) as usize)];
        while at < end {
            let length = (end - at).min(buf.len() as u64) as usize;
            read(&self.source, at, &mut buf[..length])?;
            hasher.update(&buf[..length]);
            at += length as u64;
        }
        if hasher.finalize() == blake3::Hash::from_bytes(self.footer.payload.0) {
            return Ok(());
        }
        Err(self.name_damaged_extent().unwrap_or(SegmentError::Digest {
            region: "payload",
            start: HEADER_LEN as u64,
            end,
        }))
    }

    /// The first extent that does not decode, to tell where in a damaged payload the damage is.
    fn name_damaged_extent(&self) -> Option<SegmentError> {
        let mut decoder = ExtentDecoder::new().ok()?;
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        self.entries().find_map(|entry| {
            let entry = entry.ok().filter(|entry| entry.kind != Kind::Zero)?;
            plain.resize(entry.range().bytes().0 as usize, 0);
            self.read_extent(&entry, &mut decoder, &mut stored, &mut plain).err()
        })
    }
}

/// The extents of a segment, in the order of their blocks. Holds one chunk of the index at a time.
#[derive(Debug)]
pub struct Entries<'a, R> {
    reader: &'a SegmentReader<R>,
    chunk: u64,
    buffer: std::vec::IntoIter<IndexEntry>,
    failed: bool,
}

impl<R: RangeRead> Iterator for Entries<'_, R> {
    type Item = Result<IndexEntry, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.buffer.next() {
            return Some(Ok(entry));
        }
        if self.failed || self.chunk >= self.reader.chunk_checks.len() as u64 {
            return None;
        }
        match self.reader.chunk(self.chunk) {
            Ok(entries) => {
                self.chunk += 1;
                self.buffer = entries.into_iter();
                self.buffer.next().map(Ok)
            }
            Err(err) => {
                self.failed = true;
                Some(Err(err))
            }
        }
    }
}

/// The rules that hold between the entries of an index.
#[derive(Default)]
struct IndexOrder {
    end: BlockIndex,
    payload: u64,
    blocks: u64,
}

impl IndexOrder {
    fn admit(&mut self, offset: u64, entry: &IndexEntry) -> Result<(), SegmentError> {
        if entry.start < self.end {
            let problem = "the extents are not in order or overlap";
            return Err(SegmentError::Malformed { region: "index entry", offset, problem });
        }
        self.end = entry.range().end();
        self.payload += u64::from(entry.length);
        self.blocks += u64::from(entry.count);
        Ok(())
    }
}

fn check_of(bytes: &[u8]) -> u64 {
    let digest = Digest::of(bytes);
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| digest.0[i]))
}

fn read(source: &impl RangeRead, offset: u64, buf: &mut [u8]) -> Result<(), SegmentError> {
    let length = buf.len() as u64;
    source.read_at(offset, buf).map_err(|source| SegmentError::Read { offset, length, source })
}
