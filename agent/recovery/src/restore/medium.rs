//! What an image is written to: bytes at offsets, made durable at the end, and read back.
//!
//! Four real implementations: an image file, a block device, a page blob, an object in parts. Deliberately not here: what the bytes mean
//! (`layout`).

use std::sync::Arc;

use super::RestoreError;
use crate::storage::StorageError;

/// Something that takes an image.
pub(super) trait Medium: Send {
    /// Whether everything is zero that is not put.
    fn is_fresh(&self) -> bool;

    /// Puts bytes. No byte is put twice.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError>;

    /// Makes it zero, where it is not so by itself.
    fn clear(&mut self, at: u64, length: u64) -> Result<(), RestoreError>;

    /// Keeps the image from looking like one before everything else is durable: put as the last.
    fn put_last(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.put(at, bytes)
    }

    /// Waits for a moment at most until there is room for another window, and says whether there is.
    fn room(&mut self) -> Result<bool, RestoreError> {
        Ok(true)
    }

    /// What makes everything durable. It may take long, so it runs beside the caller; after it nothing more is put.
    fn settle(&mut self) -> Settling;

    /// Opens what was written for reading, from the storage itself rather than from memory as far as that can be had.
    fn stored(&self) -> Result<Arc<dyn Stored>, RestoreError>;

    /// Gives the image its name.
    fn publish(self: Box<Self>) -> Result<(), RestoreError>;

    /// Removes what was begun, or makes it useless.
    fn abandon(self: Box<Self>);
}

/// Work that is done in a thread of its own.
pub(super) type Settling = Box<dyn FnOnce() -> Result<(), RestoreError> + Send>;

/// What was written, being read back by several threads.
pub(super) trait Stored: Send + Sync {
    /// Reads exactly so many bytes.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// The first byte from `at` on that may be other than zero; nothing where there is none any more.
    fn next_data(&self, at: u64) -> Result<Option<u64>, StorageError>;
}
