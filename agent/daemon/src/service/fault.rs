//! Why something that concerns the service or a store did not come to be, for whoever decides what to do about it.
//!
//! Deliberately not here: how an answer of HTTP becomes one of these (`client`, `upload`), and when it is tried again.

use std::{fmt, time::Duration};

use mobility_format::control::ErrorCode;

/// `Retry-After` is followed up to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceFaultKind {
    /// Nobody answers at any address, or the connection broke: again later.
    Unreachable,
    /// What answers cannot show that it is the service or the store: nothing was sent to it.
    Untrusted,
    /// The service does not know this machine's certificate, or it has expired.
    Unauthenticated,
    /// The service is there and cannot do it now: again later.
    Busy,
    /// What is needed first is under way at the service: again later.
    NotYet,
    /// The policy's quota is used up: again later; older points stay.
    QuotaExceeded,
    /// The store has no room: again later.
    StorageFull,
    /// The store refuses what was granted, or fails: again later.
    Storage,
    /// The service refuses it; trying the same again is of no use.
    Refused(ErrorCode),
    /// Another agent goes on with this identity: for good.
    Fenced,
    /// The machine was taken out of protection.
    Revoked,
    /// The answer cannot be understood, or breaks a limit: again later, it may be a proxy's.
    Garbage,
    /// Something of this machine's own: its state directory, its random numbers.
    Local,
    /// The agent ends.
    Stopped,
}

/// A fault with what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFault {
    /// For whoever decides.
    pub(crate) kind: ServiceFaultKind,
    /// What happened, to what, and what to do.
    pub(crate) message: String,
    /// When the other side wishes to be asked again; an hour at most.
    pub(crate) retry_after: Option<Duration>,
}

impl ServiceFault {
    pub(crate) fn new(kind: ServiceFaultKind, message: impl Into<String>) -> Self {
        ServiceFault { kind, message: message.into(), retry_after: None }
    }

    /// With the other side's wish, as far as it is followed.
    pub(crate) fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after.map(|wish| wish.min(LONGEST_RETRY_AFTER));
        self
    }
}

impl fmt::Display for ServiceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ServiceFault {}
