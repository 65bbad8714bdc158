//! A raw image or a fixed VHD as one object in an object store: what clouds import machines from, and no host needs room for it.
//!
//! It is sent in parts, in the order of the disk, zeros included, and is there once its last part is: whole, or not at all. It can be
//! read only then, so an image that reading back finds to differ was there for that long, and is removed. Where this process is killed
//! the parts stay, unseen; a rule of the bucket's (`AbortIncompleteMultipartUpload`) removes them, and Azure does after a week.
//! Deliberately not here: page blobs, of which only what is not zero is sent (`blob`).

mod upload;

use std::{path::PathBuf, sync::Arc, time::Duration};

use mobility_format::ByteCount;

use super::{
    Format, RestoreError,
    medium::{Medium, Settling, Stored},
};
use crate::{
    Remote, RemoteLimits, RemoteSettings,
    service::network,
    storage::{Objects, OpenObject, Reading, StorageError},
};
use upload::{Step, Upload};

/// Parts of one object: S3 takes 10,000, Azure 50,000 blocks.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const PARTS: u64 = 10_000;
/// The least that a part gets; S3 takes no less than 5 MiB.
const SMALLEST: u64 = 8 << 20;
/// The most: two of them are in memory at least.
const LARGEST: u64 = 512 << 20;
/// The slowest network that a part gets through in time, in bytes a second.
const SLOWEST: u64 = 1 << 20;

/// An object in S3, or in what speaks its protocol, or in Azure Blob Storage.
#[derive(Clone, Debug)]
pub struct ObjectImage {
    settings: RemoteSettings,
    key: String,
}

impl ObjectImage {
    /// The object `key` in a store, below its prefix.
    ///
    /// # Errors
    /// What is wrong with the key.
    pub fn new(settings: &RemoteSettings, key: &str) -> Result<ObjectImage, String> {
        match object_store::path::Path::parse(key) {
            Ok(path) if !path.as_ref().is_empty() => {
                Ok(ObjectImage { settings: settings.clone(), key: path.to_string() })
            }
            Ok(_) => Err("an object has a key".to_owned()),
            Err(err) => Err(format!("'{key}' is no key of an object: {err}")),
        }
    }

    /// What people call it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("{}/{}", self.settings.name(), self.key))
    }

    /// A client that waits for as long as such a part may take.
    fn remote(&self, part: u64) -> Result<Remote, StorageError> {
        let limits = self.settings.limits;
        let request = limits.request.max(Duration::from_secs(part / SLOWEST));
        let limits = RemoteLimits { request, give_up: limits.give_up.max(2 * request), ..limits };
        Remote::open(&RemoteSettings { limits, ..self.settings.clone() }, network()?)
    }
}

/// How long each part of an object is that is so long; nothing where it is too long for an object.
fn part_length(length: u64) -> Option<u64> {
    let part = length.div_ceil(PARTS).next_multiple_of(1 << 20).max(SMALLEST);
    (part <= LARGEST).then_some(part)
}

/// An object being written.
pub(super) struct Parts {
    remote: Remote,
    key: String,
    length: u64,
    /// What is before it was put, or is zero.
    at: u64,
    /// What was put, and not handed on yet: a window's worth at most.
    steps: Vec<Step>,
    upload: Upload,
}

impl Parts {
    /// Begins an object that is going to be `length` long.
    pub(super) fn begin(
        object: &ObjectImage,
        length: u64,
        format: Format,
        replace: bool,
    ) -> Result<Parts, RestoreError> {
        let path = object.path();
        let Some(part) = part_length(length) else {
            let most = ByteCount(PARTS * LARGEST);
            let reason = format!("an object holds {most} at most; choose a block device, or an image file");
            return Err(RestoreError::Format { path, format, reason });
        };
        let remote = object.remote(part)?;
        if !replace && remote.size(&object.key)?.is_some() {
            return Err(RestoreError::Exists(path));
        }
        let upload = Upload::begin(&remote, &object.key, part as usize)?;
        Ok(Parts { remote, key: object.key.clone(), length, at: 0, steps: Vec::new(), upload })
    }

    fn zeros_until(&mut self, end: u64) {
        if end > self.at {
            self.steps.push(Step::Zeros(end - self.at));
            self.at = end;
        }
    }
}

impl Medium for Parts {
    fn is_fresh(&self) -> bool {
        true
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        debug_assert!(at >= self.at, "parts are sent in order");
        self.zeros_until(at);
        self.steps.push(Step::Bytes(bytes.to_vec()));
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self, _: u64, _: u64) -> Result<(), RestoreError> {
        Ok(())
    }

    fn room(&mut self) -> Result<bool, RestoreError> {
        Ok(self.steps.is_empty() || self.upload.add(&mut self.steps)?)
    }

    fn settle(&mut self) -> Settling {
        self.zeros_until(self.length);
        let end = self.upload.end(std::mem::take(&mut self.steps));
        Box::new(move || Ok(end()?))
    }

    fn stored(&self) -> Result<Arc<dyn Stored>, RestoreError> {
        let object = self.remote.open(&self.key, Reading::Ranges)?;
        Ok(Arc::new(StoredObject { object, place: self.remote.place(&self.key), length: self.length }))
    }

    fn publish(self: Box<Self>) -> Result<(), RestoreError> {
        Ok(())
    }

    fn abandon(mut self: Box<Self>) {
        if self.upload.stop() {
            // Nothing better can be done where even this fails, and the caller has an error already.
            self.remote.remove(&[self.key]).ok();
        }
    }
}

/// An object being read.
struct StoredObject {
    object: OpenObject,
    place: PathBuf,
    length: u64,
}

impl Stored for StoredObject {
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.object.read_at(at, buf).map_err(|err| StorageError::new("read", &self.place, err))
    }

    fn next_data(&self, at: u64) -> Result<Option<u64>, StorageError> {
        Ok((at < self.length).then_some(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_no_more_parts_than_a_store_takes() {
        for length in [1, SMALLEST, SMALLEST * PARTS, SMALLEST * PARTS + 1, 4 << 40, LARGEST * PARTS] {
            let part = part_length(length).unwrap();
            assert!(part >= 5 << 20 && length.div_ceil(part) <= PARTS, "{length}: {part}");
        }
        assert_eq!(part_length(LARGEST * PARTS + 1), None);
    }
}
