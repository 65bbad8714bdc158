//! Why a request is not granted, as it is answered.
//!
//! What failed inside is logged here, once, and not told to who asked. Deliberately not here: what a program decides by it
//! (`mobility_format::control::ErrorCode`).

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use mobility_format::control::{ErrorBody, ErrorCode};

use super::{database::DatabaseError, secret::NoRandomness};
use crate::{IntakeError, StorageError, service::authority::AuthorityError};

/// When to ask again where something fails that its operator has to mend, in seconds.
const FAILING: u64 = 5;

/// A request that is not granted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), retry_after: None }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorCode::BadRequest, message)
    }

    pub(crate) fn fenced() -> Refusal {
        Refusal::new(
            ErrorCode::Fenced,
            "another agent goes on with this machine's identity: if this machine is a copy, enrol it anew",
        )
    }

    pub(crate) fn not_yet(message: impl Into<String>, seconds: u64) -> Refusal {
        Refusal { code: ErrorCode::NotYet, message: message.into(), retry_after: Some(seconds) }
    }

    /// The machine's quota leaves no room for more.
    pub(crate) fn over_quota() -> Refusal {
        Refusal::new(
            ErrorCode::QuotaExceeded,
            "the machine's quota leaves no room for more: raise it in the policy, or keep fewer recovery points",
        )
    }

    pub(crate) fn not_found(what: &str) -> Refusal {
        Refusal::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    /// Something fails inside.
    pub(crate) fn failing(err: &dyn std::fmt::Display) -> Refusal {
        tracing::error!("a request could not be answered: {err}");
        Refusal {
            code: ErrorCode::Unavailable,
            message: "the service's database or storage fails; its log says why".to_owned(),
            retry_after: Some(FAILING),
        }
    }
}

impl From<DatabaseError> for Refusal {
    fn from(err: DatabaseError) -> Refusal {
        Refusal::failing(&err)
    }
}

impl From<StorageError> for Refusal {
    fn from(err: StorageError) -> Refusal {
        Refusal::failing(&err)
    }
}

impl From<IntakeError> for Refusal {
    fn from(err: IntakeError) -> Refusal {
        Refusal::failing(&err)
    }
}

impl From<AuthorityError> for Refusal {
    fn from(err: AuthorityError) -> Refusal {
        Refusal::failing(&err)
    }
}

impl From<NoRandomness> for Refusal {
    fn from(err: NoRandomness) -> Refusal {
        Refusal::failing(&err)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody { code: self.code, message: self.message };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
