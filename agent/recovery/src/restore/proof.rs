//! The digests of a disk's content, by which what was written is compared with what the point says.
//!
//! Each window of 1 MiB has a digest, that of its bytes as far as the disk goes, and all of them with the disk's size make the
//! *root*: the same for every image of the same disk at the same point, whatever the format. `docs/FORMAT.md` says how
//! anybody computes it. Memory: at most [`KEPT`] digests, however large the disk is. Deliberately not here: reading anything.

use mobility_format::{ByteCount, Digest, WINDOW_SIZE};

use super::Differing;

/// How many digests are kept in order to say what differs: 8 MiB. A disk of 256 GiB has so many windows; of a larger one
/// each digest is that of several windows.
const KEPT: u64 = 1 << 18;
/// What the bytes begin with whose digest the root is.
const ROOT_MAGIC: &[u8; 8] = b"MOBROOT1";

/// How many windows a disk of this size has.
pub(super) fn windows_of(size: ByteCount) -> u64 {
    size.0.div_ceil(WINDOW_SIZE as u64)
}

/// How many bytes of a window the disk has.
pub(super) fn length_of(window: u64, size: ByteCount) -> usize {
    (size.0 - window * WINDOW_SIZE as u64).min(WINDOW_SIZE as u64) as usize
}

/// Takes the digests of a disk's windows in their order.
pub(super) struct Proof {
    size: ByteCount,
    root: blake3::Hasher,
    /// How many windows share a digest that is kept.
    together: u64,
    group: blake3::Hasher,
    next: u64,
    zero: Digest,
    groups: Vec<Digest>,
}

/// All that there is to compare.
pub(super) struct Proven {
    pub(super) root: Digest,
    windows: u64,
    together: u64,
    groups: Vec<Digest>,
}

impl Proof {
    pub(super) fn new(size: ByteCount) -> Proof {
        let mut root = blake3::Hasher::new();
        root.update(ROOT_MAGIC).update(&size.0.to_le_bytes());
        let together = windows_of(size).div_ceil(KEPT).max(1);
        let (group, zero) = (blake3::Hasher::new(), Digest::of(&vec![0; WINDOW_SIZE]));
        Proof { size, root, together, group, next: 0, zero, groups: Vec::new() }
    }

    /// All windows before `end` for which there was no digest yet are zero.
    pub(super) fn zeros_until(&mut self, end: u64) {
        while self.next < end {
            match length_of(self.next, self.size) {
                WINDOW_SIZE => self.window(self.zero),
                short => self.window(Digest::of(&vec![0; short])),
            }
        }
    }

    /// The digest of the next window.
    pub(super) fn window(&mut self, digest: Digest) {
        self.next += 1;
        self.root.update(&digest.0);
        self.group.update(&digest.0);
        if self.next.is_multiple_of(self.together) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        self.groups.push(Digest(*self.group.finalize().as_bytes()));
        self.group.reset();
    }

    pub(super) fn finish(mut self) -> Proven {
        if !self.next.is_multiple_of(self.together) {
            self.end_group();
        }
        let root = Digest(*self.root.finalize().as_bytes());
        Proven { root, windows: self.next, together: self.together, groups: self.groups }
    }
}

impl Proven {
    /// Where `other`, of a disk of the same size, is not the same.
    pub(super) fn differing(&self, other: &Proven) -> Differing {
        let mut differing = Differing::default();
        for (group, (ours, theirs)) in self.groups.iter().zip(&other.groups).enumerate() {
            if ours != theirs {
                let first = group as u64 * self.together;
                differing.add(first, (first + self.together).min(self.windows) - 1);
            }
        }
        differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = WINDOW_SIZE as u64;

    #[test]
    fn the_root_is_what_the_document_says() {
        let mut proof = Proof::new(ByteCount(2 * MIB + 512));
        proof.zeros_until(1);
        proof.window(Digest::of(&[7; WINDOW_SIZE]));
        proof.zeros_until(3);
        let mut bytes = b"MOBROOT1".to_vec();
        bytes.extend((2 * MIB + 512).to_le_bytes());
        for window in [&vec![0; WINDOW_SIZE], &vec![7; WINDOW_SIZE], &vec![0; 512]] {
            bytes.extend(Digest::of(window).0);
        }
        assert_eq!(proof.finish().root, Digest::of(&bytes));
        assert_ne!(Proof::new(ByteCount(0)).finish().root, Proof::new(ByteCount(MIB)).finish().root);
    }

    #[test]
    fn what_differs_is_named_by_its_window_and_on_a_huge_disk_nearly_so() {
        for (windows, bad, named) in [(100, vec![3, 4, 99], "MiB 3-4, 99"), (3 << 20, vec![25], "MiB 24-35")]
        {
            let proven = |wrong: &[u64]| {
                let mut proof = Proof::new(ByteCount(windows * MIB - 1));
                for window in wrong {
                    proof.zeros_until(*window);
                    proof.window(Digest::of(b"something else"));
                }
                proof.zeros_until(windows);
                proof.finish()
            };
            let (good, bad) = (proven(&[]), proven(&bad));
            assert_eq!(good.differing(&bad).to_string(), named);
            assert!(good.differing(&proven(&[])).is_none());
            assert!(good.root != bad.root && good.groups.len() as u64 <= KEPT);
        }
    }

    #[test]
    fn only_so_many_runs_are_named() {
        let mut differing = Differing::default();
        (0..100).for_each(|run| differing.add(3 * run, 3 * run + 1));
        assert_eq!((differing.windows.len(), differing.count), (Differing::RUNS, 200));
        assert!(differing.to_string().ends_with("45-46 and 168 more"), "{differing}");
    }
}
