//! Storage of any kind: a directory of files, or an object store over the network.
//!
//! [`Objects`] is what all of them can do. Everything else in this crate works on [`Stores`], a cache storage and a target
//! storage. Deliberately not here: what the objects mean.

#[cfg(feature = "service")]
mod claimed;
mod directory;
mod error;
mod faults;
mod files;
mod lock;
mod objects;
#[cfg(feature = "service")]
mod remote;
mod stores;

#[cfg(feature = "service")]
pub(crate) use claimed::Permission;
pub use directory::Directory;
pub use error::{StorageError, StorageErrorKind};
pub use faults::FaultPlan;
pub(crate) use files::{Files, Temporary, names};
pub use lock::{Lock, LockError};
pub use objects::{Draft, Holding, Listed, Objects, OpenBytes, OpenObject, Reading, is_unfinished};
#[cfg(feature = "service")]
pub use remote::{
    AzureCredentials, Backend, Remote, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret,
};
pub use stores::Stores;

/// The most that is read of an object that is an envelope; one that is longer is cut, and so found out by its digest.
pub(crate) const SMALL: u64 = (mobility_format::envelope::MAX_BODY + 4096) as u64;
