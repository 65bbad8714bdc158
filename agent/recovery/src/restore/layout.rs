//! How content lies in an image: what both writes it and finds it again.
//!
//! Deliberately not here: where the image is (`medium`), and each format's own structures.

use std::{ops::Range, sync::Arc};

use super::{
    RestoreError,
    medium::{Medium, Stored},
};
use crate::{content::Mask, storage::StorageError};

/// A format being written.
pub(super) trait Layout {
    /// Takes a window: `bytes` is its content as far as the disk goes, of which the blocks `data` are not known to be
    /// zero. Windows come in the order of the disk. Returns how many bytes were written.
    fn window(
        &mut self,
        medium: &mut dyn Medium,
        number: u64,
        data: Mask,
        bytes: &[u8],
    ) -> Result<u64, RestoreError>;

    /// Takes windows that are zero.
    fn zeros(&mut self, medium: &mut dyn Medium, windows: Range<u64>) -> Result<(), RestoreError>;

    /// Writes what is known at the end only.
    fn finish(&mut self, medium: &mut dyn Medium) -> Result<(), RestoreError>;

    /// Opens what was written by its own structures.
    fn open(&self, stored: Arc<dyn Stored>) -> Result<Arc<dyn Content>, OpenError>;
}

/// An image that was written cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It is not what was written: how.
    Damaged(String),
    /// It cannot be read.
    Storage(StorageError),
}

impl From<StorageError> for OpenError {
    fn from(err: StorageError) -> OpenError {
        OpenError::Storage(err)
    }
}

/// The content of an image.
pub(super) trait Content: Send + Sync {
    /// The first window from `from` on that may be other than zero.
    fn next_data(&self, from: u64) -> Result<Option<u64>, StorageError>;

    /// Fills a window; what lies behind the disk's end does not matter.
    fn fill(&self, window: u64, bytes: &mut [u8]) -> Result<(), StorageError>;
}
