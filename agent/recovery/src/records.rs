//! The three small records that the recovery service keeps of its own: the machine, when a manifest came, what was merged.
//!
//! They are envelopes, as manifests are. Restoring a point needs none of them as long as nothing was pruned before a disk
//! was added; they are what intake, retention and `verify` go by. Deliberately not here: where they lie (`keys`).

use jiff::Timestamp;
use mobility_format::{
    Digest, DiskId, Epoch, Generation, MachineId, PublicKey,
    envelope::{self, EnvelopeError, Magic},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const RECORD_VERSION: u16 = 1;

/// A kind of record.
pub(crate) trait Record: Serialize + DeserializeOwned {
    const MAGIC: Magic;

    fn seal(&self) -> Result<Vec<u8>, EnvelopeError> {
        envelope::seal(Self::MAGIC, RECORD_VERSION, self, None)
    }

    fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Ok(envelope::open(Self::MAGIC, RECORD_VERSION, bytes)?.body)
    }
}

/// A machine as the vault knows it. The key is the one it came with first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Which machine.
    pub machine: MachineId,
    /// The key that all its manifests are signed with.
    pub key: PublicKey,
    /// The newest generation handed out; 0 where none was.
    pub generation: Generation,
}

impl Record for MachineRecord {
    const MAGIC: Magic = Magic::MACHINE;
}

/// When the service took a manifest in, by the service's clock. Retention goes by this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) machine: MachineId,
    pub(crate) epoch: Epoch,
    /// The manifest's digest.
    pub(crate) manifest: Digest,
    pub(crate) received: Timestamp,
}

impl Record for Received {
    const MAGIC: Magic = Magic(*b"\x89MOBRCV\n");
}

/// That a range of epochs was merged, put after the runs of all disks. A disk that it does not name had nothing stored in
/// these epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merge {
    pub(crate) machine: MachineId,
    pub(crate) first_epoch: Epoch,
    pub(crate) last_epoch: Epoch,
    /// The digest of the last epoch's manifest, which stays: it is a recovery point.
    pub(crate) manifest: Digest,
    pub(crate) disks: Vec<MergedDisk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MergedDisk {
    pub(crate) id: DiskId,
    /// The digest of the whole object that holds the run.
    pub(crate) run: Digest,
    /// The last segment of this disk that the agent wrote up to the range's end, which the next one of the agent names
    /// as its predecessor.
    pub(crate) last_segment: Digest,
}

impl Record for Merge {
    const MAGIC: Magic = Magic(*b"\x89MOBMRG\n");
}
