//! Exit codes: what went wrong, for scripts.
//!
//! Deliberately not here: the messages; each error has its own.

use std::process::ExitCode;

use mobility_recovery::{
    ContentError, LockError, PruneError, RestoreError, SelectError, StorageError, VaultError,
};

/// Printed below the help.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  failed for another reason, for example because another process is at work
  2  the command line was wrong
  3  not found: the vault, the machine, the recovery point or the disk
  4  damage was found in the vault
  5  the output was refused: it exists, is too small, is in use or is no block device
  6  the storage failed: no space, no permission, an input or output error

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
    if err.is::<StorageError>() || err.is::<std::io::Error>() {
        return Some(6);
    }
    if let Some(err) = err.downcast_ref::<VaultError>() {
        return match err {
            VaultError::NotFound(_) | VaultError::NotAVault(_) => Some(3),
            VaultError::Storage(_) => Some(6),
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
            | RestoreError::TooSmall { .. } => 5,
            RestoreError::Storage(_) => 6,
            RestoreError::Locked(err) => of_lock(err),
        });
    }
    if let Some(err) = err.downcast_ref::<PruneError>() {
        return Some(match err {
            PruneError::Storage(_) => 6,
            PruneError::Locked(err) => of_lock(err),
            PruneError::Limit { .. } => 1,
        });
    }
    err.downcast_ref::<LockError>().map(of_lock)
}

fn of_content(err: &ContentError) -> u8 {
    if err.is_damage() { 4 } else { 6 }
}

fn of_lock(err: &LockError) -> u8 {
    match err {
        LockError::Busy { .. } => 1,
        LockError::Storage(_) => 6,
    }
}
