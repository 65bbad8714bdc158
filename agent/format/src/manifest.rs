//! Manifests: what commits an epoch. The manifest of an epoch is put last, so an epoch exists as a whole or not at all.
//!
//! Most manifests are recovery points. The others, checkpoints, commit the progress of an initial replication or a
//! resync, during which there is nothing to recover to yet. Every manifest names the one before it by digest and is
//! signed by the machine, so the past cannot be changed without being seen. The body is JSON, because it is read by
//! people in trouble as well as by programs.
//!
//! Deliberately not here: the bytes around the body (`envelope`), and how a point is restored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    BlockIndex, ByteCount, Digest, DiskId, Epoch, Generation, MachineId, PublicKey, SessionId,
    envelope::{self, EnvelopeError, Magic, SigningKey},
};

/// The version of the body that this program writes, and the highest it reads.
pub const MANIFEST_VERSION: u16 = 1;

/// How consistent the disks of a recovery point are with one another and in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Blocks were read at different times, and it could not be shown that nothing changed in between.
    Fuzzy,
    /// What all disks held at one instant, as if power had been cut then.
    Crash,
    /// As `Crash`, and the file systems had been flushed.
    FileSystem,
    /// As `FileSystem`, and the applications had been told.
    Application,
}

impl Consistency {
    /// The word for it, as it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Fuzzy => "fuzzy",
            Consistency::Crash => "crash",
            Consistency::FileSystem => "file-system",
            Consistency::Application => "application",
        }
    }
}

/// How the cut that ended an epoch was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// How it was reached.
    pub method: CutMethod,
    /// Since when nothing that is in the point was missing: what had been completed by then is in it.
    pub t0: Timestamp,
    /// From `t0` until everything was read, in microseconds.
    pub window_us: u64,
    /// How many instants were tried as `t0`, the one it shows included.
    pub tries: u32,
    /// How many bytes were read inside the window.
    pub read: ByteCount,
    /// How long writes were held, in microseconds; 0 where nobody was stopped.
    pub held_us: u64,
    /// How much was dirtied each second since the last cut, in bytes.
    pub dirty_rate: ByteCount,
    /// Why the point is fuzzy, or less than was wanted, in words, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The method of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutMethod {
    /// Read while writes went on, then shown that none of them touched what was read.
    Optimistic,
    /// Read while the file systems were frozen.
    Freeze,
    /// Two complete scans in a row that agree.
    Scan,
    /// None succeeded.
    None,
}

impl CutMethod {
    /// The word for it, as it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CutMethod::Optimistic => "optimistic",
            CutMethod::Freeze => "freeze",
            CutMethod::Scan => "scan",
            CutMethod::None => "none",
        }
    }
}

/// What a manifest commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Commit {
    /// Progress, durable but nothing to recover to.
    Checkpoint,
    /// A recovery point.
    Point {
        /// How consistent it is.
        consistency: Consistency,
        /// How it was made.
        cut: Cut,
    },
}

/// A segment as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The agent's session that wrote it; zero in a merged run.
    pub session: SessionId,
    /// Its number. Where two segments hold the same block, the higher part is newer.
    pub part: u32,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: ByteCount,
    /// The first block that it says anything about.
    pub first_block: BlockIndex,
    /// The block after the last that it says anything about.
    pub end_block: BlockIndex,
    /// How many blocks it says something about.
    pub blocks: u64,
    /// The place in cache storage that it was put into, where that was granted by number. Means nothing in target storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
}

/// A disk in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// Which disk.
    pub id: DiskId,
    /// What the machine called it at that time, for people.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// The segments that hold what changed in this epoch, oldest first.
    pub segments: Vec<SegmentRef>,
    /// Set where the disk could not be read for this epoch: it stays as it was in the one before, and has no segments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// Blocks compared with their digests by the audit since the tracking began.
    #[serde(default)]
    pub audited_blocks: u64,
    /// Of these, blocks that had changed although the tracker said that they had not.
    #[serde(default)]
    pub missed_blocks: u64,
}

/// What commits an epoch of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which machine.
    pub machine: MachineId,
    /// In which generation.
    pub generation: Generation,
    /// Which epoch.
    pub epoch: Epoch,
    /// Which run of the agent.
    pub session: SessionId,
    /// When the agent made it, by the machine's own clock. Retention never goes by this.
    pub time: Timestamp,
    /// What it commits.
    #[serde(flatten)]
    pub commit: Commit,
    /// All disks of the machine.
    pub disks: Vec<DiskState>,
    /// The digest of the manifest of the epoch before; [`Digest::NONE`] for the first.
    pub previous: Digest,
    /// The version of the agent.
    pub agent: String,
}

impl Manifest {
    /// The object to store: the body in its envelope, signed.
    ///
    /// # Errors
    /// When the body is larger than a manifest may be ([`envelope::MAX_BODY`]).
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, EnvelopeError> {
        envelope::seal(Magic::MANIFEST, MANIFEST_VERSION, self, Some(key))
    }

    /// How consistent the point is, or nothing for a checkpoint.
    #[must_use]
    pub fn consistency(&self) -> Option<Consistency> {
        match self.commit {
            Commit::Checkpoint => None,
            Commit::Point { consistency, .. } => Some(consistency),
        }
    }

