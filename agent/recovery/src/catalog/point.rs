//! A recovery point as it is listed, and the short name by which people call it.
//!
//! Deliberately not here: choosing one of several (`select`).

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Digest, Epoch,
    manifest::{Commit, Consistency, Cut, Manifest, SignedManifest},
};
use serde::{Serialize, Serializer};

/// A point's name: its epoch and the first 8 hexadecimal digits of its manifest's digest, as in `42-5f3c9a01`. The
/// epoch alone is unique in a machine; the digest keeps a name noted elsewhere from meaning another point in another
/// vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId {
    /// The epoch that the point ends.
    pub epoch: Epoch,
    /// The first bytes of the manifest's digest.
    pub digest: [u8; 4],
}

impl PointId {
    /// The name of the point that `signed` commits.
    #[must_use]
    pub fn of(signed: &SignedManifest) -> PointId {
        PointId::new(signed.manifest.epoch, signed.digest)
    }

    /// The name of the point that ends `epoch` and whose manifest has this digest.
    #[must_use]
    pub fn new(epoch: Epoch, digest: Digest) -> PointId {
        let [a, b, c, d, ..] = digest.0;
        PointId { epoch, digest: [a, b, c, d] }
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.epoch, u32::from_be_bytes(self.digest))
    }
}

impl FromStr for PointId {
    type Err = NotAPointId;

    fn from_str(text: &str) -> Result<Self, NotAPointId> {
        let parse = || {
            let (epoch, digest) = text.split_once('-')?;
            let digest = u32::from_str_radix(digest, 16).ok()?.to_be_bytes();
            Some(PointId { epoch: Epoch(epoch.parse().ok()?), digest })
        };
        parse().filter(|id| id.to_string() == text).ok_or(NotAPointId)
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not a point's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a point's id, which looks like 42-5f3c9a01")]
pub struct NotAPointId;

/// A recovery point.
#[derive(Clone, Debug)]
pub struct Point<'a> {
    /// Its name.
    pub id: PointId,
    /// What the machine signed.
    pub signed: &'a SignedManifest,
    /// When the service took it in, by the service's clock.
    pub received: Timestamp,
    /// How consistent it is.
    pub consistency: Consistency,
    /// Why it cannot be restored, where that is known without looking into segments.
    pub problem: Option<String>,
}

impl<'a> Point<'a> {
    /// What it says.
    #[must_use]
    pub fn manifest(&self) -> &'a Manifest {
        &self.signed.manifest
    }

    /// The epoch it ends.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.signed.manifest.epoch
    }

    /// How its cut was made.
    #[must_use]
    pub fn cut(&self) -> Option<&'a Cut> {
        match &self.signed.manifest.commit {
            Commit::Checkpoint => None,
            Commit::Point { cut, .. } => Some(cut),
        }
    }

    /// The instant that it shows, by the machine's clock: the cut's `t0`.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.cut().map_or(self.signed.manifest.time, |cut| cut.t0)
    }

    /// Whether it is known to be consistent.
    #[must_use]
    pub fn is_fuzzy(&self) -> bool {
        self.consistency == Consistency::Fuzzy
    }

    /// How many blocks its epoch's segments say something about.
    #[must_use]
    pub fn changed_blocks(&self) -> u64 {
        self.segments().map(|segment| segment.blocks).sum()
    }

    /// How many bytes its epoch's segments took when they were sent.
    #[must_use]
    pub fn stored_bytes(&self) -> ByteCount {
        ByteCount(self.segments().map(|segment| segment.length.0).sum())
    }

    fn segments(&self) -> impl Iterator<Item = &'a mobility_format::manifest::SegmentRef> {
        self.signed.manifest.disks.iter().flat_map(|disk| &disk.segments)
    }
}
