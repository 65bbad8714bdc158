//! Fills vaults and other stores as an agent would, from model disks that remember what they held at every epoch, so that a test can
//! compare whatever it restores with what was there.
//!
//! Small disks in memory, content made from a seed. Deliberately not here: faults; tests damage the vault themselves.
#![allow(clippy::unwrap_used, reason = "for tests, which fail by panicking")]

use std::{collections::BTreeMap, ops::Deref, path::Path};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    BLOCK_SIZE, BlockRange, ByteCount, Digest, DiskId, Epoch, Generation, MachineId, PublicKey, SessionId,
    WINDOW_BLOCKS,
    envelope::SigningKey,
    key::CacheKey,
    manifest::{Commit, Consistency, Cut, CutMethod, DiskState, Manifest, SegmentRef},
    segment::{ExtentEncoder, SegmentHeader, SegmentWriter},
};
use mobility_recovery::{Intake, Stores, Vault};

pub use crate::dice::Dice;

/// The instant of epoch 0; each epoch is 15 seconds later than the one before.
pub const START: Timestamp = Timestamp::constant(1_700_000_000, 0);

/// How blocks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Content that compresses.
    Text,
    /// Content that does not.
    Noise,
    /// Zeros.
    Zero,
}

/// A disk and what it holds now.
#[derive(Clone, Debug)]
pub struct ModelDisk {
    /// Its id.
    pub id: DiskId,
    /// Its name.
    pub name: String,
    /// Its content, or the beginning of it.
    pub content: Vec<u8>,
    /// How many bytes it has behind that, which no snapshot remembers.
    behind: u64,
    last_segment: Digest,
    /// The segments of the epoch being made, each a block's content or nothing for zeros.
    parts: Vec<BTreeMap<u64, Option<Vec<u8>>>>,
}

impl ModelDisk {
    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        (self.content.len() as u64).div_ceil(BLOCK_SIZE as u64)
    }

    fn put(&mut self, block: u64, plain: Option<Vec<u8>>) {
        let start = block as usize * BLOCK_SIZE;
        let end = self.content.len().min(start + BLOCK_SIZE);
        let mut plain = plain;
        match &mut plain {
            Some(bytes) => {
                bytes[end - start..].fill(0);
                self.content[start..end].copy_from_slice(&bytes[..end - start]);
            }
            None => self.content[start..end].fill(0),
        }
        if self.parts.is_empty() {
            self.parts.push(BTreeMap::new());
        }
        self.parts.last_mut().unwrap().insert(block, plain);
    }
}

/// What an epoch ended with.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How consistent; nothing for a checkpoint.
    pub consistency: Option<Consistency>,
    /// What each disk held.
    pub disks: Vec<(DiskId, Vec<u8>)>,
}

/// An agent that writes into a vault, or into any other stores.
pub struct VaultMaker<S = Vault> {
    /// The vault.
    pub vault: S,
    /// The machine.
    pub machine: MachineId,
    /// Its key.
    pub key: SigningKey,
    /// The service's side.
    pub intake: Intake,
    /// The generation it writes in.
    pub generation: Generation,
    /// The disks.
    pub disks: Vec<ModelDisk>,
    /// What was committed, by epoch.
    pub committed: BTreeMap<Epoch, Snapshot>,
    /// The source of content.
    pub dice: Dice,
    session: SessionId,
    encoder: ExtentEncoder,
    /// The slot for the next segment, where segments go to slots.
    slot: Option<u64>,
}

impl VaultMaker {
    /// A new vault in `dir` with a new machine, which has no disks yet.
    #[must_use]
    pub fn new(dir: &Path, seed: u64) -> VaultMaker {
        VaultMaker::over(Vault::create(dir).unwrap(), seed)
    }
}

impl<S: Deref<Target = Stores>> VaultMaker<S> {
    /// A new machine in these stores, which has no disks yet.
    #[must_use]
    pub fn over(vault: S, seed: u64) -> VaultMaker<S> {
        let mut dice = Dice::new(seed);
        let machine = MachineId(std::array::from_fn(|_| dice.below(256) as u8));
        let key = SigningKey::from_bytes(&std::array::from_fn(|_| dice.below(256) as u8));
        let mut intake = Intake::open(&vault, machine, PublicKey(key.verifying_key().to_bytes())).unwrap();
        let generation = intake.new_generation().unwrap();
        VaultMaker {
            vault,
            machine,
            key,
            intake,
            generation,
            disks: Vec::new(),
            committed: BTreeMap::new(),
            session: SessionId(std::array::from_fn(|_| dice.below(256) as u8)),
            dice,
            encoder: ExtentEncoder::new().unwrap(),
            slot: None,
        }
    }

    /// From now on segments go to slots, as with a recovery service, from this number on.
    pub fn use_slots(&mut self, first: u64) {
        self.slot = Some(first);
    }

