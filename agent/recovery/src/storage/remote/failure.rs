//! Turns what a store answers into the kinds of error that every storage has.
//!
//! What is not known for certain to be something else counts as *unavailable*: of an object that could not be read, nobody
//! may conclude that it is damaged. Deliberately not here: what was tried, and how often.

use std::{error::Error as _, io};

use object_store::Error;

/// Answers that carry the status of a missing object, but are about the container.
const NO_CONTAINER: [&str; 4] =
    ["NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"];
/// Answers that a store without room gives.
const NO_ROOM: [&str; 3] = ["507 Insufficient Storage", "StorageFull", "QuotaExceeded"];

/// Answers to a signature that is not one, which carry the status of a bad request.
const NO_SIGNATURE: [&str; 2] = ["InvalidAuthenticationInfo", "AuthorizationHeaderMalformed"];

pub(super) fn as_io_error(err: &Error) -> io::Error {
    let text = whole(err);
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    let kind = match err {
        _ if says(&NO_CONTAINER) => io::ErrorKind::NotConnected,
        _ if says(&NO_ROOM) => io::ErrorKind::StorageFull,
        _ if says(&NO_SIGNATURE) => io::ErrorKind::PermissionDenied,
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ if text.contains("timed out") => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::NotConnected,
    };
    io::Error::new(kind, text)
}

/// The error with its causes, as far as they say more, on one line and at a length that fits into a log.
fn whole(err: &Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST).collect()
}

const LONGEST: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_container_is_no_missing_object() {
        let missing = |body: &str| Error::NotFound { path: "a/b".to_owned(), source: body.to_owned().into() };
        assert_eq!(as_io_error(&missing("<Code>NoSuchKey</Code>")).kind(), io::ErrorKind::NotFound);
        for body in ["<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>"] {
            assert_eq!(as_io_error(&missing(body)).kind(), io::ErrorKind::NotConnected);
        }
    }

    #[test]
    fn what_is_not_known_is_unavailable_and_short() {
        let odd = Error::Generic { store: "S3", source: "x\n".repeat(10_000).into() };
        let err = as_io_error(&odd);
        assert_eq!(err.kind(), io::ErrorKind::NotConnected);
        assert!(err.to_string().len() <= LONGEST && !err.to_string().contains('\n'));
    }
}
