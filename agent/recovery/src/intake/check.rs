//! Checks one segment before it counts.
//!
//! Deliberately not here: what holds between segments (`admit`).

use std::{fs::File, io, path::Path};

use mobility_format::{
    Digest,
    key::CacheKey,
    manifest::SegmentRef,
    segment::{SegmentError, SegmentReader},
};

use super::IntakeError;
use crate::{
    content::{SegmentSource, check_is, check_names},
    storage::StorageError,
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

/// Opens a segment wherever it is now.
pub(super) fn open(key: CacheKey, path: &Path) -> Result<SegmentReader<File>, IntakeError> {
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(IntakeError::Missing { key }),
        other => other.map_err(|err| StorageError::new("open", path, err))?,
    };
    SegmentReader::open(file).map_err(|source| segment_error(key, path, source))
}

/// Checks a segment whole, and that it will survive a power cut; returns the digest of its predecessor.
pub(super) fn check_content(
    key: CacheKey,
    source: &SegmentSource,
    path: &Path,
) -> Result<Digest, IntakeError> {
    let reader = open(key, path)?;
    let checked = check_is(&reader, source)
        .and_then(|()| check_names(&reader, &source.named))
        .and_then(|()| reader.check_payload());
    checked.map_err(|err| segment_error(key, path, err))?;
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|err| StorageError::new("sync", path, err))?;
    Ok(reader.header().previous)
}

fn segment_error(key: CacheKey, path: &Path, source: SegmentError) -> IntakeError {
    match source {
        SegmentError::Read { source, .. } if source.kind() != io::ErrorKind::UnexpectedEof => {
            StorageError::new("read", path, source).into()
        }
        source => IntakeError::Damaged { key, source: Box::new(source) },
    }
}
