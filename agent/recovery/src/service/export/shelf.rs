//! What was decoded, kept for who reads it next: a window of 1 MiB is decoded once, also where a tool asks for it in pieces of 4 KiB,
//! or several ask at once.
//!
//! Bounded in windows, in disks and in threads, whoever reads how many exports. Where somebody reads in order, the next ones are fetched
//! ahead if a thread is free. Deliberately not here: reading a window (`disk`), what is in order (`trail`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::body::Bytes;
use mobility_format::{ByteCount, WINDOW_SIZE};
use tokio::sync::{OnceCell, Semaphore};

use super::{
    answer::STREAMS,
    disk::{Disk, Name},
};
use crate::{ContentError, storage::Stores};

/// Decoded windows that are kept: 128 MiB.
const WINDOWS: usize = 128;
/// Disks whose readers are kept.
const DISKS: usize = 64;
/// Threads that fetch windows, for each core.
const THREADS: usize = 4;
/// How many windows are fetched ahead.
const AHEAD: u64 = 2;

/// Why a window cannot be had. Several may wait for the same one.
pub(super) type Failure = Arc<ContentError>;

type Window = (Name, u64);

/// Things by name, each with when it was used last.
type Used<K, V> = Mutex<HashMap<K, (u64, V)>>;

/// All that is read of exports, and what was read.
pub(crate) struct Shelf {
    stores: Stores,
    disks: Used<Name, Arc<Disk>>,
    windows: Used<Window, Arc<OnceCell<Bytes>>>,
    clock: AtomicU64,
    threads: Arc<Semaphore>,
    /// Answers that may be streamed at once.
    pub(super) streams: Arc<Semaphore>,
}

impl Shelf {
    pub(crate) fn new(stores: &Stores) -> Arc<Shelf> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Shelf {
            stores: stores.clone(),
            disks: Mutex::default(),
            windows: Mutex::default(),
            clock: AtomicU64::new(0),
            threads: Arc::new(Semaphore::new(cores * THREADS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
        })
    }

    /// A disk of a point.
    pub(super) fn disk(&self, name: Name) -> Arc<Disk> {
        let now = self.now();
        let mut disks = lock(&self.disks);
        let (used, disk) =
            disks.entry(name).or_insert_with(|| (now, Arc::new(Disk::new(&self.stores, name))));
        *used = now;
        let disk = disk.clone();
        drop_oldest(&mut disks, DISKS);
        disk
    }

    /// A window of a disk that is so long; the ones after it are fetched ahead where that seems to be of use.
    pub(super) async fn window(
        self: &Arc<Self>,
        disk: &Arc<Disk>,
        window: u64,
        size: ByteCount,
    ) -> Result<Bytes, Failure> {
        if disk.is_read_in_order(window) {
            for next in (window + 1..=window + AHEAD).take_while(|next| next * (WINDOW_SIZE as u64) < size.0)
            {
                self.ahead(disk, next);
            }
        }
        self.get(disk, window).await
    }

    async fn get(&self, disk: &Arc<Disk>, window: u64) -> Result<Bytes, Failure> {
        let cell = self.cell((disk.name(), window));
        let fetched = cell.get_or_try_init(|| async {
            // It is never closed.
            let turn = self.threads.clone().acquire_owned().await.ok();
            let disk = disk.clone();
            let fetch = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                disk.window(window).map_err(Arc::new)
            });
            fetch.await.unwrap_or_else(|err| Err(Arc::new(panicked(&err))))
        });
        let fetched = fetched.await.cloned();
        if fetched.is_err() {
            lock(&self.windows).remove(&(disk.name(), window));
        }
        fetched
    }

    fn ahead(self: &Arc<Self>, disk: &Arc<Disk>, window: u64) {
        // What is only perhaps of use does not keep others waiting.
        if self.threads.available_permits() <= 1 || lock(&self.windows).contains_key(&(disk.name(), window)) {
            return;
        }
        let (shelf, disk) = (self.clone(), disk.clone());
        // What fails fails again for who asks for it, and is told then.
        tokio::spawn(async move { shelf.get(&disk, window).await.ok() });
    }

    fn cell(&self, window: Window) -> Arc<OnceCell<Bytes>> {
        let now = self.now();
        let mut windows = lock(&self.windows);
        let (used, cell) = windows.entry(window).or_default();
        *used = now;
        let cell = cell.clone();
        drop_oldest(&mut windows, WINDOWS);
        cell
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

fn drop_oldest<K: Copy + Eq + std::hash::Hash, V>(kept: &mut HashMap<K, (u64, V)>, most: usize) {
    while kept.len() > most {
        let Some(oldest) = kept.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key) else {
            return;
        };
        kept.remove(&oldest);
    }
}

fn panicked(err: &tokio::task::JoinError) -> ContentError {
    let source = std::io::Error::other(err.to_string());
    crate::StorageError { action: "read", path: "target storage".into(), source }.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
