//! Upload grants: what an agent may create, and nothing else.
//!
//! A grant is one `PUT` of one object that does not exist yet. The service chooses where; what the agent fills in is which
//! of its objects goes there. Deliberately not here: how a store is made to refuse everything else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Limited, TooMuch, within};
use crate::{ByteCount, Digest, Epoch, Generation, SessionId};

/// Grants of one kind that may be asked for at once.
pub const MAX_GRANTS: usize = 4096;

/// `POST /v1/grants`: asks for rights to upload, ahead of need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// This run.
    pub session: SessionId,
    /// In which generation.
    pub generation: Generation,
    /// How many segments.
    pub segments: u32,
    /// The first epoch to have a manifest put.
    pub first_epoch: Epoch,
    /// How many epochs, from that on.
    pub manifests: u32,
}

/// Answers [`GrantRequest`]; may hold fewer than were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// In which generation.
    pub generation: Generation,
    /// When all of them expire.
    pub expires: Timestamp,
    /// The longest object that may be put.
    pub longest: ByteCount,
    /// For segments.
    pub segments: Vec<SegmentGrant>,
    /// For manifests.
    pub manifests: Vec<ManifestGrant>,
}

/// The right to put one segment, whichever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentGrant {
    /// The place's number: what the manifest names the segment's place by.
    pub slot: u64,
    /// How.
    #[serde(flatten)]
    pub grant: Grant,
}

/// The right to put the manifest of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestGrant {
    /// Of which epoch.
    pub epoch: Epoch,
    /// How.
    #[serde(flatten)]
    pub grant: Grant,
}

/// How to put one object: `PUT` to this address, with exactly these headers besides `Content-Length`. Success is 200 or
/// 201. An answer of 403, 409 or 412 may mean that the object is there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Where.
    pub url: String,
    /// What to send with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// `POST /v1/commits`: a manifest was put. Only makes the service look sooner; it would find it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitNotice {
    /// This run.
    pub session: SessionId,
    /// In which generation.
    pub generation: Generation,
    /// Which epoch.
    pub epoch: Epoch,
    /// Which manifest.
    pub digest: Digest,
}

/// Answers [`CommitNotice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitSeen {
    /// What became of it.
    pub state: CommitState,
}

/// What became of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitState {
    /// It is in cache storage.
    Present,
    /// It is not there, whatever the store has answered: put it again.
    Absent,
    /// It is in target storage.
    TakenIn,
    /// Another manifest is there under this epoch.
    Other,
}

impl Limited for GrantRequest {
    fn check(&self) -> Result<(), TooMuch> {
        within("the segments asked for", self.segments as usize, MAX_GRANTS)?;
        within("the manifests asked for", self.manifests as usize, MAX_GRANTS)
    }
}

impl Limited for Grants {
    fn check(&self) -> Result<(), TooMuch> {
        within("the list of segments", self.segments.len(), MAX_GRANTS)?;
        within("the list of manifests", self.manifests.len(), MAX_GRANTS)?;
        let grants = self.segments.iter().map(|s| &s.grant).chain(self.manifests.iter().map(|m| &m.grant));
        grants.into_iter().try_for_each(|grant| {
            within("an address", grant.url.len(), 8 << 10)?;
            within("the headers of a grant", grant.headers.len(), 16)
        })
    }
}

impl Limited for CommitSeen {
    fn check(&self) -> Result<(), TooMuch> {
        Ok(())
    }
}
