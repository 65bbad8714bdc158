//! Writers that leave a verifiable order across several disks: record `n + 1` of a chain is issued, to the next disk,
//! only after `n` completed. A copy that shows `n + 1` and lacks `n` was not taken at one instant.
//!
//! Every record has a block of its own and a digest, so that a torn one is noticed, too. Deliberately not here: load that
//! says nothing about order (`load`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::OFlags;

use crate::load::aligned;

const BLOCK: usize = 4096;
const MAGIC: [u8; 8] = *b"ordered\n";
/// Odd, so that it visits all of a region whose size is a power of two.
const STRIDE: u64 = 0x9e37_79b9 | 1;

/// Where records of each chain go.
#[derive(Clone, Copy, Debug)]
pub struct Chains {
    /// How many chains there are.
    pub chains: u64,
    /// How many disks.
    pub disks: u64,
    /// How many blocks each chain has on each disk; a power of two.
    pub blocks: u64,
}

impl Chains {
    /// Chains that use `size` bytes of each of `disks` disks.
    #[must_use]
    pub fn new(chains: u64, disks: u64, size: u64) -> Chains {
        let blocks = size / BLOCK as u64 / chains;
        Chains { chains, disks, blocks: 1 << blocks.ilog2() }
    }

    fn place(&self, chain: u64, n: u64) -> (usize, u64) {
        let slot = (n / self.disks).wrapping_mul(STRIDE) % self.blocks;
        ((n % self.disks) as usize, (chain * self.blocks + slot) * BLOCK as u64)
    }

    fn records(&self) -> u64 {
        self.blocks * self.disks
    }

    /// How many records of each chain the images hold.
    ///
    /// # Errors
    /// The record that is torn, in a wrong place, or there without one that came before it.
    ///
    /// # Panics
    /// When an image cannot be read.
    pub fn check(&self, images: &[PathBuf]) -> Result<Vec<u64>, String> {
        let mut found = vec![Vec::new(); self.chains as usize];
        for (disk, image) in images.iter().enumerate() {
            self.collect(disk, image, &mut found)?;
        }
        let prefix = |(chain, mut found): (usize, Vec<u64>)| {
            found.sort_unstable();
            match found.iter().enumerate().find(|&(at, &n)| at as u64 != n) {
                Some((at, n)) => Err(format!("chain {chain} has record {n} and lacks record {at}")),
                None => Ok(found.len() as u64),
            }
        };
        found.into_iter().enumerate().map(prefix).collect()
    }

    fn collect(&self, disk: usize, image: &Path, found: &mut [Vec<u64>]) -> Result<(), String> {
        let mut file = File::open(image).unwrap();
        let mut buffer = vec![0; 256 * BLOCK];
        for at in (0..self.chains * self.blocks).step_by(256) {
            let length = buffer.len().min((self.chains * self.blocks - at) as usize * BLOCK);
            file.read_exact(&mut buffer[..length]).unwrap();
            for (index, block) in buffer[..length].chunks(BLOCK).enumerate() {
                let offset = (at + index as u64) * BLOCK as u64;
                if let Some((chain, n)) =
                    parse(block).map_err(|what| format!("disk {disk} at {offset}: {what}"))?
                {
                    if self.place(chain, n) != (disk, offset) {
                        return Err(format!("record {n} of chain {chain} is on disk {disk} at {offset}"));
                    }
                    found[chain as usize].push(n);
                }
            }
        }
        Ok(())
    }
}

fn parse(block: &[u8]) -> Result<Option<(u64, u64)>, &'static str> {
    if block.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let (body, digest) = block.split_at(BLOCK - 32);
    if body[..8] != MAGIC || blake3::hash(body).as_bytes() != digest {
        return Err("a torn record");
    }
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
    Ok(Some((number(8), number(16))))
}

