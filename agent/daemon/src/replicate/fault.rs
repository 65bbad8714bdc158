//! Turns what storage and disks say into the engine's kinds of fault.
//!
//! Deliberately not here: what is done about a fault.

use std::io;

use mobility_capture::direct::{ReadError, ReadErrorKind};
use mobility_engine::{Fault, FaultKind};
use mobility_recovery::{StorageError, VaultError};

/// The vault cannot be written: why, and what to do.
pub(crate) fn of_storage(err: &StorageError) -> Fault {
    let (kind, remedy) = match err.source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            (FaultKind::StorageFull, "make room, or prune old recovery points")
        }
        Some(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            (FaultKind::StorageReadOnly, "make it writable for the agent")
        }
        _ if err.source.kind() == io::ErrorKind::NotFound => (FaultKind::StorageGone, "bring it back"),
        _ => (FaultKind::Storage, "look into the system's log for the disk that holds it"),
    };
    Fault::new(kind, format!("{err}; {remedy}. Replication goes on by itself then"))
}

/// The directory is not the vault that it was.
pub(crate) fn of_vault(err: &VaultError) -> Fault {
    match err {
        VaultError::Storage(err) => of_storage(err),
        other => Fault::new(
            FaultKind::StorageGone,
            format!("{other}. Bring the vault back; replication goes on by itself then"),
        ),
    }
}

/// A disk cannot be read.
pub(crate) fn of_read(err: &ReadError) -> Fault {
    let kind = if err.kind == ReadErrorKind::Gone { FaultKind::DiskGone } else { FaultKind::DiskRead };
    Fault::new(kind, err.to_string())
}

/// Something on the way from a disk failed that is not the disk.
pub(crate) fn of_disk(disk: &str, what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::DiskRead, format!("{disk}: {what}"))
}