    /// The disk `id`.
    #[must_use]
    pub fn disk(&self, id: DiskId) -> Option<&DiskState> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        let ids: std::collections::BTreeSet<_> = self.disks.iter().map(|disk| disk.id).collect();
        if ids.len() != self.disks.len() {
            return Err(EnvelopeError::Malformed("a disk is named twice".to_owned()));
        }
        if self.epoch.0 == 0 {
            return Err(EnvelopeError::Malformed("epochs count from 1".to_owned()));
        }
        if self.disks.iter().any(|disk| disk.missing && !disk.segments.is_empty()) {
            return Err(EnvelopeError::Malformed("a disk that could not be read has segments".to_owned()));
        }
        self.disks.iter().try_for_each(|disk| check_segments(&disk.segments, disk.size))
    }
}

fn check_segments(segments: &[SegmentRef], size: ByteCount) -> Result<(), EnvelopeError> {
    let sound = |segment: &SegmentRef| {
        segment.first_block < segment.end_block
            && segment.end_block.0 <= size.blocks()
            && segment.blocks <= segment.end_block.0 - segment.first_block.0
    };
    match segments.iter().find(|segment| !sound(segment)) {
        None => Ok(()),
        Some(bad) => Err(EnvelopeError::Malformed(format!(
            "segment part {} covers {}..{} of a disk of {size}",
            bad.part, bad.first_block, bad.end_block.0
        ))),
    }
}

/// A manifest that was read and whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    /// What it says.
    pub manifest: Manifest,
    /// The key that signed it. Whether that is the machine's key is for the reader to compare.
    pub key: PublicKey,
    /// Its digest, by which the next manifest names it.
    pub digest: Digest,
}

impl SignedManifest {
    /// Reads a manifest and checks its digest and its signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let opened = envelope::open::<Manifest>(Magic::MANIFEST, MANIFEST_VERSION, bytes)?;
        opened.body.check()?;
        let key = opened.key.ok_or(EnvelopeError::Unsigned)?;
        Ok(SignedManifest { manifest: opened.body, key, digest: opened.digest })
    }
}

/// What commits a merge of several epochs of one disk in target storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Whose disk.
    pub machine: MachineId,
    /// Which disk.
    pub disk: DiskId,
    /// The first epoch merged.
    pub first_epoch: Epoch,
    /// The last epoch merged.
    pub last_epoch: Epoch,
    /// The disk's size at the end of the last.
    pub size: ByteCount,
    /// The merged segments, in the order of their blocks; no two hold the same block.
    pub segments: Vec<SegmentRef>,
}

impl Run {
    /// The object to store.
    ///
    /// # Errors
    /// When the body is larger than an envelope may hold ([`envelope::MAX_BODY`]).
    pub fn seal(&self) -> Result<Vec<u8>, EnvelopeError> {
        envelope::seal(Magic::RUN, MANIFEST_VERSION, self, None)
    }

    /// Reads a run and checks its digest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let run = envelope::open::<Run>(Magic::RUN, MANIFEST_VERSION, bytes)?.body;
        if run.first_epoch.0 == 0 || run.first_epoch > run.last_epoch {
            return Err(EnvelopeError::Malformed("the epochs are not in order".to_owned()));
        }
        check_segments(&run.segments, run.size)?;
        if run.segments.windows(2).any(|pair| pair[0].end_block > pair[1].first_block) {
            return Err(EnvelopeError::Malformed("the segments of a run overlap".to_owned()));
        }
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u8, segments: Vec<SegmentRef>) -> DiskState {
        let (id, size) = (DiskId([id; 16]), ByteCount(4097));
        DiskState {
            id,
            name: String::new(),
            size,
            segments,
            missing: false,
            audited_blocks: 0,
            missed_blocks: 0,
        }
    }

    fn segment(first: u64, end: u64, blocks: u64) -> SegmentRef {
        SegmentRef {
            session: SessionId([1; 8]),
            part: 0,
            digest: Digest::NONE,
            length: ByteCount(1),
            first_block: BlockIndex(first),
            end_block: BlockIndex(end),
            blocks,
            slot: None,
        }
    }

    fn read_back(epoch: u64, disks: Vec<DiskState>) -> Result<SignedManifest, EnvelopeError> {
        let manifest = Manifest {
            machine: MachineId([1; 16]),
            generation: Generation(1),
            epoch: Epoch(epoch),
            session: SessionId([1; 8]),
            time: Timestamp::UNIX_EPOCH,
            commit: Commit::Checkpoint,
            disks,
            previous: Digest::NONE,
            agent: String::new(),
        };
        SignedManifest::parse(&manifest.sign(&SigningKey::from_bytes(&[7; 32]))?)
    }

    #[test]
    fn a_manifest_that_breaks_a_rule_is_refused_though_its_signature_is_right() {
        let sound = read_back(1, vec![disk(1, vec![segment(0, 2, 2)]), disk(2, Vec::new())]);
        assert_eq!(sound.unwrap().manifest.disks.len(), 2);
        let missing = DiskState { missing: true, ..disk(1, vec![segment(0, 2, 2)]) };
        let bad = [
            ("epoch 0", 0, vec![]),
            ("a disk twice", 1, vec![disk(1, Vec::new()), disk(1, Vec::new())]),
            ("missing, but with content", 1, vec![missing]),
            ("an empty segment", 1, vec![disk(1, vec![segment(1, 1, 0)])]),
            ("beyond the disk", 1, vec![disk(1, vec![segment(0, 3, 3)])]),
            ("more blocks than there are", 1, vec![disk(1, vec![segment(0, 1, 2)])]),
        ];
        for (name, epoch, disks) in bad {
            assert!(matches!(read_back(epoch, disks), Err(EnvelopeError::Malformed(_))), "{name}");
        }
    }
}