fn fill(block: &mut [u8], chain: u64, n: u64) {
    block[..8].copy_from_slice(&MAGIC);
    block[8..16].copy_from_slice(&chain.to_le_bytes());
    block[16..24].copy_from_slice(&n.to_le_bytes());
    for (at, byte) in block[24..BLOCK - 32].iter_mut().enumerate() {
        *byte = (n as usize).wrapping_mul(31).wrapping_add(at * 7) as u8;
    }
    let digest = *blake3::hash(&block[..BLOCK - 32]).as_bytes();
    block[BLOCK - 32..].copy_from_slice(&digest);
}

/// Running writers.
#[derive(Debug)]
pub struct Ordered {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Timestamp>>>,
}

impl Ordered {
    /// Starts one writer for each chain; each waits `pause` after every record.
    ///
    /// # Panics
    /// When a disk cannot be opened.
    #[must_use]
    pub fn start(disks: &[&Path], chains: Chains, pause: Duration) -> Ordered {
        let stop = Arc::new(AtomicBool::new(false));
        let open = |disk: &&Path| {
            let flags = (OFlags::DIRECT | OFlags::SYNC).bits().cast_signed();
            OpenOptions::new().write(true).custom_flags(flags).open(disk).unwrap()
        };
        let threads = (0..chains.chains)
            .map(|chain| {
                let (files, stop): (Vec<_>, _) = (disks.iter().map(open).collect(), stop.clone());
                thread::spawn(move || write(&files, chains, chain, pause, &stop))
            })
            .collect();
        Ordered { stop, threads }
    }

    /// Stops them. Returns for each chain when each record was known to be written.
    ///
    /// # Panics
    /// When one failed.
    #[must_use]
    pub fn stop(mut self) -> Vec<Vec<Timestamp>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(|thread| thread.join().unwrap()).collect()
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write(files: &[File], chains: Chains, chain: u64, pause: Duration, stop: &AtomicBool) -> Vec<Timestamp> {
    let mut memory = vec![0; 2 * BLOCK];
    let block = aligned(&mut memory, BLOCK);
    let mut written = Vec::new();
    for n in 0..chains.records() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        fill(block, chain, n);
        let (disk, offset) = chains.place(chain, n);
        files[disk].write_all_at(block, offset).unwrap();
        written.push(Timestamp::now());
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    written
}

/// Whether each chain of a copy made at `time` holds at least what was known to be written before.
///
/// # Errors
/// The chain that lacks a record.
pub fn nothing_lost(present: &[u64], written: &[Vec<Timestamp>], time: Timestamp) -> Result<(), String> {
    for (chain, (&present, written)) in present.iter().zip(written).enumerate() {
        let before = written.iter().take_while(|&&at| at < time).count() as u64;
        if present < before {
            return Err(format!(
                "chain {chain}: {before} records were written by {time}, {present} are there"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_smeared_over_time_fails() {
        let dir = tempfile::tempdir().unwrap();
        let chains = Chains::new(2, 2, 1 << 20);
        let images: Vec<_> = (0..2).map(|disk| dir.path().join(format!("{disk}.img"))).collect();
        let files: Vec<_> = images.iter().map(|image| File::create(image).unwrap()).collect();
        files.iter().for_each(|file| file.set_len(1 << 20).unwrap());
        let written = |chain, n| {
            let (mut block, (disk, offset)) = (vec![0; BLOCK], chains.place(chain, n));
            fill(&mut block, chain, n);
            files[disk].write_all_at(&block, offset).unwrap();
        };
        (0..50).for_each(|n| written(1, n));
        assert_eq!(chains.check(&images), Ok(vec![0, 50]));
        written(0, 1);
        assert!(chains.check(&images).unwrap_err().contains("lacks record 0"));
        written(0, 0);
        assert_eq!(chains.check(&images), Ok(vec![2, 50]));
        files[0].write_all_at(&[7; 512], chains.place(1, 10).1 + 512).unwrap();
        assert!(chains.check(&images).unwrap_err().contains("torn"));
    }
}
