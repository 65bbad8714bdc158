//! One disk of one point, window by window, for many readers at once.
//!
//! Loading a catalog takes much longer than reading a window, so the reader is kept; finding out what a window is made of is done
//! by one thread at a time, reading and decoding it by several. What is merged meanwhile lies elsewhere afterwards: where something
//! is missing the catalog is loaded again, and the merged segments hold the same. Every stored extent is compared with its
//! digest on each of these ways. Deliberately not here: keeping what was decoded (`shelf`).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use mobility_format::{BlockIndex, DiskId, Epoch, MachineId, WINDOW_BLOCKS, WINDOW_SIZE};
use tokio::sync::Semaphore;

use super::{answer::STREAMS_OF_ONE, trail::Trail};
use crate::{
    Catalog, ContentError, WindowContent, WindowReader,
    content::{Assembler, WindowPlan, assembler, fill},
    storage::Stores,
};

/// How long what could not be found is not looked for again: a catalog is not loaded for every request that fails.
const REST: Duration = Duration::from_secs(5);
/// Damaged objects that are remembered as told.
const TOLD: usize = 256;

/// Which disk of which point.
pub(super) type Name = (MachineId, Epoch, DiskId);

static ZEROS: [u8; WINDOW_SIZE] = [0; WINDOW_SIZE];

/// A disk of a point.
pub(super) struct Disk {
    stores: Stores,
    name: Name,
    reader: Mutex<Reader>,
    assemblers: Mutex<Vec<Assembler>>,
    trail: Mutex<Trail>,
    told: Mutex<BTreeSet<String>>,
    /// Answers that may be streamed from it at once.
    pub(super) streams: Arc<Semaphore>,
}

#[derive(Default)]
struct Reader {
    reader: Option<WindowReader>,
    /// How often a catalog was loaded, and when the last time.
    loads: u64,
    loaded: Option<Instant>,
    /// It was loaded again because something was missing, and nothing was read with it so far.
    doubted: bool,
}

impl Disk {
    pub(super) fn new(stores: &Stores, name: Name) -> Disk {
        Disk {
            stores: stores.clone(),
            name,
            reader: Mutex::default(),
            assemblers: Mutex::default(),
            trail: Mutex::default(),
            told: Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS_OF_ONE)),
        }
    }

    pub(super) fn name(&self) -> Name {
        self.name
    }

    /// The bytes of a window, [`WINDOW_SIZE`] of them. May wait for storage.
    pub(super) fn window(&self, window: u64) -> Result<Bytes, ContentError> {
        let (mut loads, mut read) = self.read(window);
        if let Err(ContentError::Missing { .. } | ContentError::Unusable { .. }) = read
            && self.load_again(loads)
        {
            (loads, read) = self.read(window);
        }
        let content = read?;
        let mut kept = lock(&self.reader);
        kept.doubted &= kept.loads != loads;
        drop(kept);
        Ok(match content {
            WindowContent::Zero => Bytes::from_static(&ZEROS),
            WindowContent::Data(bytes) => Bytes::from(bytes),
        })
    }

    /// The content, and with the how-manieth catalog it was read.
    fn read(&self, window: u64) -> (u64, Result<WindowContent, ContentError>) {
        let block = BlockIndex(window.saturating_mul(WINDOW_BLOCKS));
        let (loads, plan) = {
            let mut kept = lock(&self.reader);
            let plan = self.loaded(&mut kept).and_then(|reader| reader.plan(block));
            (kept.loads, plan)
        };
        (loads, plan.and_then(|plan| self.fill(&plan)))
    }

    fn loaded<'a>(&self, kept: &'a mut Reader) -> Result<&'a mut WindowReader, ContentError> {
        let reader = match kept.reader.take() {
            Some(reader) => reader,
            None => {
                let (machine, epoch, disk) = self.name;
                (kept.loads, kept.loaded) = (kept.loads + 1, Some(Instant::now()));
                WindowReader::at(&Catalog::load(&self.stores, machine)?, disk, epoch)?
            }
        };
        Ok(kept.reader.insert(reader))
    }

    fn fill(&self, plan: &WindowPlan) -> Result<WindowContent, ContentError> {
        let kept = lock(&self.assemblers).pop();
        let mut assembler = kept.map_or_else(|| assembler(&self.stores), Ok)?;
        let content = fill(&mut assembler, plan);
        lock(&self.assemblers).push(assembler);
        content
    }

    /// Notes that `window` is asked for. Says whether the next ones may be, too.
    pub(super) fn is_read_in_order(&self, window: u64) -> bool {
        lock(&self.trail).goes_on_with(window)
    }

    /// Sees to it that the catalog is another one than the `loads`th, unless that was of no use just now.
    fn load_again(&self, loads: u64) -> bool {
        let mut kept = lock(&self.reader);
        if kept.loads != loads {
            return true;
        }
        if kept.doubted && kept.loaded.is_some_and(|loaded| loaded.elapsed() < REST) {
            return false;
        }
        kept.doubted = true;
        kept.reader = None;
        true
    }

    /// Whether this damage is news.
    pub(super) fn is_news(&self, err: &ContentError) -> bool {
        let mut told = lock(&self.told);
        told.len() < TOLD && told.insert(err.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
