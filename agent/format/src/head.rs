//! The newest manifest of a machine: what the next one has to follow.
//!
//! Agent, service and intake keep the same head and take the same step from it, and it travels in control messages as it is
//! kept. Deliberately not here: whether a manifest does follow (the recovery library's intake), and where a head is found.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ByteCount, Digest, DiskId, Epoch, Generation, manifest::SignedManifest};

/// The newest manifest of a machine, point or checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// In which generation it was made.
    pub generation: Generation,
    /// Which epoch it commits.
    pub epoch: Epoch,
    /// Its digest, which the next manifest names.
    pub digest: Digest,
    /// The digest of the manifest before it.
    pub previous: Digest,
    /// All disks that were ever in it or before it, by id.
    #[serde(deserialize_with = "by_id")]
    pub disks: Vec<HeadDisk>,
}

/// A disk as a machine's newest manifest, or the last one that named it, left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadDisk {
    /// Which disk.
    pub id: DiskId,
    /// What the machine called it.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// The last segment that the agent wrote of it, which the next must name; [`Digest::NONE`] where there is none.
    pub last_segment: Digest,
    /// Whether the newest manifest still names it.
    pub present: bool,
}

impl Head {
    /// The head once `signed`, which follows `previous`, is committed.
    #[must_use]
    pub fn after(previous: Option<&Head>, signed: &SignedManifest) -> Head {
        let manifest = &signed.manifest;
        let mut disks = previous.map_or(Vec::new(), |head| head.disks.clone());
        disks.iter_mut().for_each(|disk| disk.present = false);
        for state in &manifest.disks {
            let position = disks.binary_search_by_key(&state.id, |disk| disk.id);
            let at = position.unwrap_or_else(|at| {
                let (id, name, size) = (state.id, state.name.clone(), state.size);
                disks.insert(at, HeadDisk { id, name, size, last_segment: Digest::NONE, present: true });
                at
            });
            let disk = &mut disks[at];
            (disk.name, disk.size, disk.present) = (state.name.clone(), state.size, true);
            if let Some(last) = state.segments.last() {
                disk.last_segment = last.digest;
            }
        }
        let (generation, epoch, previous) = (manifest.generation, manifest.epoch, manifest.previous);
        Head { generation, epoch, digest: signed.digest, previous, disks }
    }

    /// What it knows of a disk.
    #[must_use]
    pub fn disk(&self, id: DiskId) -> Option<&HeadDisk> {
        self.disks.iter().find(|disk| disk.id == id)
    }
}

/// [`Head::after`] searches by id, and a peer may have sent them in any order.
fn by_id<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<HeadDisk>, D::Error> {
    let mut disks = Vec::<HeadDisk>::deserialize(input)?;
    disks.sort_by_key(|disk| disk.id);
    Ok(disks)
}
