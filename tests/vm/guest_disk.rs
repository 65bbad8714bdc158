//! A guest's root disk: a copy of the base image that a test puts files into before the boot and looks into after the end.
//!
//! Deliberately not here: anything while the guest runs, when the disk is the guest's alone.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use mobility_tests::scratch::{Mounted, Scratch, run, try_run};

/// Where the one partition begins.
const PARTITION: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// The file of a root disk.
#[derive(Debug)]
pub(crate) struct GuestDisk {
    pub(crate) image: PathBuf,
}

/// Its file system, mounted on the host.
pub(crate) struct Opened {
    mounted: Mounted,
    // Goes after the mount.
    _partition: Partition,
}

/// The partition as a device of the host.
struct Partition(PathBuf);

impl Drop for Partition {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["--detach", self.0.to_str().unwrap()]);
    }
}

impl GuestDisk {
    /// A copy of the base image.
    pub(crate) fn new(base: &Path, image: PathBuf) -> GuestDisk {
        let [from, to] = [base, &image].map(|path| path.to_str().unwrap());
        run("cp", &["--sparse=always", "--reflink=auto", from, to]);
        GuestDisk { image }
    }

    fn partition(&self) -> Partition {
        let (offset, image) = (PARTITION.to_string(), self.image.to_str().unwrap());
        Partition(run("losetup", &["--find", "--show", "--offset", &offset, image]).into())
    }

    /// Mounts its file system at `point`.
    pub(crate) fn open(&self, point: PathBuf) -> Opened {
        let partition = self.partition();
        let mounted = Mounted::existing(point, &partition.0, "ext4").unwrap();
        Opened { mounted, _partition: partition }
    }

    /// Demands that the file system is whole and that its journal has nothing to say.
    pub(crate) fn is_whole_as_it_is(&self) {
        let partition = self.partition();
        let said = try_run("e2fsck", &["-f", "-n", partition.0.to_str().unwrap()]);
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        assert!(!said.contains("recover"), "{said}");
    }

    /// Lets the journal be replayed, as a boot does, and demands that the file system is whole then.
    pub(crate) fn is_whole_after_replay(&self) {
        let partition = self.partition();
        let device = partition.0.to_str().unwrap();
        // Ends with 1 where it replayed a journal.
        let _ = try_run("e2fsck", &["-p", device]);
        let said = try_run("e2fsck", &["-f", "-n", device]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!said.contains("WARNING"), "{said}");
    }
}

/// The kernels of the base image, oldest first.
pub(crate) fn kernels(base: &Path, scratch: &Scratch) -> Vec<String> {
    let disk = GuestDisk::new(base, scratch.path("kernels.img"));
    let opened = disk.open(scratch.path("kernels"));
    let names = fs::read_dir(opened.point().join("boot")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut found: Vec<_> =
        names.filter_map(|name| Some(name.to_str()?.strip_prefix("vmlinuz-")?.to_owned())).collect();
    let numbers =
        |name: &String| -> Vec<u32> { name.split(['.', '-']).map_while(|n| n.parse().ok()).collect() };
    found.sort_by_key(numbers);
    found
}

/// How many bytes of two images are in blocks that differ.
pub(crate) fn differing(left: &Path, right: &Path) -> u64 {
    let [mut left, mut right] = [left, right].map(|path| File::open(path).unwrap());
    let [mut one, mut other] = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut differing = 0;
    while let Ok(()) = left.read_exact(&mut one) {
        right.read_exact(&mut other).unwrap();
        if one != other {
            let blocks = one.chunks(BLOCK).zip(other.chunks(BLOCK));
            differing += blocks.filter(|(one, other)| one != other).count();
        }
    }
    (differing * BLOCK) as u64
}

impl Opened {
    /// Where it is mounted.
    pub(crate) fn point(&self) -> &Path {
        self.mounted.point()
    }

    /// Copies a file into it.
    pub(crate) fn put(&self, from: &Path, to: &str) {
        let to = self.point().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}
