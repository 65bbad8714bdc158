//! The writers: a thread for each chain, which keeps a log of when it issued each step and when that had completed.
//!
//! Deliberately not here: what the steps are (`plan`) and what they leave behind (`history`).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::{
    history::{History, Times},
    plan::{Chains, Step, mix},
    record::Owner,
};
use crate::load::aligned;

/// The most steps of a chain: its log stays in memory.
const STEPS: u64 = 1 << 20;

/// Where chains write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A block device, past the page cache; each write is durable when it returns.
    Raw(PathBuf),
    /// A file that is large enough, in the same way.
    Direct(PathBuf),
    /// A file that is large enough, through the page cache; each write is followed by `fdatasync`.
    Buffered(PathBuf),
}

impl Target {
    fn path(&self) -> &PathBuf {
        let (Target::Raw(path) | Target::Direct(path) | Target::Buffered(path)) = self;
        path
    }

    fn open(&self) -> File {
        let flags = match self {
            Target::Buffered(_) => OFlags::empty(),
            _ => OFlags::DIRECT | OFlags::DSYNC,
        };
        let open = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(self.path());
        open.unwrap_or_else(|error| panic!("{}: {error}", self.path().display()))
    }

    fn write(&self, file: &File, record: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(record, offset)?;
        if let Target::Buffered(_) = self { file.sync_data() } else { Ok(()) }
    }

    /// Makes bytes zero without writing them. On a device there are two ways, of which `way` chooses one.
    fn discard(&self, file: &File, offset: u64, length: u64, way: u64) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let Target::Raw(path) = self else {
            fallocate(file, hole, offset, length)?;
            return file.sync_data();
        };
        if way.is_multiple_of(2) {
            return Ok(fallocate(file, hole, offset, length)?);
        }
        let mut command = Command::new("blkdiscard");
        // It would keep others out of the device meanwhile, also others of its kind.
        command.arg("--force").arg("-o").arg(offset.to_string()).arg("-l").arg(length.to_string()).arg(path);
        // It warns of being forced.
        let output = command.output()?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(io::Error::other(said())) }
    }
}

/// Running writers.
#[derive(Debug)]
pub struct Ordered {
    chains: Chains,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Times>>>,
}

impl Ordered {
    /// Starts one writer for each chain, which together do `per_second` steps a second, or as many as go.
    ///
    /// # Panics
    /// When a target cannot be opened, or the chains are out of their limits.
    #[must_use]
    pub fn start(targets: &[Target], chains: &Chains, per_second: Option<u32>) -> Ordered {
        chains.check();
        assert_eq!(targets.len() as u64, chains.disks, "one target for each disk");
        let stop = Arc::new(AtomicBool::new(false));
        let completed: Arc<[AtomicU32]> = (0..chains.chains).map(|_| AtomicU32::new(0)).collect();
        let pause = per_second.map(|rate| Duration::from_secs(chains.chains) / rate);
        let start = |chain| {
            let writer = Writer {
                chain,
                chains: chains.clone(),
                targets: targets.iter().map(|target| (target.clone(), target.open())).collect(),
                completed: completed.clone(),
                memory: vec![0; chains.record(chain) as usize + 4096],
            };
            let stop = stop.clone();
            thread::spawn(move || writer.run(pause, &stop))
        };
        let threads = (0..chains.chains).map(start).collect();
        Ordered { chains: chains.clone(), stop, threads }
    }

    /// Stops them. Returns what they did.
    ///
    /// # Panics
    /// When one failed.
    #[must_use]
    pub fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.threads.drain(..).map(|thread| thread.join().unwrap()).collect();
        History::new(self.chains.clone(), times)
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

struct Writer {
    chain: u64,
    chains: Chains,
    targets: Vec<(Target, File)>,
    completed: Arc<[AtomicU32]>,
    memory: Vec<u8>,
}

impl Writer {
    fn run(mut self, pause: Option<Duration>, stop: &AtomicBool) -> Vec<Times> {
        let mut log = Vec::new();
        // Not all at once.
        let phase = f64::from(mix(self.chain) as u32) / f64::from(u32::MAX);
        let mut due = pause.map(|pause| (pause, Instant::now() + pause.mul_f64(phase)));
        for n in 1..STEPS {
            if let Some((pause, at)) = &mut due {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                // What cannot be kept up with is not made up for.
                *at = (*at + *pause).max(Instant::now());
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            log.push(self.step(n));
        }
        log
    }

    fn step(&mut self, n: u64) -> Times {
        let Step { disk, offset, discard, .. } = self.chains.step(self.chain, n);
        let (target, file) = &self.targets[disk as usize];
        let size = self.chains.record(self.chain);
        let record = aligned(&mut self.memory, size as usize);
        if !discard {
            let completed: Vec<_> = self.completed.iter().map(|step| step.load(Ordering::Acquire)).collect();
            let owner = Owner { seed: self.chains.seed, chain: self.chain, disk, offset, size };
            owner.fill(record, n, &completed);
        }
        let issued = now();
        let done = match discard {
            true => target.discard(file, offset, size, n / self.chains.discard_every),
            false => target.write(file, record, offset),
        };
        let completed = now();
        done.unwrap_or_else(|error| panic!("{} at {offset}: {error}", target.path().display()));
        self.completed[self.chain as usize].store(n as u32, Ordering::Release);
        Times { issued, completed }
    }
}

fn now() -> i64 {
    Timestamp::now().as_microsecond()
}
