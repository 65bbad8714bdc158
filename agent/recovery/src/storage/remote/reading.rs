//! Reads an object in a store by ranges, without a request for each of them.
//!
//! A reader of segments asks for a header of 128 bytes, for an index in small pieces, and for one extent after the other
//! in the order of the disk. So what is less than a block is cut out of a block that is fetched once and kept for a while;
//! larger ranges are fetched as they are. Objects do not change, so nothing that is kept can be out of date. Deliberately
//! not here: deciding what to read.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mobility_format::segment::RangeRead;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, path::Path as Location};

use super::{Reading, Remote, failure};

/// The length of a block where ranges are read: about what an extent of 1 MiB takes compressed.
const RANGE_BLOCK: u64 = 256 << 10;
/// How many of them are kept for a store, over all open objects: 64 MiB.
const RANGE_BLOCKS: usize = 256;
/// The length of a block where an object is read from its beginning to its end.
const WHOLE_BLOCK: u64 = 4 << 20;
/// How many of them an object keeps: the one with the index, and the one being read.
const WHOLE_BLOCKS: usize = 2;

/// Blocks that were fetched lately, of all objects that are open.
#[derive(Debug)]
pub(super) struct BlockCache {
    most: usize,
    next: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<(u64, u64), Arc<[u8]>>,
    oldest_first: VecDeque<(u64, u64)>,
}

impl Default for BlockCache {
    fn default() -> Self {
        BlockCache::new(RANGE_BLOCKS)
    }
}

impl BlockCache {
    fn new(most: usize) -> BlockCache {
        BlockCache { most, next: AtomicU64::new(0), kept: Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: (u64, u64)) -> Option<Arc<[u8]>> {
        self.kept().blocks.get(&key).cloned()
    }

    fn keep(&self, key: (u64, u64), block: Arc<[u8]>) {
        let mut kept = self.kept();
        if kept.blocks.insert(key, block).is_none() {
            kept.oldest_first.push_back(key);
        }
        while kept.oldest_first.len() > self.most
            && let Some(oldest) = kept.oldest_first.pop_front()
        {
            kept.blocks.remove(&oldest);
        }
    }

    fn forget(&self, object: u64) {
        let mut kept = self.kept();
        kept.oldest_first.retain(|(of, _)| *of != object);
        kept.blocks.retain(|(of, _), _| *of != object);
    }
}

/// An object being read.
pub(super) struct RemoteObject {
    remote: Remote,
    location: Location,
    length: OnceLock<u64>,
    block: u64,
    blocks: Arc<BlockCache>,
    /// By which its blocks are told from those of others.
    number: u64,
}

impl RemoteObject {
    pub(super) fn new(remote: &Remote, key: &str, reading: Reading) -> RemoteObject {
        let (block, blocks) = match reading {
            Reading::Ranges => (RANGE_BLOCK, remote.blocks.clone()),
            Reading::Whole => (WHOLE_BLOCK, Arc::new(BlockCache::new(WHOLE_BLOCKS))),
        };
        let number = blocks.next.fetch_add(1, Ordering::Relaxed);
        let (remote, location) = (remote.clone(), remote.location(key));
        RemoteObject { remote, location, length: OnceLock::new(), block, blocks, number }
    }

    /// Fetches a range, which ends early where the object does; learns the object's length by the way.
    fn fetch(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let get = async {
            let options = GetOptions { range: Some((start..end).into()), ..GetOptions::default() };
            let got = self.remote.store.get_opts(&self.location, options).await?;
            let length = got.meta.size;
            Ok((length, got.bytes().await?))
        };
        let got: object_store::Result<_> = self.remote.runtime.block_on(get);
        let (length, bytes) = got.map_err(|err| failure::as_io_error(&err))?;
        if *self.length.get_or_init(|| length) != length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the object changed while it was read"));
        }
        Ok(bytes.into())
    }

    fn block(&self, number: u64) -> io::Result<Arc<[u8]>> {
        if let Some(block) = self.blocks.get((self.number, number)) {
            return Ok(block);
        }
        let start = number * self.block;
        let end = self.length.get().map_or(start + self.block, |length| (start + self.block).min(*length));
        let block: Arc<[u8]> = self.fetch(start, end)?.into();
        self.blocks.keep((self.number, number), block.clone());
        Ok(block)
    }
}

impl RangeRead for RemoteObject {
    /// Comes with the first block, which is needed anyway. An object without any bytes has none, and is asked for.
    fn length(&self) -> io::Result<u64> {
        if let Some(length) = self.length.get() {
            return Ok(*length);
        }
        match (self.block(0), self.length.get()) {
            (Ok(_), Some(length)) => Ok(*length),
            (Err(err), _) if err.kind() == io::ErrorKind::NotFound => Err(err),
            (other, _) => {
                let head = self.remote.runtime.block_on(self.remote.store.head(&self.location));
                match (head, other) {
                    (Ok(meta), _) if meta.size == 0 => Ok(0),
                    (Err(err), _) => Err(failure::as_io_error(&err)),
                    (_, Err(err)) => Err(err),
                    (Ok(meta), Ok(_)) => Ok(meta.size),
                }
            }
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = self.length()?;
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if buf.len() as u64 >= self.block {
            return copy_exactly(&self.fetch(offset, end)?, buf);
        }
        let mut at = offset;
        while at < end {
            let (number, within) = (at / self.block, (at % self.block) as usize);
            let count = (self.block as usize - within).min((end - at) as usize);
            let (block, filled) = (self.block(number)?, (at - offset) as usize);
            let part = block.get(within..within + count).unwrap_or_default();
            copy_exactly(part, &mut buf[filled..filled + count])?;
            at += count as u64;
        }
        Ok(())
    }
}

/// A store that answers with less than it was asked for has not answered; the object may well be whole.
fn copy_exactly(bytes: &[u8], buf: &mut [u8]) -> io::Result<()> {
    if bytes.len() != buf.len() {
        let problem = "the store sent less than it was asked for";
        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem));
    }
    buf.copy_from_slice(bytes);
    Ok(())
}

impl Drop for RemoteObject {
    fn drop(&mut self) {
        self.blocks.forget(self.number);
    }
}

impl fmt::Debug for RemoteObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteObject({})", self.location)
    }
}
