//! How the program ends: one exit code for each thing that a script would decide by.
//!
//! Deliberately not here: the wording of errors, which is theirs.

use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is not valid.
    #[error("{0}")]
    Config(String),
    /// A disk cannot be protected.
    #[error("{0}")]
    Disk(String),
    /// The vault cannot be used.
    #[error("{0}")]
    Vault(String),
    /// The tracker cannot be used.
    #[error("{0}")]
    Tracker(String),
    /// No agent is running.
    #[error("{0}")]
    NotRunning(String),
    /// Something that the agent needs is missing.
    #[error("{0}")]
    Missing(String),
    /// A point was made, but it is less than what was asked for.
    #[error("{0}")]
    Weaker(String),
    /// What was asked for did not happen in time.
    #[error("{0}")]
    Late(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Config(_) => 3,
            Failure::Disk(_) => 4,
            Failure::Vault(_) => 5,
            Failure::Tracker(_) => 6,
            Failure::NotRunning(_) => 7,
            Failure::Missing(_) => 8,
            Failure::Weaker(_) => 9,
            Failure::Late(_) => 10,
        }
    }
}

/// Says on standard error what went wrong, and turns it into the exit code.
pub(crate) fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("mobility-agent: {err:#}");
            ExitCode::from(err.downcast_ref::<Failure>().map_or(1, Failure::code))
        }
    }
}
