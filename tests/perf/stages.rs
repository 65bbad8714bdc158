//! What replication is made of, each stage alone: the bound that a whole run is compared with (`tests/perf/run`).
//!
//! ```text
//! perf_stages stages DISK SCRATCH     reading, hashing, encoding and writing all of a disk, in seconds, as JSON
//! perf_stages compressed FILE         how long FILE is when it is compressed as one stream
//! perf_stages restore VAULT SCRATCH   restoring the newest point's first disk in each format, and its stages alone
//! ```
//!
//! The same code as the agent's with the same numbers of threads, so that a difference is what lies between the stages.
//! Deliberately not here: whole runs, and what is made of the figures (the Python beside it).

// What a benchmark cannot go on without ends it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "restore.rs"]
mod restore;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use mobility_capture::{
    direct::{AlignedBuf, DirectReader, Stretch, read_plan},
    disk::Disk,
    scan::block_digests,
};
use mobility_format::{
    BLOCK_SIZE, BlockRange, BlockSet, Digest,
    segment::{ExtentEncoder, ZSTD_LEVEL, is_zero},
};

/// As many reads at once as the agent makes on two processors.
const READS: usize = 4;
/// Threads for what computes.
const WORKERS: usize = 2;
/// As many uploads at once, and as long each, as the agent makes.
const UPLOADS: usize = 2;
const SEGMENT: usize = 4 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["stages", disk, scratch] => stages(Path::new(disk), Path::new(scratch)),
        ["restore", vault, scratch] => restore::measure(Path::new(vault), Path::new(scratch)),
        ["compressed", file] => {
            let plain = fs::read(file).expect("the file");
            let length = zstd::bulk::compress(&plain, ZSTD_LEVEL).expect("zstd").len();
            println!("{}", serde_json::json!({ "plain": plain.len(), "compressed": length }));
        }
        _ => {
            eprintln!("usage: perf_stages stages DISK SCRATCH | compressed FILE | restore VAULT SCRATCH");
            std::process::exit(64);
        }
    }
}

fn stages(disk: &Path, scratch: &Path) {
    let disk = Disk::inspect(disk).expect("the disk");
    let reader = DirectReader::open(&disk).expect("the disk");
    let plan: Vec<BlockRange> = read_plan(&BlockSet::of(BlockRange::whole_disk(disk.size)))
        .filter(|range| matches!(reader.stretch_at(range.start), Stretch::Data(_)))
        .collect();
    let read = timed(|| {
        each(READS, &plan, AlignedBuf::for_window, |buf, range| reader.read(*range, buf).expect("a read"));
    });
    let windows: Vec<(BlockRange, Vec<u8>)> = plan
        .iter()
        .map(|&range| {
            let mut buf = AlignedBuf::for_window();
            reader.read(range, &mut buf).expect("a read");
            (range, buf.to_vec())
        })
        .collect();
    let data: Vec<_> = windows.iter().flat_map(|(range, plain)| data_of(*range, plain)).collect();
    let hash = timed(|| {
        each(
            WORKERS,
            &data,
            || (),
            |(), (_, plain)| {
                std::hint::black_box(Digest::of(plain));
            },
        )
    });
    let block_hash = timed(|| {
        each(
            WORKERS,
            &data,
            || (),
            |(), (_, plain)| {
                std::hint::black_box(block_digests(plain).count());
            },
        )
    });
    let stored = Mutex::new(Vec::new());
    let encode = timed(|| {
        each(
            WORKERS,
            &data,
            || ExtentEncoder::new().expect("zstd"),
            |encoder, (range, plain)| {
                let extent = encoder.encode(*range, plain).expect("zstd");
                stored.lock().unwrap().push(extent.bytes);
            },
        );
    });
    let stored = stored.into_inner().unwrap().concat();
    let segments: Vec<_> = stored.chunks(SEGMENT).enumerate().collect();
    let write = timed(|| each(UPLOADS, &segments, || (), |(), (number, bytes)| put(scratch, *number, bytes)));
    let bytes = disk.size.0;
    println!(
        "{}",
        serde_json::json!({
            "bytes": bytes, "stored": stored.len(), "data": plan.iter().map(|range| range.bytes().0).sum::<u64>(),
            "read": read, "hash": hash, "block_hash": block_hash, "encode": encode, "write": write,
        })
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Does `work` with each of `items` on some threads, each of which has a state of its own.
fn each<T: Sync, S>(
    threads: usize,
    items: &[T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) + Sync,
) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = state();
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(&mut state, item);
                }
            });
        }
    });
}

/// The runs of blocks in a window that are not zero.
fn data_of(range: BlockRange, plain: &[u8]) -> Vec<(BlockRange, &[u8])> {
    let zero: Vec<bool> = plain.chunks(BLOCK_SIZE).map(is_zero).collect();
    let mut at = 0;
    let mut found = Vec::new();
    for same in zero.chunk_by(|a, b| a == b) {
        if !same[0] {
            let run = BlockRange::new(range.start.0 + at as u64, same.len() as u64);
            found.push((run, &plain[at * BLOCK_SIZE..(at + same.len()) * BLOCK_SIZE]));
        }
        at += same.len();
    }
    found
}

fn put(scratch: &Path, number: usize, bytes: &[u8]) {
    let path = scratch.join(format!("stage-{number}"));
    let mut file = File::create(&path).expect("a file");
    file.write_all(bytes).and_then(|()| file.sync_all()).expect("a write");
    fs::remove_file(&path).expect("a file");
}
