//! One segment as a manifest or a run names it: found, opened, and shown to be the one that is meant.
//!
//! Deliberately not here: the bytes of a segment (`mobility_format::segment`).

use std::{fmt, io, path::PathBuf, sync::Arc};

use mobility_format::{
    BlockIndex, DiskId, Epoch, Generation, MachineId,
    key::TargetKey,
    manifest::SegmentRef,
    segment::{RangeRead, SegmentError, SegmentReader},
};

use super::{ContentError, ObjectPool, PooledObject};
use crate::{keys::ObjectKey, storage::StorageError};

/// Where a segment belongs, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSource {
    pub(crate) machine: MachineId,
    pub(crate) disk: DiskId,
    /// Nothing for a merged segment: its generation is that of its newest input.
    pub(crate) generation: Option<Generation>,
    pub(crate) first: Epoch,
    pub(crate) last: Epoch,
    pub(crate) named: SegmentRef,
}

impl SegmentSource {
    pub(crate) fn key(&self) -> ObjectKey {
        let SegmentSource { machine, disk, first, last, named, .. } = *self;
        let key = match self.generation {
            Some(_) => {
                TargetKey::Segment { machine, epoch: last, disk, session: named.session, part: named.part }
            }
            None => TargetKey::MergedSegment { machine, disk, first, last, digest: named.digest },
        };
        key.into()
    }

    /// Opens the segment in target storage and checks that it is this one.
    pub(crate) fn open(&self, pool: &Arc<ObjectPool>) -> Result<OpenSegment, ContentError> {
        let key = self.key();
        let failed =
            |source| as_content_error(key, || pool.stores().target().place(&key.to_string()), source);
        let reader = SegmentReader::open(pool.object(key.to_string())).map_err(failed)?;
        check_is(&reader, self).map_err(failed)?;
        Ok(OpenSegment { reader, key })
    }
}

/// A segment in target storage that is the one it should be.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) reader: SegmentReader<PooledObject>,
    pub(crate) key: ObjectKey,
}

impl OpenSegment {
    /// Says which segment it was that failed.
    pub(crate) fn failed(&self, source: SegmentError) -> ContentError {
        as_content_error(self.key, || self.reader.source().place(), source)
    }
}

fn as_content_error(key: ObjectKey, place: impl Fn() -> PathBuf, source: SegmentError) -> ContentError {
    match source {
        SegmentError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ContentError::Missing { key }
        }
        SegmentError::Read { source, offset, length } if source.kind() != io::ErrorKind::UnexpectedEof => {
            let source =
                io::Error::new(source.kind(), format!("{length} bytes at offset {offset}: {source}"));
            StorageError::new("read", &place(), source).into()
        }
        source => ContentError::Damaged { key, source: Box::new(source) },
    }
}

/// Checks that an opened segment is the one that is meant.
pub(crate) fn check_is<R: RangeRead>(
    reader: &SegmentReader<R>,
    expected: &SegmentSource,
) -> Result<(), SegmentError> {
    let header = reader.header();
    same("machine", header.machine, expected.machine)?;
    same("disk", header.disk, expected.disk)?;
    let named = &expected.named;
    match expected.generation {
        Some(generation) => {
            same("generation", header.generation, generation)?;
            same("first epoch", header.first_epoch, expected.first)?;
            same("last epoch", header.last_epoch, expected.last)?;
            same("session", header.session, named.session)?;
            same("part", header.part, named.part)?;
        }
        // A segment that a wider merge took over as it was keeps its own, narrower range of epochs.
        None => {
            same("first epoch", header.first_epoch.max(expected.first), header.first_epoch)?;
            same("last epoch", header.last_epoch.min(expected.last), header.last_epoch)?;
        }
    }
    same("digest", reader.digest(), named.digest)?;
    same("length", reader.length(), named.length.0)?;
    same("number of blocks", reader.blocks(), named.blocks)
}

/// Checks that the index covers what the manifest says: no more, so that nothing lies beyond the disk's end.
pub(crate) fn check_names<R: RangeRead>(
    reader: &SegmentReader<R>,
    named: &SegmentRef,
) -> Result<(), SegmentError> {
    let (mut first, mut end) = (None, BlockIndex(0));
    for entry in reader.entries() {
        let range = entry?.range();
        first.get_or_insert(range.start);
        end = range.end();
    }
    same("first block", first.unwrap_or_default(), named.first_block)?;
    same("end", end, named.end_block)
}

fn same<T: PartialEq + Copy + fmt::Display>(
    what: &'static str,
    found: T,
    expected: T,
) -> Result<(), SegmentError> {
    if found == expected {
        return Ok(());
    }
    Err(SegmentError::Misplaced { what, found: found.to_string(), expected: expected.to_string() })
}
