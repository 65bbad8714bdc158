//! Load: writers that never wait for anyone but the device.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

use mobility_format::BLOCK_SIZE;
use mobility_tests::dice::Dice;

use super::support::{Aligned, noise, open_direct};

/// Threads that write to random places of a device as fast as they can, until told to rest.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    rest: AtomicBool,
    resting: AtomicUsize,
    writes: AtomicU64,
}

impl Load {
    /// Starts `threads` writers to the first `bytes` of `device`: most writes are a block, some less or more.
    pub(super) fn on(device: &Path, bytes: u64, threads: u64) -> Load {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            resting: AtomicUsize::new(0),
            writes: AtomicU64::new(0),
        });
        let threads = (0..threads).map(|seed| {
            let (shared, file) = (shared.clone(), open_direct(device));
            thread::spawn(move || shared.write(&file, bytes, seed))
        });
        Load { threads: threads.collect(), shared }
    }

    /// Returns when no write is under way, and none will be until [`Load::resume`].
    pub(super) fn rest(&self) {
        self.shared.rest.store(true, SeqCst);
        while self.shared.resting.load(SeqCst) < self.threads.len() {
            thread::yield_now();
        }
    }

    pub(super) fn resume(&self) {
        self.shared.rest.store(false, SeqCst);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        while self.shared.resting.load(SeqCst) > 0 {
            thread::yield_now();
        }
    }

    pub(super) fn writes(&self) -> u64 {
        self.shared.writes.load(SeqCst)
    }

    /// Returns when `count` more writes have ended.
    pub(super) fn wait_for(&self, count: u64) {
        let target = self.writes() + count;
        while self.writes() < target {
            thread::yield_now();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a writer failed");
        }
    }
}

impl Shared {
    fn write(&self, file: &File, bytes: u64, seed: u64) {
        let mut dice = Dice::new(seed + 1);
        let mut buffer = Aligned::new(16 * BLOCK_SIZE);
        buffer.bytes().copy_from_slice(&noise(seed, 16 * BLOCK_SIZE));
        while !self.stop.load(SeqCst) {
            if self.rest.load(SeqCst) {
                self.resting.fetch_add(1, SeqCst);
                while self.rest.load(SeqCst) && !self.stop.load(SeqCst) {
                    thread::park();
                }
                self.resting.fetch_sub(1, SeqCst);
                continue;
            }
            let len = match dice.number() % 16 {
                0 => 512,
                1 => 16 * BLOCK_SIZE,
                _ => BLOCK_SIZE,
            };
            let offset = dice.number() % (bytes / len as u64) * len as u64;
            buffer.bytes()[..8].copy_from_slice(&dice.number().to_le_bytes());
            file.write_all_at(&buffer.bytes()[..len], offset).unwrap();
            self.writes.fetch_add(1, SeqCst);
        }
    }
}
