//! Checks one segment before it counts.
//!
//! Deliberately not here: what holds between segments (`admit`).

use std::io;

use mobility_format::{
    Digest,
    key::CacheKey,
    manifest::SegmentRef,
    segment::{RangeRead, SegmentError, SegmentReader},
};

use super::IntakeError;
use crate::{
    content::{SegmentSource, check_is, check_names},
    storage::{Objects, OpenObject, Reading, StorageError},
};

/// What a segment's key says it must be.
pub(super) fn source_of(key: &CacheKey, named: &SegmentRef) -> Result<SegmentSource, IntakeError> {
    match *key {
        CacheKey::Segment { machine, generation, epoch, disk, session, part }
            if (session, part) == (named.session, named.part) =>
        {
            let generation = Some(generation);
            Ok(SegmentSource { machine, disk, generation, first: epoch, last: epoch, named: *named })
        }
        _ => Err(IntakeError::Forged {
            key: *key,
            reason: "it is not the key of the segment that is named".to_owned(),
        }),
    }
}

/// A segment that is checked: what people call it, and where it is now.
#[derive(Clone, Copy)]
pub(super) struct Checked<'a> {
    pub(super) key: CacheKey,
    pub(super) storage: &'a dyn Objects,
    pub(super) place: &'a str,
}

impl Checked<'_> {
    pub(super) fn open(&self, reading: Reading) -> Result<OpenObject, IntakeError> {
        match self.storage.open(self.place, reading) {
            Err(err) if err.is_not_found() => Err(IntakeError::Missing { key: self.key }),
            other => Ok(other?),
        }
    }

    /// The digest of the segment's predecessor, of one whose content was checked before.
    pub(super) fn previous(&self) -> Result<Digest, IntakeError> {
        let object = self.open(Reading::Whole)?;
        let reader = SegmentReader::open(&*object).map_err(|err| self.error(err))?;
        Ok(reader.header().previous)
    }

    /// Checks the segment whole, and that it will survive a power cut; returns the digest of its predecessor.
    pub(super) fn content(&self, source: &SegmentSource) -> Result<Digest, IntakeError> {
        let previous = self.content_of(&*self.open(Reading::Whole)?, source)?;
        if let Some(directory) = self.storage.as_directory() {
            directory.sync(self.place)?;
        }
        Ok(previous)
    }

    /// Checks bytes that will be stored as this segment.
    pub(super) fn content_of<R: RangeRead + ?Sized>(
        &self,
        bytes: &R,
        source: &SegmentSource,
    ) -> Result<Digest, IntakeError> {
        let reader = SegmentReader::open(bytes).map_err(|err| self.error(err))?;
        let checked = check_is(&reader, source)
            .and_then(|()| check_names(&reader, &source.named))
            .and_then(|()| reader.check_payload());
        checked.map_err(|err| self.error(err))?;
        Ok(reader.header().previous)
    }

    pub(super) fn error(&self, source: SegmentError) -> IntakeError {
        match source {
            SegmentError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                IntakeError::Missing { key: self.key }
            }
            SegmentError::Read { source, .. } if source.kind() != io::ErrorKind::UnexpectedEof => {
                self.read_failed(source).into()
            }
            source => IntakeError::Damaged { key: self.key, source: Box::new(source) },
        }
    }

    pub(super) fn read_failed(&self, source: io::Error) -> StorageError {
        StorageError::new("read", &self.storage.place(self.place), source)
    }
}
