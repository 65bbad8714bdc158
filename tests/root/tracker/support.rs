//! Loop devices and the oracle of the tracker's tests: the disk's own content, read past the page cache.

use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use mobility_capture::{
    direct::{AlignedBuf, DirectReader, read_plan},
    disk::{Disk, DiskKind},
    ebpf::{Continuity, TrackedDisk, Tracker, remove_all},
};
use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, BlockSet, DiskId};
use mobility_tests::{
    dice::Dice,
    requirement::Requirement,
    scratch::{run, try_run},
};

/// A loop device over a file of its own, and a place of its own for pins. Both go when it is dropped.
pub(super) struct Bench {
    pub(super) device: PathBuf,
    pub(super) dir: tempfile::TempDir,
    pub(super) pins: PathBuf,
}

impl Bench {
    /// A device of `size` bytes that is filled with something, or nothing where the machine cannot track.
    #[track_caller]
    pub(super) fn new(size: u64) -> Option<Bench> {
        // In memory where that is possible: the tests are of what happens above the device.
        let memory = Path::new("/dev/shm");
        Bench::over(&if memory.is_dir() { memory.to_path_buf() } else { env::temp_dir() }, size)
    }

    /// The same, over a file in `parent`.
    #[track_caller]
    pub(super) fn over(parent: &Path, size: u64) -> Option<Bench> {
        let able = Tracker::supported().map_err(|lack| lack.to_string());
        let able = able.and_then(|()| {
            try_run("losetup", &["--find"]).map_err(|error| format!("no loop device: {error}"))
        });
        Requirement::Root.or_skip(able)?;
        let dir = tempfile::tempdir_in(parent).unwrap();
        let file = dir.path().join("disk.img");
        fs::write(&file, noise(1, size as usize)).unwrap();
        let arguments = ["--find", "--show", "--partscan", "--sector-size", "512", file.to_str().unwrap()];
        let device = PathBuf::from(run("losetup", &arguments));
        let pins = Path::new("/sys/fs/bpf")
            .join(format!("mobility-test-{}", device.file_name().unwrap().to_str().unwrap()));
        remove_all(&pins).unwrap();
        Some(Bench { device, dir, pins })
    }

    pub(super) fn disk(&self) -> Disk {
        Disk::inspect(&self.device).unwrap()
    }

    pub(super) fn tracked(&self) -> TrackedDisk {
        let disk = self.disk();
        let DiskKind::BlockDevice { device, sysfs_name, sequence } = disk.kind else {
            panic!("{:?}", disk.kind)
        };
        // Loop devices are known by their file, whose name is the same for all tests here.
        let id = DiskId::derive(&self.dir.path().display().to_string());
        TrackedDisk { major: device.major, minor: device.minor, size: disk.size, sequence, id, sysfs_name }
    }

    pub(super) fn open(&self) -> (Tracker, Continuity) {
        Tracker::open(&self.tracked(), &self.pins).unwrap()
    }

    /// A tracker that has marked nothing yet.
    pub(super) fn start(&self) -> Tracker {
        let (tracker, continuity) = self.open();
        assert!(matches!(continuity, Continuity::Started(_)), "{continuity:?}");
        let whole = BlockSet::of(BlockRange::whole_disk(tracker.disk().size));
        assert_eq!(tracker.pending(), whole, "one that starts has seen nothing yet");
        tracker.clear_pending();
        tracker
    }

    pub(super) fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    pub(super) fn file(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = remove_all(&self.pins);
        let _ = try_run("losetup", &["--detach", self.path()]);
    }
}

/// `len` bytes that compress badly and differ for each seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.number().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What an agent would have: one digest for each block, kept up by reading what a tracker reports.
pub(super) struct Mirror {
    digests: Vec<[u8; 8]>,
    reader: DirectReader,
    buffer: AlignedBuf,
}

impl Mirror {
    /// A full copy of the disk as it is now.
    pub(super) fn of(bench: &Bench) -> Mirror {
        let disk = bench.disk();
        let blocks = disk.size.blocks();
        let reader = DirectReader::open(&disk).unwrap();
        let mut mirror =
            Mirror { digests: vec![[0; 8]; blocks as usize], reader, buffer: AlignedBuf::for_window() };
        mirror.read(&BlockSet::of(BlockRange::new(0, blocks)));
        mirror
    }

    /// Reads `blocks` of the disk, and copies them.
    pub(super) fn read(&mut self, blocks: &BlockSet) {
        for range in read_plan(blocks) {
            self.reader.read(range, &mut self.buffer).unwrap();
            for (i, block) in self.buffer.chunks(BLOCK_SIZE).enumerate() {
                let digest = blake3::hash(block);
                self.digests[range.start.0 as usize + i].copy_from_slice(&digest.as_bytes()[..8]);
            }
        }
    }

    /// The same copy of a disk that has grown since; what is new has not been read.
    pub(super) fn grown(self, bench: &Bench) -> Mirror {
        let disk = bench.disk();
        let reader = DirectReader::open(&disk).unwrap();
        let mut digests = self.digests;
        digests.resize(disk.size.blocks() as usize, [0; 8]);
        Mirror { digests, reader, buffer: self.buffer }
    }

    /// The blocks in which `other` has something else. Blocks that only one has are among them.
    pub(super) fn difference(&self, other: &Mirror) -> BlockSet {
        let len = self.digests.len().max(other.digests.len());
        (0..len)
            .filter(|&i| self.digests.get(i) != other.digests.get(i))
            .map(|i| BlockIndex(i as u64))
            .collect()
    }
}

/// Room for `len` bytes that starts where `O_DIRECT` wants it.
pub(super) struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    pub(super) fn new(len: usize) -> Aligned {
        let memory = vec![0; len + BLOCK_SIZE];
        let start = memory.as_ptr().align_offset(BLOCK_SIZE);
        Aligned(memory, start, len)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..][..self.2]
    }
}

pub(super) fn open_direct(path: &Path) -> File {
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}
