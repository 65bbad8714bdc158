//! Every way in which something gets written to a disk.
//!
//! Each test writes and compares: what the disk holds before and after on one side, what the tracker reports on the other. A
//! block that changed and was not reported is a lost write; one that was reported and did not change is wasted work.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use mobility_capture::ebpf::Drained;
use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, BlockSet};
use mobility_tests::{
    dice::Dice,
    scratch::{MIB, run, try_run},
};

use super::support::{Aligned, Bench, Mirror, noise, open_direct};

static NEXT: AtomicU64 = AtomicU64::new(1_000);

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What `write` changed, and what the tracker says of it.
fn change(bench: &Bench, write: impl FnOnce(&Path)) -> (BlockSet, Drained) {
    let before = Mirror::of(bench);
    let mut tracker = bench.start();
    write(&bench.device);
    File::open(&bench.device).unwrap().sync_all().unwrap();
    let drained = tracker.drain();
    let changed = before.difference(&Mirror::of(bench));
    tracker.remove().unwrap();
    assert!(!drained.issue_missed && !drained.passthrough && !drained.out_of_range, "{drained:?}");
    (changed, drained)
}

/// `write` changes what it writes, so what changed and what was reported must be the same.
#[track_caller]
fn exactly(bench: &Bench, write: impl FnOnce(&Path)) -> BlockSet {
    let (changed, drained) = change(bench, write);
    let lost = changed.difference(&drained.touched);
    assert!(lost.is_empty(), "changed, but not reported: {lost:?}");
    let wasted = drained.touched.difference(&changed);
    assert!(wasted.is_empty(), "reported, but not changed: {wasted:?}");
    assert!(
        drained.dirty.difference(&drained.touched).is_empty(),
        "completed, but never issued: {drained:?}"
    );
    // A completion mark may be lost where a machine keeps programs from running, so a few may be missing; not more.
    let unmarked = changed.difference(&drained.dirty).len();
    assert!(unmarked * 10 <= changed.len(), "{unmarked} of {} without a mark at completion", changed.len());
    assert!(!changed.is_empty());
    changed
}

/// Writes at `offsets`, `len` bytes each, through a file opened with `flags`.
fn write_at(path: &Path, flags: rustix::fs::OFlags, offsets: &[u64], len: usize) {
    let flags = flags.bits() as i32;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path).unwrap();
    let mut buffer = Aligned::new(len);
    for &offset in offsets {
        // Never the same twice, so that every write is a change.
        buffer.bytes().copy_from_slice(&noise(NEXT.fetch_add(1, SeqCst), len));
        file.write_all_at(buffer.bytes(), offset).unwrap();
    }
}

fn some_blocks(seed: u64, bytes: u64, count: usize) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| dice.number() % (bytes / BLOCK) * BLOCK).collect()
}

fn blocks_at(offsets: &[u64]) -> BlockSet {
    offsets.iter().map(|&offset| BlockIndex::containing(offset)).collect()
}

#[test]
fn root_buffered_direct_and_synchronous_writes() {
    use rustix::fs::OFlags;
    let Some(bench) = Bench::new(32 * MIB) else { return };
    for flags in
        [OFlags::empty(), OFlags::DIRECT, OFlags::SYNC, OFlags::DSYNC, OFlags::DIRECT | OFlags::DSYNC]
    {
        let offsets = some_blocks(flags.bits().into(), 32 * MIB, 200);
        let found = exactly(&bench, |path| write_at(path, flags, &offsets, BLOCK_SIZE));
        assert_eq!(found, blocks_at(&offsets), "{flags:?}");
    }
}