    /// The machine's public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// Adds a disk of zeros.
    pub fn add_disk(&mut self, name: &str, size: u64) {
        let (id, content) = (DiskId::derive(name), vec![0; size as usize]);
        let name = name.to_owned();
        self.disks.push(ModelDisk {
            id,
            name,
            content,
            behind: 0,
            last_segment: Digest::NONE,
            parts: Vec::new(),
        });
    }

    /// Makes a disk so long that its content is not kept in memory: only what it has now is. Its length is a multiple of a
    /// block's then.
    pub fn lengthen(&mut self, disk: usize, size: u64) {
        self.disks[disk].behind = size - self.disks[disk].content.len() as u64;
    }

    /// Writes a block behind what is kept of the content.
    pub fn write_behind(&mut self, disk: usize, block: u64, plain: Vec<u8>) {
        let disk = &mut self.disks[disk];
        assert!(block >= disk.blocks() && plain.len() == BLOCK_SIZE);
        if disk.parts.is_empty() {
            disk.parts.push(BTreeMap::new());
        }
        disk.parts.last_mut().unwrap().insert(block, Some(plain));
    }

    /// The agent is killed and started again: nothing that was not committed is known any more.
    pub fn restart(&mut self) {
        self.session = SessionId(std::array::from_fn(|_| self.dice.below(256) as u8));
        self.intake = Intake::open(&self.vault, self.machine, self.public_key()).unwrap();
    }

    /// A resync: a new generation.
    pub fn next_generation(&mut self) {
        self.generation = self.intake.new_generation().unwrap();
    }

