//! The content of one disk at one epoch, window by window in any order: for the audit, for a resync, and to rebuild a
//! table of block digests.
//!
//! No lock is held, because an audit takes days: a segment that was pruned in the meantime is reported as missing, and
//! the caller loads the catalog again; the merged segments hold the same content. Memory: the list of segments, and at
//! most [`OPEN_SEGMENTS`] of them open. Deliberately not here: comparing anything with a disk.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mobility_format::{
    BLOCK_SIZE, BlockDigest, BlockIndex, BlockRange, ByteCount, DiskId, Epoch, WINDOW_BLOCKS, WINDOW_SIZE,
};

use super::{Assembler, ContentError, Layer, ObjectPool, OpenSegment, Sweep, WindowPlan};
use crate::{
    Catalog,
    storage::{Reading, StorageError, Stores},
};

const OPEN_SEGMENTS: usize = 64;

/// What a window holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowContent {
    /// All its blocks are zero.
    Zero,
    /// Its [`WINDOW_SIZE`] bytes; behind the disk's end they are zero.
    Data(Box<[u8]>),
}

/// The digests of a window's 256 blocks; those behind the disk's end count as zero.
#[must_use]
pub fn block_digests(window: &WindowContent) -> [BlockDigest; WINDOW_BLOCKS as usize] {
    let mut digests = [BlockDigest::ZERO_BLOCK; WINDOW_BLOCKS as usize];
    if let WindowContent::Data(bytes) = window {
        for (digest, block) in digests.iter_mut().zip(bytes.chunks_exact(BLOCK_SIZE)) {
            *digest = BlockDigest::of(block);
        }
    }
    digests
}

/// Reads windows of one disk as of one epoch.
pub struct WindowReader {
    epoch: Epoch,
    size: ByteCount,
    layers: Vec<Layer>,
    pool: Arc<ObjectPool>,
    open: BTreeMap<usize, Arc<OpenSegment>>,
    opened: VecDeque<usize>,
    assembler: Assembler,
}

impl WindowReader {
    /// The disk as the newest manifest that names it left it, be that a point or a checkpoint.
    ///
    /// # Errors
    /// [`ContentError::Unusable`] where the disk is not known or something it needs is damaged.
    pub fn at_head(catalog: &Catalog, disk: DiskId) -> Result<WindowReader, ContentError> {
        let named =
            catalog.manifests.iter().rev().find(|(_, stored)| stored.signed.manifest.disk(disk).is_some());
        let unknown = || ContentError::Unusable {
            disk,
            epoch: catalog.manifests.last_key_value().map_or(Epoch(0), |(epoch, _)| *epoch),
            reason: "the machine has no such disk".to_owned(),
        };
        WindowReader::at(catalog, disk, named.map(|(epoch, _)| *epoch).ok_or_else(unknown)?)
    }

    /// The disk at the end of `epoch`.
    ///
    /// # Errors
    /// As [`WindowReader::at_head`].
    pub fn at(catalog: &Catalog, disk: DiskId, epoch: Epoch) -> Result<WindowReader, ContentError> {
        let layers = catalog.layers(disk, epoch)?;
        let size =
            catalog.manifest(epoch).and_then(|signed| signed.manifest.disk(disk)).map(|state| state.size);
        let reason = "the disk is not part of it".to_owned();
        Ok(WindowReader {
            epoch,
            size: size.ok_or(ContentError::Unusable { disk, epoch, reason })?,
            layers,
            pool: ObjectPool::new(&catalog.stores, Reading::Ranges),
            open: BTreeMap::new(),
            opened: VecDeque::new(),
            assembler: assembler(&catalog.stores)?,
        })
    }

    /// The disk's size.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// Whose end the content is that of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The content of the window that `block` lies in.
    ///
    /// # Errors
    /// What is damaged, missing or unreadable.
    pub fn window(&mut self, block: BlockIndex) -> Result<WindowContent, ContentError> {
        let plan = self.plan(block)?;
        fill(&mut self.assembler, &plan)
    }