#[test]
fn root_parts_of_blocks_the_first_and_the_last() {
    // The last block is there in part only: 3 sectors of 512 bytes.
    let size = 20 * MIB + 3 * 512;
    let Some(bench) = Bench::new(size) else { return };
    let direct = rustix::fs::OFlags::DIRECT;
    let last = size / BLOCK;
    assert_eq!(exactly(&bench, |path| write_at(path, direct, &[0], 512)), blocks_at(&[0]));
    assert_eq!(
        exactly(&bench, |path| write_at(path, direct, &[size - 512], 512)),
        blocks_at(&[last * BLOCK])
    );
    let straddling = exactly(&bench, |path| write_at(path, direct, &[5 * BLOCK - 512], 1024));
    assert_eq!(straddling, BlockSet::of(BlockRange::new(4, 2)));
    // The borders of words (64 blocks) and of the summary's groups (4096 blocks).
    for border in [64, 4096] {
        let at = (border - 1) * BLOCK;
        let found = exactly(&bench, |path| write_at(path, direct, &[at], 2 * BLOCK_SIZE));
        assert_eq!(found, BlockSet::of(BlockRange::new(border - 1, 2)));
    }
    let whole = exactly(&bench, |path| write_at(path, direct, &[0], size as usize / 512 * 512));
    assert_eq!(whole, BlockSet::of(BlockRange::new(0, last + 1)));
}

#[test]
fn root_every_engine_of_fio() {
    let Some(bench) = Bench::new(64 * MIB) else { return };
    if let Err(lack) = try_run("fio", &["--version"]) {
        mobility_tests::requirement::Requirement::Root.or_skip::<()>(Err(lack));
        return;
    }
    for engine in ["libaio", "io_uring", "mmap", "psync", "pvsync2", "posixaio", "sync"] {
        for (jobs, direct) in [("1", "1"), ("4", "1"), ("2", "0")] {
            if engine == "mmap" && direct == "1" {
                continue;
            }
            let job = [
                "--name=job".to_owned(),
                format!("--filename={}", bench.path()),
                format!("--ioengine={engine}"),
                format!("--numjobs={jobs}"),
                format!("--direct={direct}"),
                format!("--randseed={}", NEXT.fetch_add(1, SeqCst)),
                "--rw=randwrite --bssplit=4k/80:16k/15:128k/5 --iodepth=16 --io_size=4m --size=64m"
                    .to_owned(),
                "--refill_buffers --group_reporting --end_fsync=1 --output=/dev/null".to_owned(),
            ];
            let arguments: Vec<&str> = job.iter().flat_map(|part| part.split(' ')).collect();
            let changed = exactly(&bench, |_| {
                run("fio", &arguments);
            });
            assert!(changed.len() >= 500, "{engine}: {}", changed.len());
        }
    }
}

#[test]
fn root_discards_and_zeroes_on_the_raw_disk() {
    // A file system that can zero a range, so that the loop device has the requests for it; one in memory cannot.
    let Some(bench) = Bench::over(&std::env::temp_dir(), 64 * MIB) else { return };
    let range = |offset: u64, len: u64| BlockSet::of(BlockRange::new(offset / BLOCK, len / BLOCK));
    let mut offset = MIB;
    for (program, options) in [
        ("blkdiscard", vec![]),
        ("blkdiscard", vec!["-z"]),
        ("fallocate", vec!["-p"]),
        ("fallocate", vec!["-z"]),
    ] {
        let (at, len) = (offset.to_string(), (3 * MIB + 2 * BLOCK).to_string());
        let mut arguments = options.clone();
        arguments.extend(["-o", &at, "-l", &len, bench.path()]);
        let found = exactly(&bench, |_| {
            run(program, &arguments);
        });
        assert_eq!(found, range(offset, 3 * MIB + 2 * BLOCK), "{program} {options:?}");
        offset += 8 * MIB;
    }
}

