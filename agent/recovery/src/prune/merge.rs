//! Merges what several epochs said of one disk into one run of segments.
//!
//! An extent of which every block is still the last word is copied as it is stored; of others what is left is encoded
//! again. Both are decoded first: damage must stop a merge, not be sealed under a new digest. Memory: one window, and the
//! index of the segment being written. Deliberately not here: what may be removed afterwards.

use std::io::{self, BufWriter};

use mobility_format::{
    BLOCK_SIZE, BlockRange, ByteCount, Digest, DiskId, Epoch, Generation, SessionId, WINDOW_SIZE,
    key::TargetKey,
    manifest::{Run, SegmentRef},
    segment::{EncodedExtent, ExtentDecoder, ExtentEncoder, SegmentHeader, SegmentWriter, is_zero},
};

use crate::{
    Catalog,
    content::{ContentError, Layer, Mask, Sweep, WindowPlan},
    storage::{Draft, StorageError},
};

/// How many extents it may hold: it bounds the index that is kept in memory.
const SEGMENT_EXTENTS: u64 = 128 << 10;

/// What to merge.
pub(super) struct Plan {
    pub(super) disk: DiskId,
    pub(super) first: Epoch,
    pub(super) last: Epoch,
    pub(super) generation: Generation,
    pub(super) size: ByteCount,
    pub(super) layers: Vec<Layer>,
    /// The digest of the finished run, where an earlier try has got so far.
    pub(super) ready: Option<Digest>,
}

/// A merge did not come to its end.
pub(super) enum MergeError {
    Content(ContentError),
    Storage(StorageError),
    Limit(String),
}

impl From<ContentError> for MergeError {
    fn from(err: ContentError) -> Self {
        MergeError::Content(err)
    }
}

impl From<StorageError> for MergeError {
    fn from(err: StorageError) -> Self {
        MergeError::Storage(err)
    }
}

/// About how many bytes the merged segments will take, from the indexes alone.
pub(super) fn estimate(catalog: &Catalog, plan: &Plan) -> Result<ByteCount, MergeError> {
    if plan.ready.is_some() {
        return Ok(ByteCount(0));
    }
    let mut bytes = 0;
    for window in Sweep::new(&catalog.stores, plan.layers.clone(), plan.size.blocks()) {
        let share = |piece: &crate::content::Piece| {
            u64::from(piece.entry.length) * piece.owned.count() / u64::from(piece.entry.count)
        };
        bytes += window?.pieces.iter().map(share).sum::<u64>();
    }
    Ok(ByteCount(bytes))
}

/// Writes the merged segments and then the run. Returns the run's digest and the bytes written.
pub(super) fn merge(catalog: &Catalog, plan: &Plan) -> Result<(Digest, ByteCount), MergeError> {
    if let Some(ready) = plan.ready {
        return Ok((ready, ByteCount(0)));
    }
    let mut merger = Merger::new(catalog, plan)?;
    for window in Sweep::new(&catalog.stores, plan.layers.clone(), plan.size.blocks()) {
        merger.window(&window?)?;
    }
    merger.finish()
}

struct Merger<'a> {
    catalog: &'a Catalog,
    plan: &'a Plan,
    decoder: ExtentDecoder,
    encoder: ExtentEncoder,
    stored: Vec<u8>,
    plain: Vec<u8>,
    /// How long a segment gets before the next is begun.
    segment_bytes: u64,
    writing: Option<Writing>,
    zeros: BlockRange,
    segments: Vec<SegmentRef>,
}

struct Writing {
    writer: SegmentWriter<BufWriter<Box<dyn Draft>>>,
    extents: u64,
}

impl<'a> Merger<'a> {
    fn new(catalog: &'a Catalog, plan: &'a Plan) -> Result<Self, MergeError> {
        let memory = |err: io::Error| MergeError::Limit(format!("no working memory: {err}"));
        Ok(Merger {
            catalog,
            plan,
            decoder: ExtentDecoder::new().map_err(memory)?,
            encoder: ExtentEncoder::new().map_err(memory)?,
            stored: Vec::new(),
            plain: vec![0; WINDOW_SIZE],
            segment_bytes: catalog.stores.target().draft_length(),
            writing: None,
            zeros: BlockRange::new(0, 0),
            segments: Vec::new(),
        })
    }

    fn window(&mut self, window: &WindowPlan) -> Result<(), MergeError> {
        if self
            .writing
            .as_ref()
            .is_some_and(|w| w.writer.length() >= self.segment_bytes || w.extents >= SEGMENT_EXTENTS)
        {
            self.flush_zeros()?;
            self.finish_segment()?;
        }
        for piece in &window.pieces {
            let reader = &piece.segment.reader;
            let plain = &mut self.plain[..piece.entry.count as usize * BLOCK_SIZE];
            let read = reader.read_extent(&piece.entry, &mut self.decoder, &mut self.stored, plain);
            read.map_err(|err| piece.segment.failed(err))?;
            if piece.owned == Mask::of(window.window, piece.entry.range()) {
                let (range, kind, digest) = (piece.entry.range(), piece.entry.kind, piece.entry.digest);
                let bytes = std::mem::take(&mut self.stored);
                let extent = EncodedExtent { range, kind, digest, bytes };
                self.append(&extent)?;
                self.stored = extent.bytes;
            } else {
                self.encode_again(window, piece.entry.range(), piece.owned)?;
            }
        }
        // Where a disk begins, it is zero without saying so.
        if self.plan.first.0 > 1 {
            for (start, count) in (window.said - window.data).runs() {
                self.append_zeros(BlockRange::new(window.window.0 + start, count))?;
            }
        }
        Ok(())
    }

