//! Writes a qcow2 image from its beginning to its end.
//!
//! ```text
//! header | table of the first level | table of counts | clusters and tables of the second level, as they come | counts
//! ```
//!
//! The first three have their places from the start, since their sizes follow from the disk's, and are written last, the
//! header at the very end. Memory: one table of the second level, and 8 bytes for each that there is. Deliberately not
//! here: reading it back.

use std::{ops::Range, sync::Arc};

use mobility_format::{BLOCK_SIZE, ByteCount, Digest, WINDOW_SIZE};

use super::{
    super::{
        RestoreError,
        layout::{Content, Layout, OpenError},
        medium::{Medium, Stored},
    },
    CLUSTER, COUNTED, ENTRIES, Header, MOST_TABLES, USED_ONCE,
    read::Opened,
};
use crate::content::Mask;

/// Clusters in a window, and blocks in a cluster.
const PER_WINDOW: u64 = WINDOW_SIZE as u64 / CLUSTER;
const BLOCKS: u64 = CLUSTER / BLOCK_SIZE as u64;

/// An image being written.
pub(in super::super) struct Qcow2 {
    header: Header,
    /// Where each table of the second level is; 0 where it maps nothing.
    tables: Vec<u64>,
    /// The number of the table that is being filled, and its entries.
    table: (u64, Vec<u64>),
    /// The first cluster of the file that is free.
    next: u64,
    /// All that is not content, to be compared when it is read back: what it is, where, its length and digest.
    structure: Vec<(&'static str, u64, usize, Digest)>,
}

impl Qcow2 {
    /// An image of a disk of this size, which is rounded up to whole sectors. Nothing where it is too large.
    pub(in super::super) fn new(size: ByteCount) -> Option<Qcow2> {
        let size = size.0.div_ceil(512) * 512;
        let (clusters, count) = (size.div_ceil(CLUSTER), size.div_ceil(CLUSTER * ENTRIES));
        if count > MOST_TABLES {
            return None;
        }
        let tables_clusters = (count * 8).div_ceil(CLUSTER).max(1);
        // Everything there can be, with room for the counts of the counts themselves.
        let most = 1 + tables_clusters + count + clusters;
        let counts = (most + most.div_ceil(COUNTED - 2) + 64).div_ceil(COUNTED);
        let counts_clusters = counts.div_ceil(ENTRIES);
        let header = Header {
            size,
            tables: count as u32,
            tables_at: CLUSTER,
            counts_at: (1 + tables_clusters) * CLUSTER,
            counts_clusters: counts_clusters as u32,
        };
        Some(Qcow2 {
            header,
            tables: vec![0; count as usize],
            table: (0, vec![0; ENTRIES as usize]),
            next: 1 + tables_clusters + counts_clusters,
            structure: Vec::new(),
        })
    }

    fn take(&mut self, clusters: u64) -> u64 {
        let at = self.next * CLUSTER;
        self.next += clusters;
        at
    }

    /// Writes something that is not content.
    fn put(
        &mut self,
        medium: &mut dyn Medium,
        what: &'static str,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), RestoreError> {
        self.structure.push((what, at, bytes.len(), Digest::of(bytes)));
        if at == 0 { medium.put_last(at, bytes) } else { medium.put(at, bytes) }
    }

    /// Goes on with the table of the second level that has this number.
    fn turn_to(&mut self, medium: &mut dyn Medium, number: u64) -> Result<(), RestoreError> {
        let (current, entries) = &self.table;
        let current = *current as usize;
        if current as u64 != number && entries.iter().any(|entry| *entry != 0) {
            let bytes = encode(entries);
            let at = self.take(1);
            self.put(medium, "a table of the second level", at, &bytes)?;
            self.tables[current] = at | USED_ONCE;
            self.table.1.fill(0);
        }
        self.table.0 = number;
        Ok(())
    }

    /// Writes the counts of all clusters, those of the counts included.
    fn write_counts(&mut self, medium: &mut dyn Medium) -> Result<(), RestoreError> {
        let mut blocks = self.next.div_ceil(COUNTED);
        while (self.next + blocks).div_ceil(COUNTED) > blocks {
            blocks += 1;
        }
        let first = self.take(blocks);
        let used = self.next;
        let mut places = vec![0; (u64::from(self.header.counts_clusters) * ENTRIES) as usize];
        for block in 0..blocks {
            let counts = (used - block * COUNTED).min(COUNTED) as usize;
            let mut bytes = vec![0; CLUSTER as usize];
            bytes[..2 * counts].chunks_exact_mut(2).for_each(|count| count[1] = 1);
            let at = first + block * CLUSTER;
            self.put(medium, "a block of counts", at, &bytes)?;
            places[block as usize] = at;
        }
        self.put(medium, "the table of counts", self.header.counts_at, &encode(&places))
    }
}

fn encode(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

impl Layout for Qcow2 {
    fn window(
        &mut self,
        medium: &mut dyn Medium,
        number: u64,
        data: Mask,
        bytes: &[u8],
    ) -> Result<u64, RestoreError> {
        let first = number * PER_WINDOW;
        self.turn_to(medium, first / ENTRIES)?;
        let mut written = 0;
        for run in clusters_of(data).chunk_by(|a, b| a + 1 == *b) {
            let from = (run[0] * CLUSTER) as usize;
            let Some(rest) = bytes.get(from..) else { break };
            let content = &rest[..rest.len().min(run.len() * CLUSTER as usize)];
            let at = self.take(run.len() as u64);
            medium.put(at, content)?;
            for (position, cluster) in run.iter().enumerate() {
                let entry = (first + cluster) % ENTRIES;
                self.table.1[entry as usize] = (at + position as u64 * CLUSTER) | USED_ONCE;
            }
            written += content.len() as u64;
        }
        Ok(written)
    }

    fn zeros(&mut self, _: &mut dyn Medium, _: Range<u64>) -> Result<(), RestoreError> {
        Ok(())
    }

    fn finish(&mut self, medium: &mut dyn Medium) -> Result<(), RestoreError> {
        self.turn_to(medium, u64::MAX)?;
        let mut tables = encode(&self.tables);
        tables.resize((self.header.counts_at - self.header.tables_at) as usize, 0);
        self.put(medium, "the table of the first level", self.header.tables_at, &tables)?;
        self.write_counts(medium)?;
        self.put(medium, "its header", 0, &self.header.encode())
    }

    fn open(&self, stored: Arc<dyn Stored>) -> Result<Arc<dyn Content>, OpenError> {
        for (what, at, length, digest) in &self.structure {
            let mut bytes = vec![0; *length];
            stored.read(*at, &mut bytes)?;
            if Digest::of(&bytes) != *digest {
                return Err(OpenError::Damaged(format!("{what}, at byte {at}")));
            }
        }
        Ok(Arc::new(Opened::new(stored)?))
    }
}

/// The clusters of a window in which there is data.
fn clusters_of(data: Mask) -> Vec<u64> {
    let mut clusters: Vec<u64> =
        data.runs().flat_map(|(first, count)| first / BLOCKS..(first + count).div_ceil(BLOCKS)).collect();
    clusters.dedup();
    clusters
}
