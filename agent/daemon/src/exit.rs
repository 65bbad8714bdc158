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
    /// The recovery service does not take the token.
    #[error("{0}")]
    TokenRefused(String),
    /// The recovery service does not answer, or not so that it can be used.
    #[error("{0}")]
    Unreachable(String),
    /// What answers cannot show that it is the recovery service.
    #[error("{0}")]
    Untrusted(String),
    /// The machine is enrolled already.
    #[error("{0}")]
    AlreadyEnrolled(String),
    /// The machine is not enrolled.
    #[error("{0}")]
    NotEnrolled(String),
    /// The state directory cannot be used.
    #[error("{0}")]
    State(String),
    /// Another agent goes on with this identity.
    #[error("{0}")]
    Fenced(String),
    /// The machine was taken out of protection.
    #[error("{0}")]
    Revoked(String),
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
            Failure::TokenRefused(_) => 11,
            Failure::Unreachable(_) => 12,
            Failure::Untrusted(_) => 13,
            Failure::AlreadyEnrolled(_) => 14,
            Failure::NotEnrolled(_) => 15,
            Failure::State(_) => 16,
            Failure::Fenced(_) => 17,
            Failure::Revoked(_) => 18,
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
