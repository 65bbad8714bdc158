//! What applications do to a disk while it is protected: random writes, a build's coming and going of files, `fio`.
//!
//! Everything random comes from a seed. Pauses pace the load; nothing waits by them. Deliberately not here: writers whose
//! order can be checked (`load_ordered`), and databases (`load_sqlite`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::OFlags;

use crate::vault_maker::Dice;

const BLOCK: u64 = 4096;

/// `length` bytes of `memory` that direct writes can be made from. It must be a block longer than that.
pub fn aligned(memory: &mut [u8], length: usize) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(BLOCK as usize);
    &mut memory[skip..skip + length]
}

/// A thread that works until it is told to stop.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Calls `step` again and again, each time with a pause after it.
    #[must_use]
    pub fn start(pause: Duration, mut step: impl FnMut(u64) + Send + 'static) -> Worker {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), done.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                step(count.fetch_add(1, Ordering::Relaxed));
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
            }
        });
        Worker { stop, done, thread: Some(thread) }
    }

    /// How often it has begun its work.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops it. Returns how often it did its work.
    ///
    /// # Panics
    /// When the work failed.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load goes on");
        }
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes one to sixteen random blocks at random places of the bytes `from..to` of a device or a file, past the page cache, again
/// and again. Each block says where it is and in which write it was written.
///
/// # Panics
/// When the target cannot be opened.
#[must_use]
pub fn scribble(target: &Path, from: u64, to: u64, seed: u64, pause: Duration) -> Worker {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(target).unwrap();
    let (mut dice, mut memory) = (Dice::new(seed), vec![0; 17 * BLOCK as usize]);
    Worker::start(pause, move |write| {
        let blocks = 1 + dice.below(16).min((to - from) / BLOCK - 1);
        let start = from / BLOCK + dice.below((to - from) / BLOCK - blocks + 1);
        let buffer = aligned(&mut memory, (blocks * BLOCK) as usize);
        for (index, block) in buffer.chunks_mut(BLOCK as usize).enumerate() {
            let number = start + index as u64;
            blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .update(&write.to_le_bytes())
                .finalize_xof()
                .fill(block);
            block[..8].copy_from_slice(&number.to_le_bytes());
            block[8..16].copy_from_slice(&write.to_le_bytes());
        }
        file.write_all_at(buffer, start * BLOCK).unwrap();
    })
}

/// Makes, appends to, renames, syncs and removes files and directories below `dir`, as a build does.
///
/// # Panics
/// When `dir` cannot be made.
#[must_use]
pub fn build_files(dir: PathBuf, seed: u64, pause: Duration) -> Worker {
    fs::create_dir_all(&dir).unwrap();
    let (mut dice, mut files, mut made) = (Dice::new(seed), Vec::<PathBuf>::new(), 0);
    Worker::start(pause, move |_| {
        let any = |dice: &mut Dice, files: &Vec<PathBuf>| dice.below(files.len() as u64) as usize;
        // Of so many at most, so that the file system does not fill.
        let step = if files.len() > 80 { 9 } else { dice.below(10) };
        match step {
            0..4 => {
                let package = dir.join(format!("package-{}", dice.below(8)));
                fs::create_dir_all(&package).unwrap();
                let path = package.join(format!("object-{made}.o"));
                made += 1;
                let content = vec![dice.below(256) as u8; 1 + dice.below(200_000) as usize];
                fs::write(&path, content).unwrap();
                files.push(path);
            }
            4..6 if !files.is_empty() => {
                let path = &files[any(&mut dice, &files)];
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(&vec![b'x'; dice.below(20_000) as usize]).unwrap();
                if dice.below(3) == 0 {
                    file.sync_all().unwrap();
                }
            }
            6..8 if !files.is_empty() => {
                let at = any(&mut dice, &files);
                let renamed = dir.join(format!("renamed-{made}"));
                made += 1;
                fs::rename(&files[at], &renamed).unwrap();
                files[at] = renamed;
            }
            _ if !files.is_empty() => {
                let at = any(&mut dice, &files);
                fs::remove_file(files.swap_remove(at)).unwrap();
            }
            _ => {}
        }
    })
}

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start(command: &mut Command) -> Process {
        Process(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Random direct writes to a file of 48 MiB by `fio`, until dropped; as many as go, or so many each second.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn fio(dir: &Path, name: &str, per_second: Option<u32>) -> Process {
    let mut command = Command::new("fio");
    command.args([
        "--rw=randwrite",
        "--bs=4k",
        "--size=48M",
        "--ioengine=libaio",
        "--iodepth=8",
        "--direct=1",
    ]);
    command.args([
        "--time_based",
        "--runtime=3600",
        "--fallocate=none",
        "--group_reporting",
        "--randrepeat=1",
        // One process, so that none is left behind when it is killed.
        "--thread",
    ]);
    command.arg(format!("--name={name}")).arg(format!("--directory={}", dir.display()));
    command.args(per_second.map(|rate| format!("--rate_iops={rate}")));
    Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/"))
}
