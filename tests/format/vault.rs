//! A small vault from a seed: two disks and a dozen epochs, part of them in cache storage, part in target storage, part
//! merged, with all that `docs/FORMAT.md` says can happen to a disk. Beside it, what each point must restore to.
//!
//! It uses the format crate alone: what the recovery library makes of a vault is tested elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use mobility_format::{
    BLOCK_SIZE, BlockRange, BlockSet, ByteCount, Digest, DiskId, Epoch, Generation, MachineId, PublicKey,
    SessionId,
    envelope::{self, Magic, SigningKey},
    key::{CacheKey, TargetKey},
    manifest::{Commit, Consistency, Cut, CutMethod, DiskState, Manifest, Run, SegmentRef, SignedManifest},
    segment::SegmentHeader,
};
use mobility_tests::dice::Dice;
use serde_json::json;
use tempfile::TempDir;

use crate::samples::{fill, segment_of};

const MACHINE: MachineId = MachineId([0xAB; 16]);
const EPOCHS: u64 = 12;
/// Epochs up to this one lie in target storage, the others still in cache storage.
const TAKEN_IN: u64 = 8;
/// These epochs are merged, and their originals are gone.
const MERGED: (u64, u64) = (3, 6);
/// The third disk is added with this epoch, after the merge.
const ADDED: u64 = 8;

/// What a disk must be at a point.
pub(crate) struct Expected {
    pub(crate) epoch: Epoch,
    pub(crate) disk: DiskId,
    pub(crate) image: Vec<u8>,
}

struct Disk {
    id: DiskId,
    image: Vec<u8>,
    previous: Digest,
    merging: BlockSet,
}