    /// What is left of an extent whose content is in `self.plain`.
    fn encode_again(
        &mut self,
        window: &WindowPlan,
        extent: BlockRange,
        owned: Mask,
    ) -> Result<(), MergeError> {
        for (start, count) in owned.runs() {
            let range = BlockRange::new(window.window.0 + start, count);
            let from = (range.start.0 - extent.start.0) as usize * BLOCK_SIZE;
            let plain = &self.plain[from..from + count as usize * BLOCK_SIZE];
            if is_zero(plain) {
                if self.plan.first.0 > 1 {
                    self.append_zeros(range)?;
                }
                continue;
            }
            let encoded = self.encoder.encode(range, plain);
            let encoded =
                encoded.map_err(|err| MergeError::Limit(format!("cannot compress {range}: {err}")))?;
            self.append(&encoded)?;
        }
        Ok(())
    }

    fn append(&mut self, extent: &EncodedExtent) -> Result<(), MergeError> {
        let writing = self.writing()?;
        writing.extents += 1;
        let appended = writing.writer.append(extent);
        appended.map_err(|err| self.write_failed(err).into())
    }

    /// Zeros are put off as long as they go on.
    fn append_zeros(&mut self, range: BlockRange) -> Result<(), MergeError> {
        if self.zeros.count > 0 && self.zeros.end() == range.start {
            self.zeros.count += range.count;
            return Ok(());
        }
        self.flush_zeros()?;
        self.zeros = range;
        Ok(())
    }

    fn flush_zeros(&mut self) -> Result<(), MergeError> {
        let zeros = std::mem::replace(&mut self.zeros, BlockRange::new(0, 0));
        if zeros.count == 0 {
            return Ok(());
        }
        let writing = self.writing()?;
        writing.extents += 1;
        let appended = writing.writer.append_zero(zeros);
        appended.map_err(|err| self.write_failed(err).into())
    }

    /// The segment being written, begun where there is none.
    fn writing(&mut self) -> Result<&mut Writing, MergeError> {
        if self.writing.is_none() {
            self.writing = Some(self.begin_segment()?);
        }
        self.writing.as_mut().ok_or_else(|| MergeError::Limit("no segment was begun".to_owned()))
    }

    fn begin_segment(&self) -> Result<Writing, MergeError> {
        let Plan { disk, first, last, generation, .. } = *self.plan;
        let machine = self.catalog.machine;
        let draft = self.catalog.stores.target().draft(&self.folder())?;
        let header = SegmentHeader {
            machine,
            disk,
            generation,
            first_epoch: first,
            last_epoch: last,
            session: SessionId([0; SessionId::LEN]),
            part: self.segments.len() as u32,
            previous: self.segments.last().map_or(Digest::NONE, |segment| segment.digest),
        };
        let writer = SegmentWriter::new(BufWriter::with_capacity(1 << 20, draft), header);
        Ok(Writing { writer: writer.map_err(|err| self.write_failed(err))?, extents: 0 })
    }

    /// Where the merged segments and their run belong.
    fn folder(&self) -> String {
        let Plan { disk, first, last, .. } = *self.plan;
        let run = TargetKey::Run { machine: self.catalog.machine, disk, first, last }.to_string();
        run.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
    }

    fn write_failed(&self, err: io::Error) -> StorageError {
        StorageError::new(
            "write a merged segment in",
            &self.catalog.stores.target().place(&self.folder()),
            err,
        )
    }

    fn finish_segment(&mut self) -> Result<(), MergeError> {
        let Some(Writing { writer, .. }) = self.writing.take() else { return Ok(()) };
        let (out, summary) = writer.finish().map_err(|err| self.write_failed(err))?;
        let draft = out.into_inner().map_err(|err| self.write_failed(err.into_error()))?;
        let Plan { disk, first, last, .. } = *self.plan;
        let (machine, digest) = (self.catalog.machine, summary.digest);
        let key = TargetKey::MergedSegment { machine, disk, first, last, digest };
        // One of that name can only be the same: its name is its digest. It may be damaged, so it is replaced.
        draft.publish(&key.to_string())?;
        self.segments.push(SegmentRef {
            session: SessionId([0; SessionId::LEN]),
            part: self.segments.len() as u32,
            digest,
            length: ByteCount(summary.length),
            first_block: summary.first_block,
            end_block: summary.end_block,
            blocks: summary.blocks,
            slot: None,
        });
        Ok(())
    }

    fn finish(mut self) -> Result<(Digest, ByteCount), MergeError> {
        self.flush_zeros()?;
        self.finish_segment()?;
        let Plan { disk, first, last, size, .. } = *self.plan;
        let machine = self.catalog.machine;
        let bytes = self.segments.iter().map(|segment| segment.length.0).sum();
        let run = Run { machine, disk, first_epoch: first, last_epoch: last, size, segments: self.segments };
        let sealed = run.seal().map_err(|err| MergeError::Limit(err.to_string()))?;
        let key = TargetKey::Run { machine, disk, first, last };
        self.catalog.stores.target().replace(&key.to_string(), &sealed)?;
        Ok((Digest::of(&sealed), ByteCount(bytes)))
    }
}
