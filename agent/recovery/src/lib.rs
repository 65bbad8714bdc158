//! Keeps recovery points in target storage: takes them in, lists, restores, verifies and prunes them.
//!
//! Everything is read from the objects themselves; there is no database. `docs/FORMAT.md` describes the objects.
//! Deliberately not here: making points (that is the agent's), and so far any network.

#[cfg(feature = "service")]
pub mod azure;
mod catalog;
mod content;
mod intake;
mod inventory;
mod keys;
pub mod ladder;
mod prune;
mod records;
mod restore;
mod select;
#[cfg(feature = "service")]
pub mod service;
mod storage;
#[cfg(feature = "service")]
pub mod target;
mod vault;
mod verify;

pub use catalog::{Catalog, Damage, Point, PointId};
pub use content::{ContentError, WindowContent, WindowReader, Windows, block_digests};
pub use intake::{Doubted, Intake, IntakeError, IntakeErrorKind, verify_segment};
pub use keys::ObjectKey;
pub use prune::{PruneError, PruneReport, Untouched, prune, prune_but};
pub use records::MachineRecord;
pub use restore::{
    Destination, Differing, Format, Phase, Progress, RestoreError, Restored, image_names, images_in,
    restore_disk, restore_to_directory,
};
#[cfg(feature = "service")]
pub use restore::{ObjectImage, PageBlob};
pub use select::{SelectError, select};
#[cfg(feature = "service")]
pub use storage::{
    AzureCredentials, Backend, Remote, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret,
};
pub use storage::{
    Directory, Draft, FaultPlan, Holding, Listed, Lock, LockError, Objects, OpenBytes, OpenObject, Reading,
    StorageError, StorageErrorKind, Stores, is_unfinished,
};
pub use vault::{Vault, VaultError};
pub use verify::{DamagedObject, Note, VerifyReport, verify};