/// The vault on disk, and what is known about it.
pub(crate) struct Vault {
    root: TempDir,
    signing: SigningKey,
    dice: Dice,
    disks: Vec<Disk>,
    previous: Digest,
    points: Vec<Expected>,
    envelopes: Vec<(&'static str, Vec<u8>)>,
}

impl Vault {
    /// Writes the vault of `seed`.
    pub(crate) fn write(seed: u64) -> Vault {
        let disk = |n: u8, size| Disk {
            id: DiskId([n; 16]),
            image: vec![0; size],
            previous: Digest::NONE,
            merging: BlockSet::new(),
        };
        let mut vault = Vault {
            root: TempDir::new().unwrap(),
            signing: SigningKey::from_bytes(&[seed as u8 + 1; 32]),
            dice: Dice::new(seed),
            disks: vec![disk(1, 3 * (1 << 20) + 1000), disk(2, 700 * 1024), disk(3, 300 * 1024)],
            previous: Digest::NONE,
            points: Vec::new(),
            envelopes: Vec::new(),
        };
        for epoch in 1..=EPOCHS {
            vault.write_epoch(epoch);
        }
        vault
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn machine(&self) -> MachineId {
        MACHINE
    }

    pub(crate) fn key(&self) -> PublicKey {
        PublicKey(self.signing.verifying_key().to_bytes())
    }

    /// What each disk must be at each recovery point, but those whose own manifests retention took.
    pub(crate) fn points(&self) -> &[Expected] {
        &self.points
    }

    /// The manifests and runs, in the order in which they were written.
    pub(crate) fn envelopes(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.envelopes.clone()
    }

    fn disks_at(epoch: u64) -> usize {
        if epoch < ADDED { 2 } else { 3 }
    }

    fn write_epoch(&mut self, epoch: u64) {
        // A new generation starts half way; epochs go on counting.
        let generation = Generation(1 + epoch / 7);
        let missing = epoch == 5;
        let mut states = Vec::new();
        for index in 0..Self::disks_at(epoch) {
            let missing = missing && index == 1;
            let segments = if missing { Vec::new() } else { self.write_disk(index, generation, epoch) };
            let disk = &self.disks[index];
            states.push(DiskState {
                id: disk.id,
                name: format!("/dev/vd{index}"),
                size: ByteCount(disk.image.len() as u64),
                segments,
                missing,
                audited_blocks: epoch * 100,
                missed_blocks: 0,
            });
        }
        self.write_manifest(generation, epoch, states);
        if epoch == MERGED.1 {
            self.merge();
        }
    }

    fn write_disk(&mut self, index: usize, generation: Generation, epoch: u64) -> Vec<SegmentRef> {
        let mut segments = Vec::new();
        let grown = epoch == 9 && index == 0;
        // The second disk shrinks and grows again. Nothing is stored of the zeros that come back.
        match (index, epoch) {
            (1, 10) => self.disks[1].image.truncate(400 * 1024),
            (1, 12) => self.disks[1].image.resize(600 * 1024, 0),
            _ => {}
        }
        for part in 0..1 + self.dice.below(3) as u32 {
            let set = self.change(index, grown && part == 0);
            let (random, disk) = (&mut self.dice, &mut self.disks[index]);
            let session = SessionId((random.below(2) + 1).to_le_bytes());
            let header = SegmentHeader {
                machine: MACHINE,
                disk: disk.id,
                generation,
                first_epoch: Epoch(epoch),
                last_epoch: Epoch(epoch),
                session,
                part,
                previous: disk.previous,
            };
            let (bytes, summary) = segment_of(&disk.image, &set, header);
            disk.previous = summary.digest;
            if (MERGED.0..=MERGED.1).contains(&epoch) {
                disk.merging.union_with(&set);
            }
            let key = segment_key(&header, epoch);
            // A part that a killed agent left behind: nobody refers to it, nobody may trip over it.
            if self.dice.below(4) == 0 {
                put(
                    self.root.path(),
                    &segment_key(&SegmentHeader { session: SessionId([9; 8]), ..header }, epoch),
                    b"?",
                );
            }
            put(self.root.path(), &key, &bytes);
            segments.push(summary.named(header.session, header.part));
        }
        segments
    }

    /// Changes some blocks of a disk, some of them again and again, and says which.
    fn change(&mut self, index: usize, grow: bool) -> BlockSet {
        let image = &mut self.disks[index].image;
        let mut set = BlockSet::new();
        if grow {
            let old = ByteCount(image.len() as u64).blocks();
            image.resize(image.len() + 1_500_000, 0);
            set.insert_range(BlockRange::new(old - 1, ByteCount(image.len() as u64).blocks() - old + 1));
        }
        let blocks = ByteCount(image.len() as u64).blocks();
        for _ in 0..1 + self.dice.below(6) {
            let first = self.dice.below(blocks);
            let range = BlockRange::new(first, 1 + self.dice.below((blocks - first).min(300)));
            let (start, end) = (range.start.byte_offset() as usize, range.end().byte_offset() as usize);
            let end = end.min(image.len());
            fill(&mut self.dice, &mut image[start..end]);
            set.insert_range(range);
        }
        set
    }

    fn write_manifest(&mut self, generation: Generation, epoch: u64, disks: Vec<DiskState>) {
        let point = epoch % 3 != 1;
        let manifest = Manifest {
            machine: MACHINE,
            generation,
            epoch: Epoch(epoch),
            session: SessionId([1; 8]),
            time: time(epoch),
            commit: if point { point_at(epoch) } else { Commit::Checkpoint },
            disks,
            previous: self.previous,
            agent: "0.1.0-test".to_owned(),
        };
        let bytes = manifest.sign(&self.signing).unwrap();
        self.previous = SignedManifest::parse(&bytes).unwrap().digest;
        put(self.root.path(), &manifest_key(generation, epoch), &bytes);
        self.envelopes.push(("manifest", bytes));
        if point {
            let expected =
                |disk: &Disk| Expected { epoch: Epoch(epoch), disk: disk.id, image: disk.image.clone() };
            self.points.extend(self.disks[..Self::disks_at(epoch)].iter().map(expected));
        }
    }

    /// Merges the epochs [`MERGED`] of all disks, and removes the originals with all manifests but the last.
    fn merge(&mut self) {
        let (first, last) = (Epoch(MERGED.0), Epoch(MERGED.1));
        let mut merged = Vec::new();
        for disk in &self.disks[..Self::disks_at(MERGED.1)] {
            let header = SegmentHeader {
                machine: MACHINE,
                disk: disk.id,
                generation: Generation(1),
                first_epoch: first,
                last_epoch: last,
                session: SessionId([0; 8]),
                part: 0,
                previous: Digest::NONE,
            };
            let (bytes, summary) = segment_of(&disk.image, &disk.merging, header);
            let run = Run {
                machine: MACHINE,
                disk: disk.id,
                first_epoch: first,
                last_epoch: last,
                size: ByteCount(disk.image.len() as u64),
                segments: vec![summary.named(header.session, header.part)],
            };
            let digest = summary.digest;
            let key = TargetKey::MergedSegment { machine: MACHINE, disk: disk.id, first, last, digest };
            put(self.root.path(), &key.to_string(), &bytes);
            let key = TargetKey::Run { machine: MACHINE, disk: disk.id, first, last };
            let bytes = run.seal().unwrap();
            put(self.root.path(), &key.to_string(), &bytes);
            merged.push(json!({ "id": disk.id, "run": Digest::of(&bytes), "last_segment": disk.previous }));
            self.envelopes.push(("run", bytes));
        }
        let record = json!({
            "machine": MACHINE, "first_epoch": first, "last_epoch": last, "manifest": self.previous, "disks": merged,
        });
        let bytes = envelope::seal(Magic(*b"\x89MOBMRG\n"), 1, &record, None).unwrap();
        put(
            self.root.path(),
            &format!("target/{MACHINE}/merged/{:020}-{:020}.merge", first.0, last.0),
            &bytes,
        );
        for epoch in first.0..=last.0 {
            let folder = format!("target/{MACHINE}/segments/{epoch:020}");
            fs::remove_dir_all(self.root.path().join(folder)).unwrap();
        }
        for epoch in first.0..last.0 {
            fs::remove_file(self.root.path().join(manifest_key(Generation(1), epoch))).unwrap();
        }
        self.points.retain(|point| point.epoch < first || point.epoch >= last);
    }
}

fn point_at(epoch: u64) -> Commit {
    let cut = Cut {
        method: CutMethod::Optimistic,
        t0: time(epoch),
        window_us: 52,
        tries: 1,
        read: ByteCount(BLOCK_SIZE as u64),
        held_us: 0,
        dirty_rate: ByteCount(epoch),
        reason: None,
    };
    Commit::Point { consistency: Consistency::Crash, cut }
}

fn time(epoch: u64) -> Timestamp {
    Timestamp::new(1_770_000_000 + epoch as i64, 123_000_000).unwrap()
}

fn segment_key(header: &SegmentHeader, epoch: u64) -> String {
    let SegmentHeader { machine, disk, generation, first_epoch: at, session, part, .. } = *header;
    match epoch <= TAKEN_IN {
        true => TargetKey::Segment { machine, epoch: at, disk, session, part }.to_string(),
        false => CacheKey::Segment { machine, generation, epoch: at, disk, session, part }.to_string(),
    }
}

fn manifest_key(generation: Generation, epoch: u64) -> String {
    let (machine, at) = (MACHINE, Epoch(epoch));
    match epoch <= TAKEN_IN {
        true => TargetKey::Manifest { machine, epoch: at }.to_string(),
        false => CacheKey::Manifest { machine, generation, epoch: at }.to_string(),
    }
}

fn put(root: &Path, key: &str, bytes: &[u8]) {
    let path: PathBuf = root.join(key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
