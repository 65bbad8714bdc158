//! How a command ends when it fails: the exit code by which guest agents and their portals tell causes apart, and a sentence.
//!
//! The numbers are those that extensions for Linux use among each other. Deliberately not here: where the sentence is shown.

use std::fmt::Display;

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// For another reason.
    Other = 1,
    /// It was not called as it should be.
    Usage = 2,
    /// The agent does not run on this system.
    System = 51,
    /// Something that is needed is missing, or could not be installed.
    Missing = 52,
    /// The settings are wrong: for whoever wrote them to mend.
    Settings = 53,
    /// The recovery service cannot be reached.
    Unreachable = 55,
    /// Another program holds the lock of the package manager.
    Locked = 56,
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Failure {
        Failure { cause, message: message.into() }
    }

    pub(crate) fn settings(message: impl Into<String>) -> Failure {
        Failure::new(Cause::Settings, message)
    }

    /// Of something done to `what`, for a reason that the system gave.
    pub(crate) fn other(what: impl Display, why: impl Display) -> Failure {
        Failure::new(Cause::Other, format!("{what}: {why}"))
    }

    /// The code to exit with.
    pub(crate) fn code(&self) -> u8 {
        self.cause as u8
    }
}
