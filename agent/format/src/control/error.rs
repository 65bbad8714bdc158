//! Why a request was refused: a code that a program decides by, and a text for people.
//!
//! Deliberately not here: the status line of HTTP, which only repeats the code coarsely ([`ErrorCode::status`]).

use serde::{Deserialize, Serialize};

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request cannot be understood, or breaks a limit.
    BadRequest,
    /// The enrolment token is unknown, expired, used up or revoked. Which of these is not said.
    TokenRefused,
    /// There is no client certificate, or one that is not this service's, or that has expired.
    Unauthenticated,
    /// The machine's certificate was revoked: somebody took it out of protection.
    Revoked,
    /// Another agent goes on with this machine's identity. This one must stop.
    Fenced,
    /// The credential does not allow it.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It is not possible in the state that things are in; the message says which.
    Conflict,
    /// What is needed first is under way: ask again after the time in `Retry-After`.
    NotYet,
    /// The machine has used up what its policy allows.
    QuotaExceeded,
    /// Too many requests: again after the time in `Retry-After`.
    SlowDown,
    /// The service's database or storage fails; its operator knows.
    Unavailable,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// The status of HTTP that it comes with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::TokenRefused | ErrorCode::Unauthenticated => 401,
            ErrorCode::Revoked | ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Fenced | ErrorCode::Conflict => 409,
            ErrorCode::QuotaExceeded => 507,
            ErrorCode::SlowDown => 429,
            ErrorCode::NotYet | ErrorCode::Unavailable => 503,
            ErrorCode::Other => 500,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What, for programs.
    pub code: ErrorCode,
    /// What happened, to what, and what to do: for people.
    pub message: String,
}
