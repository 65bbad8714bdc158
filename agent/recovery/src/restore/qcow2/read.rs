//! Finds the content of a qcow2 image by the image's own tables, to see that it can be found.
//!
//! Reads what `write` writes, and nothing else of the format. Deliberately not here: images of others.

use std::sync::{Arc, Mutex, PoisonError};

use mobility_format::WINDOW_SIZE;

use super::{
    super::{
        layout::{Content, OpenError},
        medium::Stored,
    },
    CLUSTER, ENTRIES, HEADER, Header, OFFSET,
};
use crate::storage::StorageError;

const PER_WINDOW: u64 = WINDOW_SIZE as u64 / CLUSTER;
const WINDOWS: u64 = ENTRIES / PER_WINDOW;

/// An image that can be read.
pub(super) struct Opened {
    stored: Arc<dyn Stored>,
    tables: Vec<u64>,
    /// The table of the second level that was used last, with its number.
    table: Mutex<(u64, Arc<[u64]>)>,
}

impl Opened {
    pub(super) fn new(stored: Arc<dyn Stored>) -> Result<Opened, OpenError> {
        let mut bytes = [0; HEADER];
        stored.read(0, &mut bytes)?;
        let damaged = || OpenError::Damaged("its header".to_owned());
        let header = Header::decode(&bytes).ok_or_else(damaged)?;
        let tables = entries(&*stored, header.tables_at, u64::from(header.tables))?;
        Ok(Opened { stored, tables, table: Mutex::new((u64::MAX, Arc::new([]))) })
    }

    fn table(&self, number: u64) -> Result<Arc<[u64]>, StorageError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0 != number {
            let at = self.tables.get(number as usize).copied().unwrap_or(0);
            let read = if at == 0 { vec![0; ENTRIES as usize] } else { entries(&*self.stored, at, ENTRIES)? };
            *table = (number, read.into());
        }
        Ok(table.1.clone())
    }
}

/// The offsets that a table has.
fn entries(stored: &dyn Stored, at: u64, count: u64) -> Result<Vec<u64>, StorageError> {
    let mut bytes = vec![0; count as usize * 8];
    stored.read(at, &mut bytes)?;
    let entry = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) & OFFSET;
    Ok(bytes.chunks_exact(8).map(entry).collect())
}

impl Content for Opened {
    fn next_data(&self, from: u64) -> Result<Option<u64>, StorageError> {
        let mut window = from;
        while window / WINDOWS < self.tables.len() as u64 {
            let number = window / WINDOWS;
            let first = (window % WINDOWS * PER_WINDOW) as usize;
            if self.tables[number as usize] != 0
                && let Some(found) = self.table(number)?[first..].iter().position(|entry| *entry != 0)
            {
                return Ok(Some(window + found as u64 / PER_WINDOW));
            }
            window = (number + 1) * WINDOWS;
        }
        Ok(None)
    }

    fn fill(&self, window: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let table = self.table(window / WINDOWS)?;
        let first = (window % WINDOWS * PER_WINDOW) as usize;
        let entries = &table[first..first + PER_WINDOW as usize];
        let mut done = 0;
        // What lies side by side in the file as well is read at once.
        for run in entries.chunk_by(|a, b| (*a == 0 && *b == 0) || (*a != 0 && a + CLUSTER == *b)) {
            let part = &mut bytes[done..done + run.len() * CLUSTER as usize];
            match run[0] {
                0 => part.fill(0),
                at => self.stored.read(at, part)?,
            }
            done += run.len() * CLUSTER as usize;
        }
        Ok(())
    }
}
