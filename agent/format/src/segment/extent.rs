//! Extents: a run of blocks inside one window, hashed and compressed.
//!
//! Data that does not compress is stored as it is, and a probe of two samples spares most of the time that trying would
//! cost. Deliberately not here: which blocks go into an extent, and zero blocks, of which nothing is stored.

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::{DParameter, compress_bound},
};

use super::{IndexEntry, Kind, SegmentError};
use crate::{BLOCK_SIZE, BlockRange, Digest, WINDOW_SIZE};

/// The level extents are compressed at. Level 3 takes twice the time for 2 to 5 % fewer bytes on disk images, and it is
/// the guest's processor that pays.
pub const ZSTD_LEVEL: i32 = 1;

/// From what size of extent the probe is cheaper than trying.
const PROBE_FROM: usize = 16 * BLOCK_SIZE;
const PROBE_SAMPLE: usize = BLOCK_SIZE;

/// `log2` of the largest window a zstd frame of ours can need: an extent is 1 MiB at most.
const WINDOW_LOG_MAX: u32 = 20;

/// Whether all of `bytes` are 0.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks are or-ed together, which the compiler turns into wide loads.
    let (chunks, rest) = bytes.as_chunks::<64>();
    rest.iter().all(|&b| b == 0) && chunks.iter().all(|chunk| chunk.iter().fold(0, |a, &b| a | b) == 0)
}

/// An extent ready to be put into a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedExtent {
    /// Which blocks.
    pub range: BlockRange,
    /// How `bytes` are to be read; never [`Kind::Zero`].
    pub kind: Kind,
    /// The digest of the content before compression.
    pub digest: Digest,
    /// The content as it is stored.
    pub bytes: Vec<u8>,
}

/// Turns blocks into extents. Keeps zstd's working memory between calls, so keep one per thread.
pub struct ExtentEncoder {
    compressor: Compressor<'static>,
    /// Compressed into first: how long it gets is known only afterwards, and memory of the greatest length asked for and
    /// given back for each extent is what an allocator keeps most of.
    scratch: Vec<u8>,
}

impl ExtentEncoder {
    /// # Errors
    /// When zstd cannot get its working memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(ExtentEncoder { compressor: Compressor::new(ZSTD_LEVEL)?, scratch: Vec::new() })
    }

    /// Encodes the blocks `range`, whose content is `plain`.
    ///
    /// # Errors
    /// `InvalidInput` where `plain` is not as long as `range` or the range does not lie in one window; else zstd's own.
    pub fn encode(&mut self, range: BlockRange, plain: &[u8]) -> std::io::Result<EncodedExtent> {
        let one_window = range.count > 0
            && plain.len() <= WINDOW_SIZE
            && range.start.window_start() == crate::BlockIndex(range.end().0 - 1).window_start();
        if !one_window || plain.len() as u64 != range.bytes().0 {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let digest = Digest::of(plain);
        if plain.len() >= PROBE_FROM && !self.worth_trying(plain)? {
            return Ok(EncodedExtent { range, kind: Kind::Stored, digest, bytes: plain.to_vec() });
        }
        self.scratch.clear();
        self.scratch.reserve(compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.scratch)?;
        if self.scratch.len() + plain.len() / 32 >= plain.len() {
            return Ok(EncodedExtent { range, kind: Kind::Stored, digest, bytes: plain.to_vec() });
        }
        Ok(EncodedExtent { range, kind: Kind::Zstd, digest, bytes: self.scratch.as_slice().to_vec() })
    }

    fn worth_trying(&mut self, plain: &[u8]) -> std::io::Result<bool> {
        let mut out = [0; PROBE_SAMPLE + 512];
        for at in [plain.len() / 4, plain.len() / 4 * 3] {
            let sample = &plain[at..at + PROBE_SAMPLE];
            if self.compressor.compress_to_buffer(sample, &mut out[..])? + PROBE_SAMPLE / 32 < PROBE_SAMPLE {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Turns stored extents into blocks again. Keeps zstd's working memory between calls, so keep one per thread.
pub struct ExtentDecoder {
    decompressor: Decompressor<'static>,
}

impl ExtentDecoder {
    /// # Errors
    /// When zstd cannot get its working memory.
    pub fn new() -> std::io::Result<Self> {
        let mut decompressor = Decompressor::new()?;
        decompressor.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(ExtentDecoder { decompressor })
    }

    /// Decodes the extent `entry`, stored as `stored`, into `plain`, which must be exactly as long as its blocks.
    ///
    /// # Errors
    /// [`SegmentError::Extent`] where it does not decode, or decodes to something else than its digest says; what is in
    /// `plain` then must not be used.
    pub fn decode(
        &mut self,
        entry: &IndexEntry,
        stored: &[u8],
        plain: &mut [u8],
    ) -> Result<(), SegmentError> {
        let damaged = |problem| {
            Err(SegmentError::Extent {
                start: entry.start.0,
                count: entry.count,
                offset: entry.offset,
                problem,
            })
        };
        if plain.len() as u64 != entry.range().bytes().0 || stored.len() != entry.length as usize {
            return damaged("was handed over with a wrong length");
        }
        match entry.kind {
            Kind::Zero => {
                plain.fill(0);
                return Ok(());
            }
            Kind::Stored => plain.copy_from_slice(stored),
            Kind::Zstd => match self.decompressor.decompress_to_buffer(stored, plain) {
                Ok(length) if length == plain.len() => {}
                Ok(_) => return damaged("decompresses to another length"),
                Err(_) => return damaged("does not decompress"),
            },
        }
        if Digest::of(plain) == entry.digest { Ok(()) } else { damaged("does not match its digest") }
    }
}
