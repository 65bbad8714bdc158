//! Exit codes: what went wrong, for scripts.
//!
//! Deliberately not here: the messages; each error has its own.

use std::process::ExitCode;

use mobility_recovery::{
    ContentError, LockError, PruneError, RestoreError, SelectError, StorageError, StorageErrorKind,
    VaultError,
};

/// Printed below the help.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  failed for another reason, for example because another process is at work
  2  the command line was wrong
  3  not found: the vault, the machine, the recovery point or the disk
  4  damage was found in the vault
  5  the output was refused: it exists, has the wrong size, is in use, is no block device, or cannot have the format
  6  the storage failed: no permission, an input or output error
  7  there is no room where it is written
  8  what was restored reads back differently from what was written
  9  stopped by a signal, and cleaned up

Times are in UTC, sizes in binary units.";

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// It found damage, and said so.
    Damage,
}

/// Something that was named is not there, or is not one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotFound(pub(super) String);

/// What was waited for ended, and not well.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unsuccessful(pub(super) String);

/// Prints an error, and turns the outcome into an exit code.
pub(crate) fn report(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Damage) => ExitCode::from(4),
        Err(err) => {
            eprintln!("recovery-service: {err:#}");
            ExitCode::from(code(&err))
        }
    }
}

fn code(err: &anyhow::Error) -> u8 {
    err.chain().find_map(code_of).unwrap_or(1)
}

fn code_of(err: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if err.is::<NotFound>() || err.is::<SelectError>() {
        return Some(3);
    }
    if let Some(err) = err.downcast_ref::<StorageError>() {
        return Some(of_storage(err));
    }
    if err.is::<std::io::Error>() {
        return Some(6);
    }
    if let Some(err) = err.downcast_ref::<VaultError>() {
        return match err {
            VaultError::NotFound(_) | VaultError::NotAVault(_) => Some(3),
            VaultError::Storage(err) => Some(of_storage(err)),
            VaultError::Foreign(_) | VaultError::Version { .. } => Some(1),
        };
    }
    if let Some(err) = err.downcast_ref::<RestoreError>() {
        return Some(match err {
            RestoreError::Content(err) => of_content(err),
            RestoreError::NoSuchDisk { .. } => 3,
            RestoreError::Exists(_)
            | RestoreError::NotADevice(_)
            | RestoreError::InUse(_)
            | RestoreError::Format { .. }
            | RestoreError::WrongSize { .. }
            | RestoreError::TooSmall { .. } => 5,
            RestoreError::Storage(err) => of_storage(err),
            RestoreError::Differs { .. } => 8,
            RestoreError::Cancelled(_) => 9,
            RestoreError::Locked(err) => of_lock(err),
        });
    }
    if let Some(err) = err.downcast_ref::<PruneError>() {
        return Some(match err {
            PruneError::Storage(err) => of_storage(err),
            PruneError::Locked(err) => of_lock(err),
            PruneError::Limit { .. } => 1,
        });
    }
    err.downcast_ref::<LockError>().map(of_lock)
}

fn of_content(err: &ContentError) -> u8 {
    match err {
        ContentError::Storage(err) => of_storage(err),
        _ => 4,
    }
}

fn of_storage(err: &StorageError) -> u8 {
    if err.kind() == StorageErrorKind::Full { 7 } else { 6 }
}

fn of_lock(err: &LockError) -> u8 {
    match err {
        LockError::Busy { .. } => 1,
        LockError::Storage(err) => of_storage(err),
    }
}