    /// What the window that `block` lies in is made of, from the indexes alone.
    pub(crate) fn plan(&mut self, block: BlockIndex) -> Result<WindowPlan, ContentError> {
        let start = block.window_start();
        let end = BlockIndex((start.0 + WINDOW_BLOCKS).min(self.size.blocks()));
        let mut plan = WindowPlan::new(start);
        for rank in (0..self.layers.len()).rev() {
            let layer = &self.layers[rank];
            if layer.first_block() >= end || layer.end_block() <= start || plan.said == super::Mask::FULL {
                continue;
            }
            self.offer(&mut plan, rank, BlockRange { start, count: end.0.saturating_sub(start.0) })?;
        }
        Ok(plan.complete())
    }

    fn offer(&mut self, plan: &mut WindowPlan, rank: usize, window: BlockRange) -> Result<(), ContentError> {
        let source = match &self.layers[rank] {
            Layer::Cleared(range) => {
                plan.offer(range.intersection(window), None);
                return Ok(());
            }
            Layer::Segment(source) => *source,
        };
        let segment = match self.open.get(&rank) {
            Some(segment) => segment.clone(),
            None => {
                let segment = Arc::new(source.open(&self.pool)?);
                self.remember(rank, segment.clone());
                segment
            }
        };
        let entries = segment.reader.entries_from(window.start).map_err(|err| segment.failed(err))?;
        for entry in entries {
            let entry = entry.map_err(|err| segment.failed(err))?;
            if entry.start >= window.end() {
                break;
            }
            plan.offer(entry.range().intersection(window), Some((&segment, &entry)));
        }
        Ok(())
    }

    fn remember(&mut self, rank: usize, segment: Arc<OpenSegment>) {
        self.open.insert(rank, segment);
        self.opened.push_back(rank);
        if self.opened.len() > OPEN_SEGMENTS
            && let Some(oldest) = self.opened.pop_front()
        {
            self.open.remove(&oldest);
        }
    }

    /// All windows in order, in one sweep: each segment is opened once.
    ///
    /// # Errors
    /// When the working memory for it cannot be had.
    pub fn windows(&self) -> Result<Windows, ContentError> {
        let mut sweep = Sweep::new(self.pool.stores(), self.layers.clone(), self.size.blocks());
        let planned = sweep.next().transpose()?;
        let assembler = assembler(self.pool.stores())?;
        Ok(Windows { sweep, planned, assembler, at: BlockIndex(0), end: self.size.blocks(), failed: false })
    }
}

/// What fills windows from these stores.
pub(crate) fn assembler(stores: &Stores) -> Result<Assembler, ContentError> {
    Assembler::new().map_err(|err| {
        StorageError::new("get working memory to decompress", &stores.target().place(""), err).into()
    })
}

/// The content that a plan says.
pub(crate) fn fill(assembler: &mut Assembler, plan: &WindowPlan) -> Result<WindowContent, ContentError> {
    if plan.pieces.is_empty() {
        return Ok(WindowContent::Zero);
    }
    let mut bytes = vec![0; WINDOW_SIZE].into_boxed_slice();
    assembler.fill(plan, &mut bytes)?;
    Ok(WindowContent::Data(bytes))
}

/// The windows of a disk in order, with the first block of each. Ends after the first error.
pub struct Windows {
    sweep: Sweep,
    planned: Option<WindowPlan>,
    assembler: Assembler,
    at: BlockIndex,
    end: u64,
    failed: bool,
}

impl Windows {
    fn step(&mut self) -> Result<(BlockIndex, WindowContent), ContentError> {
        let at = self.at;
        self.at = BlockIndex(at.0 + WINDOW_BLOCKS);
        let Some(plan) = self.planned.take_if(|plan| plan.window == at) else {
            return Ok((at, WindowContent::Zero));
        };
        self.planned = self.sweep.next().transpose()?;
        Ok((at, fill(&mut self.assembler, &plan)?))
    }
}

impl Iterator for Windows {
    type Item = Result<(BlockIndex, WindowContent), ContentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at.0 >= self.end {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        Some(step)
    }
}
