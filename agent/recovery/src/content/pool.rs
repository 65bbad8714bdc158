//! A bounded number of open objects behind any number of segments. Thousands of epochs may reach into one window; the
//! limit on open files of most systems is 1024.
//!
//! Deliberately not here: anything that knows what the objects hold.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mobility_format::segment::RangeRead;

use crate::storage::{OpenObject, Reading, Stores};

/// The most objects held open by one pool.
const OPEN_OBJECTS: usize = 256;

/// Opens objects of target storage again when they are needed, and closes those opened longest ago.
#[derive(Debug)]
pub(crate) struct ObjectPool {
    stores: Stores,
    reading: Reading,
    next: AtomicU64,
    open: Mutex<OpenObjects>,
}

#[derive(Debug, Default)]
struct OpenObjects {
    by_number: HashMap<u64, OpenObject>,
    oldest_first: VecDeque<u64>,
}

impl ObjectPool {
    /// A pool of objects that are read in this way.
    pub(crate) fn new(stores: &Stores, reading: Reading) -> Arc<ObjectPool> {
        let (next, open) = (AtomicU64::new(0), Mutex::default());
        Arc::new(ObjectPool { stores: stores.clone(), reading, next, open })
    }

    /// Where the pool's objects are.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// An object of this pool.
    pub(crate) fn object(self: &Arc<Self>, key: String) -> PooledObject {
        PooledObject { pool: self.clone(), number: self.next.fetch_add(1, Ordering::Relaxed), key }
    }

    fn get(&self, number: u64, key: &str) -> io::Result<OpenObject> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = lock().by_number.get(&number) {
            return Ok(object.clone());
        }
        let object = self.stores.target().open(key, self.reading).map_err(|err| err.source)?;
        let mut open = lock();
        if open.by_number.insert(number, object.clone()).is_none() {
            open.oldest_first.push_back(number);
        }
        if open.oldest_first.len() > OPEN_OBJECTS
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_number.remove(&oldest);
        }
        Ok(object)
    }

    fn close(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.by_number.remove(&number).is_some() {
            open.oldest_first.retain(|other| *other != number);
        }
    }
}

/// An object that is opened when it is read.
#[derive(Debug)]
pub(crate) struct PooledObject {
    pool: Arc<ObjectPool>,
    number: u64,
    key: String,
}

impl PooledObject {
    /// Where it is, for people.
    pub(crate) fn place(&self) -> std::path::PathBuf {
        self.pool.stores.target().place(&self.key)
    }
}

impl RangeRead for PooledObject {
    fn length(&self) -> io::Result<u64> {
        self.pool.get(self.number, &self.key)?.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.pool.get(self.number, &self.key)?.read_at(offset, buf)
    }
}

impl Drop for PooledObject {
    fn drop(&mut self) {
        self.pool.close(self.number);
    }
}
