//! Raw images and fixed VHDs: the content as it is, and behind it nothing or a footer.
//!
//! Deliberately not here: what is in the footer (`vhd`).

use std::{ops::Range, sync::Arc};

use mobility_format::{BLOCK_SIZE, ByteCount, WINDOW_SIZE};

use super::{
    RestoreError,
    layout::{Content, Layout, OpenError},
    medium::{Medium, Stored},
    proof::{length_of, windows_of},
    vhd,
};
use crate::{content::Mask, storage::StorageError};

const WINDOW: u64 = WINDOW_SIZE as u64;

/// A disk as it is.
pub(super) struct Flat {
    size: ByteCount,
    footer: Option<[u8; vhd::FOOTER]>,
}

impl Flat {
    pub(super) fn raw(size: ByteCount) -> Flat {
        Flat { size, footer: None }
    }

    pub(super) fn vhd(size: ByteCount, footer: &[u8; vhd::FOOTER]) -> Flat {
        Flat { size, footer: Some(*footer) }
    }

    /// Where the content with its padding ends.
    fn end(&self) -> u64 {
        if self.footer.is_some() { vhd::rounded(self.size).0 } else { self.size.0 }
    }

    /// How long the image is.
    pub(super) fn length(&self) -> u64 {
        self.end() + self.footer.map_or(0, |footer| footer.len() as u64)
    }
}

impl Layout for Flat {
    fn window(
        &mut self,
        medium: &mut dyn Medium,
        number: u64,
        data: Mask,
        bytes: &[u8],
    ) -> Result<u64, RestoreError> {
        let data = if medium.is_fresh() { data } else { Mask::FULL };
        let mut written = 0;
        for (first, count) in data.runs() {
            let from = (first as usize * BLOCK_SIZE).min(bytes.len());
            let run = &bytes[from..bytes.len().min(from + count as usize * BLOCK_SIZE)];
            medium.put(number * WINDOW + from as u64, run)?;
            written += run.len() as u64;
        }
        Ok(written)
    }

    fn zeros(&mut self, medium: &mut dyn Medium, windows: Range<u64>) -> Result<(), RestoreError> {
        let (start, end) = (windows.start * WINDOW, (windows.end * WINDOW).min(self.size.0));
        medium.clear(start, end - start)
    }

    fn finish(&mut self, medium: &mut dyn Medium) -> Result<(), RestoreError> {
        if self.end() > self.size.0 {
            medium.clear(self.size.0, self.end() - self.size.0)?;
        }
        self.footer.map_or(Ok(()), |footer| medium.put_last(self.end(), &footer))
    }

    fn open(&self, stored: Arc<dyn Stored>) -> Result<Arc<dyn Content>, OpenError> {
        if let Some(expected) = self.footer {
            let mut footer = [0; vhd::FOOTER];
            stored.read(self.end(), &mut footer)?;
            if footer != expected {
                return Err(OpenError::Damaged("its footer".to_owned()));
            }
        }
        let mut padding = vec![0; (self.end() - self.size.0) as usize];
        if !padding.is_empty() {
            stored.read(self.size.0, &mut padding)?;
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(OpenError::Damaged("what lies between the disk's end and the footer".to_owned()));
        }
        Ok(Arc::new(Opened { size: self.size, stored }))
    }
}

struct Opened {
    size: ByteCount,
    stored: Arc<dyn Stored>,
}

impl Content for Opened {
    fn next_data(&self, from: u64) -> Result<Option<u64>, StorageError> {
        let window = self.stored.next_data(from * WINDOW)?.map(|at| at / WINDOW);
        Ok(window.filter(|window| *window < windows_of(self.size)))
    }

    fn fill(&self, window: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.stored.read(window * WINDOW, &mut bytes[..length_of(window, self.size)])
    }
}