    /// Writes blocks of a disk.
    pub fn write(&mut self, disk: usize, range: BlockRange, flavour: Flavour) {
        for block in range.start.0..range.end().0.min(self.disks[disk].blocks()) {
            let mut plain = vec![0; BLOCK_SIZE];
            let seed = self.dice.below(u64::MAX).to_le_bytes();
            match flavour {
                Flavour::Zero => {}
                Flavour::Text => {
                    plain.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seed[..chunk.len()]))
                }
                Flavour::Noise => blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut plain),
            }
            self.disks[disk].put(block, (flavour != Flavour::Zero).then_some(plain));
        }
    }

    /// Writes a whole disk: what an image holds.
    pub fn fill(&mut self, disk: usize, image: &[u8]) {
        for (block, plain) in image.chunks(BLOCK_SIZE).enumerate() {
            let mut whole = plain.to_vec();
            whole.resize(BLOCK_SIZE, 0);
            let is_data = whole.iter().any(|byte| *byte != 0);
            self.disks[disk].put(block as u64, is_data.then_some(whole));
        }
    }

    /// What was sent after the last commit is not known any more: the next segments follow those of `heads`, one for
    /// each disk by its id.
    pub fn forget_sent(&mut self, heads: &[Digest]) {
        let mut disks: Vec<_> = self.disks.iter_mut().collect();
        disks.sort_by_key(|disk| disk.id);
        disks.into_iter().zip(heads).for_each(|(disk, head)| disk.last_segment = *head);
    }

    /// Everything the disks hold is sent again, as after a resync that found no block unchanged.
    pub fn rewrite_all(&mut self) {
        for disk in &mut self.disks {
            for block in 0..disk.blocks() {
                let start = block as usize * BLOCK_SIZE;
                let mut plain = disk.content[start..disk.content.len().min(start + BLOCK_SIZE)].to_vec();
                plain.resize(BLOCK_SIZE, 0);
                disk.put(block, Some(plain));
            }
        }
    }

    /// What is written from now on goes into another segment.
    pub fn next_part(&mut self, disk: usize) {
        self.disks[disk].parts.push(BTreeMap::new());
    }

    /// Makes a disk larger or smaller. What lies beyond the new end is gone.
    pub fn resize(&mut self, disk: usize, size: u64) {
        let disk = &mut self.disks[disk];
        disk.content.resize(size as usize, 0);
        let blocks = disk.blocks();
        disk.parts.iter_mut().for_each(|part| part.retain(|block, _| *block < blocks));
        // The last block that is left may have lost its end, which counts as a change.
        if !size.is_multiple_of(BLOCK_SIZE as u64) {
            let mut last = disk.content[(blocks as usize - 1) * BLOCK_SIZE..].to_vec();
            last.resize(BLOCK_SIZE, 0);
            disk.put(blocks - 1, Some(last));
        }
    }

    /// Commits what was written since the last commit, and lets it be taken in.
    pub fn commit(&mut self, consistency: Option<Consistency>) -> Epoch {
        let epoch = self.send(consistency);
        let received = received_at(epoch);
        self.intake.admit_at(self.generation, epoch, received).unwrap();
        epoch
    }

    /// Commits a crash-consistent point.
    pub fn point(&mut self) -> Epoch {
        self.commit(Some(Consistency::Crash))
    }

    /// Puts what was written since the last commit into cache storage, manifest and all.
    pub fn send(&mut self, consistency: Option<Consistency>) -> Epoch {
        let (epoch, previous) = match self.intake.head() {
            Some(head) => (head.epoch.next(), head.digest),
            None => (Epoch(1), Digest::NONE),
        };
        let disks = (0..self.disks.len()).map(|disk| self.send_disk(disk, epoch)).collect();
        let manifest = Manifest {
            machine: self.machine,
            generation: self.generation,
            epoch,
            session: self.session,
            time: time_of(epoch),
            commit: consistency.map_or(Commit::Checkpoint, |consistency| point(consistency, epoch)),
            disks,
            previous,
            agent: "vault maker".to_owned(),
        };
        let (machine, generation) = (self.machine, self.generation);
        let key = CacheKey::Manifest { machine, generation, epoch };
        self.vault.cache().put_new(&key.to_string(), &manifest.sign(&self.key).unwrap()).unwrap();
        let disks = self.disks.iter().map(|disk| (disk.id, disk.content.clone())).collect();
        self.committed.insert(epoch, Snapshot { consistency, disks });
        epoch
    }

    fn send_disk(&mut self, disk: usize, epoch: Epoch) -> DiskState {
        let parts = std::mem::take(&mut self.disks[disk].parts);
        let mut segments = Vec::new();
        for (part, blocks) in parts.into_iter().filter(|blocks| !blocks.is_empty()).enumerate() {
            let header = SegmentHeader {
                machine: self.machine,
                disk: self.disks[disk].id,
                generation: self.generation,
                first_epoch: epoch,
                last_epoch: epoch,
                session: self.session,
                part: part as u32,
                previous: self.disks[disk].last_segment,
            };
            let (bytes, mut named) = self.segment(header, &blocks);
            let (machine, generation, session, id) =
                (self.machine, self.generation, self.session, header.disk);
            named.slot = self.slot;
            self.slot = self.slot.map(|slot| slot + 1);
            let key = match named.slot {
                Some(slot) => CacheKey::Slot { machine, generation, slot },
                None => {
                    CacheKey::Segment { machine, generation, epoch, disk: id, session, part: part as u32 }
                }
            };
            self.vault.cache().put_new(&key.to_string(), &bytes).unwrap();
            self.disks[disk].last_segment = named.digest;
            segments.push(named);
        }
        let disk = &self.disks[disk];
        DiskState {
            id: disk.id,
            name: disk.name.clone(),
            size: ByteCount(disk.content.len() as u64 + disk.behind),
            segments,
            missing: false,
            audited_blocks: 0,
            missed_blocks: 0,
        }
    }

    fn segment(
        &mut self,
        header: SegmentHeader,
        blocks: &BTreeMap<u64, Option<Vec<u8>>>,
    ) -> (Vec<u8>, SegmentRef) {
        let mut writer = SegmentWriter::new(Vec::new(), header).unwrap();
        let mut blocks = blocks.iter().peekable();
        while let Some((&start, first)) = blocks.next() {
            let mut plain = first.clone();
            let mut end = start + 1;
            while let Some((_, next)) = blocks.next_if(|(block, next)| {
                let joins = next.is_some() == first.is_some() && **block == end;
                joins && (first.is_none() || **block % WINDOW_BLOCKS != 0)
            }) {
                end += 1;
                plain = plain.zip(next.as_ref()).map(|(plain, next)| [&plain[..], &next[..]].concat());
            }
            let range = BlockRange::new(start, end - start);
            match plain {
                None => writer.append_zero(range).unwrap(),
                Some(plain) => writer.append(&self.encoder.encode(range, &plain).unwrap()).unwrap(),
            }
        }
        let (bytes, summary) = writer.finish().unwrap();
        let named = summary.named(header.session, header.part);
        (bytes, named)
    }

    /// Writes at random: one to three parts of a disk, some of it zeroed.
    pub fn write_at_random(&mut self, disk: usize, writes: u64) {
        for _ in 0..writes {
            let blocks = self.disks[disk].blocks();
            let start = self.dice.below(blocks);
            let count = [1, 2, 7, 40, 300][self.dice.below(5) as usize];
            let flavour = [Flavour::Text, Flavour::Noise, Flavour::Zero][self.dice.below(3) as usize];
            self.write(disk, BlockRange::new(start, count), flavour);
            if self.dice.below(4) == 0 {
                self.next_part(disk);
            }
        }
    }
}

/// When the agent makes an epoch.
#[must_use]
pub fn time_of(epoch: Epoch) -> Timestamp {
    START + SignedDuration::from_secs(15 * epoch.0 as i64)
}

/// When the service takes an epoch in: a second later.
#[must_use]
pub fn received_at(epoch: Epoch) -> Timestamp {
    time_of(epoch) + SignedDuration::from_secs(1)
}

fn point(consistency: Consistency, epoch: Epoch) -> Commit {
    let cut = Cut {
        method: if consistency == Consistency::Fuzzy { CutMethod::None } else { CutMethod::Optimistic },
        t0: time_of(epoch),
        window_us: 70,
        tries: 1,
        read: ByteCount(4096),
        held_us: 0,
        dirty_rate: ByteCount(0),
        reason: None,
    };
    Commit::Point { consistency, cut }
}