#[test]
fn root_requests_of_many_mebibytes() {
    let size = 512 * MIB;
    let Some(bench) = Bench::new(size) else { return };
    let queue = Path::new("/sys/block").join(bench.tracked().sysfs_name).join("queue");
    // As large as the driver takes them.
    let largest = fs::read_to_string(queue.join("max_hw_sectors_kb")).unwrap();
    let _ = fs::write(queue.join("max_sectors_kb"), &largest);
    let (start, len) = (MIB + 5 * BLOCK, 48 * MIB);
    let found = exactly(&bench, |path| write_at(path, rustix::fs::OFlags::DIRECT, &[start], len as usize));
    assert_eq!(found, BlockSet::of(BlockRange::new(start / BLOCK, len / BLOCK)));
    // A discard is one request however large it is, up to 4 GiB.
    let (at, len) = ((3 * BLOCK).to_string(), (size - 7 * BLOCK).to_string());
    let found = exactly(&bench, |_| {
        run("blkdiscard", &["-o", &at, "-l", &len, bench.path()]);
    });
    assert_eq!(found, BlockSet::of(BlockRange::new(3, size / BLOCK - 7)));
}

#[test]
fn root_writes_to_a_partition_are_found_at_their_place_on_the_disk() {
    let Some(bench) = Bench::new(32 * MIB) else { return };
    // From sector 2056, that is block 257, 8 MiB long.
    run("addpart", &[bench.path(), "1", "2056", "16384"]);
    let partition = format!("{}p1", bench.path());
    let found = exactly(&bench, |_| {
        write_at(Path::new(&partition), rustix::fs::OFlags::DIRECT, &[0, 10 * BLOCK], BLOCK_SIZE)
    });
    run("delpart", &[bench.path(), "1"]);
    assert_eq!(found, blocks_at(&[257 * BLOCK, 267 * BLOCK]));
}

#[test]
fn root_reads_and_flushes_mark_nothing() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let (changed, drained) = change(&bench, |path| {
        let file = open_direct(path);
        file.read_exact_at(Aligned::new(MIB as usize).bytes(), 0).unwrap();
        file.sync_all().unwrap();
    });
    assert!(changed.is_empty() && drained.dirty.is_empty() && drained.touched.is_empty(), "{drained:?}");
}

#[test]
fn root_other_disks_mark_nothing() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let Some(other) = Bench::new(8 * MIB) else { return };
    let (_, drained) =
        change(&bench, |_| write_at(&other.device, rustix::fs::OFlags::DIRECT, &[0, MIB], BLOCK_SIZE));
    assert!(drained.dirty.is_empty() && drained.touched.is_empty(), "{drained:?}");
}

#[test]
fn root_whatever_a_file_system_does() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(bench) = Bench::new(320 * MIB) else { return };
        let point = bench.dir.path().join("mounted");
        fs::create_dir(&point).unwrap();
        let (changed, drained) = change(&bench, |path| {
            run(
                &format!("mkfs.{kind}"),
                &["-q", if kind == "ext4" { "-F" } else { "-f" }, path.to_str().unwrap()],
            );
            run("mount", &[path.to_str().unwrap(), point.to_str().unwrap()]);
            for i in 0..200_u64 {
                fs::write(point.join(i.to_string()), noise(i, (i * 997 % 60_000) as usize)).unwrap();
            }
            rustix::fs::sync();
            (0..200).step_by(3).for_each(|i| fs::remove_file(point.join(i.to_string())).unwrap());
            run("fstrim", &[point.to_str().unwrap()]);
            run("umount", &[point.to_str().unwrap()]);
        });
        let mut reported = drained.dirty;
        reported.union_with(&drained.touched);
        let lost = changed.difference(&reported);
        assert!(lost.is_empty(), "{kind}: changed, but not reported: {lost:?}");
        assert!(!changed.is_empty());
    }
}

#[test]
fn root_flushes_without_data_are_no_writes_that_nobody_saw() {
    let Some(bench) = Bench::new(16 * MIB) else { return };
    let mut tracker = bench.start();
    let file = OpenOptions::new().write(true).open(&bench.device).unwrap();
    file.sync_all().unwrap();
    tracker.drain();
    for _ in 0..4 {
        // Of a device with a cache: it is flushed, though nothing was written.
        file.sync_all().unwrap();
        assert!(!tracker.drain().blind);
    }
    tracker.remove().unwrap();
}
