//! What came back over HTTP, and what it means when it is no success.
//!
//! The other side may be an attacker or a proxy that knows nothing of this protocol: answers have a longest length, and what
//! they say for people is cleaned before it gets into a log. Deliberately not here: what a caller does about it.

use std::{error::Error as _, io, time::Duration};

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use mobility_format::control::{ErrorBody, ErrorCode};
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap},
};
use rustls::{AlertDescription as Alert, CertificateError};

use super::fault::{ServiceFault, ServiceFaultKind as Kind};
use crate::clock;

/// The longest text that is taken over into a message.
const LONGEST_TEXT: usize = 512;

/// An answer that arrived as a whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long to wait before the next try.
    pub(super) retry_after: Option<Duration>,
    /// The other side's clock.
    pub(super) date: Option<Timestamp>,
    pub(super) body: Vec<u8>,
}

/// An answer that did not arrive as a whole.
pub(super) enum Unread {
    TooLong(usize),
    Paused(Duration),
    Broken(reqwest::Error),
}

impl Answer {
    /// Reads all of an answer of at most `longest` bytes, none of which may let us wait longer than `idle`.
    pub(super) async fn read(
        mut response: Response,
        longest: usize,
        idle: Duration,
    ) -> Result<Answer, Unread> {
        let headers = response.headers();
        let date = text(headers, header::DATE).and_then(date_of);
        let retry_after = text(headers, header::RETRY_AFTER).and_then(|text| wait_of(text, date));
        let announced = response.content_length().unwrap_or(0);
        if announced > longest as u64 {
            return Err(Unread::TooLong(longest));
        }
        let mut answer = Answer { status: response.status(), retry_after, date, body: Vec::new() };
        loop {
            let chunk =
                tokio::time::timeout(idle, response.chunk()).await.map_err(|_| Unread::Paused(idle))?;
            let Some(chunk) = chunk.map_err(Unread::Broken)? else { return Ok(answer) };
            if answer.body.len() + chunk.len() > longest {
                return Err(Unread::TooLong(longest));
            }
            answer.body.extend_from_slice(&chunk);
        }
    }

    /// The body of a success, or what the service's refusal means.
    pub(super) fn into_success(self, address: &Url) -> Result<Vec<u8>, ServiceFault> {
        if self.status == StatusCode::OK {
            return Ok(self.body);
        }
        let fault = match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(ErrorBody { code, message }) => {
                ServiceFault::new(kind_of(code), format!("the recovery service says: {}", clean(&message)))
            }
            // Not the service's own words: something on the way, or an instance that ends.
            Err(_) => {
                let kind = match self.status.as_u16() {
                    408 | 425 | 429 | 500..=599 => Kind::Busy,
                    _ => Kind::Garbage,
                };
                let redirects = if self.status.is_redirection() { " and would lead elsewhere" } else { "" };
                ServiceFault::new(
                    kind,
                    format!("{} answers {}{redirects}", place(address), self.status.as_u16()),
                )
            }
        };
        Err(fault.after(self.retry_after))
    }
}

impl Unread {
    pub(super) fn about(&self, what: &str, address: &Url) -> ServiceFault {
        let place = place(address);
        match self {
            Unread::TooLong(longest) => ServiceFault::new(
                Kind::Garbage,
                format!("the answer of {what} at {place} is longer than {longest} bytes"),
            ),
            Unread::Paused(idle) => {
                let message =
                    format!("the answer of {what} at {place} paused for more than {} s", idle.as_secs());
                ServiceFault::new(Kind::Unreachable, message)
            }
            Unread::Broken(err) => of_failure(what, address, err),
        }
    }
}

fn kind_of(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::Unauthenticated => Kind::Unauthenticated,
        ErrorCode::Revoked => Kind::Revoked,
        ErrorCode::Fenced => Kind::Fenced,
        ErrorCode::NotYet => Kind::NotYet,
        ErrorCode::QuotaExceeded => Kind::QuotaExceeded,
        ErrorCode::SlowDown | ErrorCode::Unavailable => Kind::Busy,
        other => Kind::Refused(other),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn date_of(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// `Retry-After`: seconds, or a date by the other side's own clock.
fn wait_of(text: &str, date: Option<Timestamp>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait = date_of(text)?.duration_since(date?);
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

/// Host and port, for messages. Addresses of grants hold secrets and are never shown.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Text of the other side, for people: one line, cut, without control characters.
pub(super) fn clean(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LONGEST_TEXT).collect::<String>().trim().to_owned()
}

/// All that led to an error, without the address.
pub(super) fn causes(err: &reqwest::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut source = err.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if said.last() != Some(&text) {
            said.push(text);
        }
        source = cause.source();
    }
    if said.is_empty() {
        said.push(if err.is_timeout() { "timed out".to_owned() } else { "failed".to_owned() });
    }
    clean(&said.join(": "))
}

/// What it means that a request got no answer.
pub(super) fn of_failure(what: &str, address: &Url, err: &reqwest::Error) -> ServiceFault {
    let (place, causes) = (place(address), causes(err));
    match tls_error(err) {
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        )) => ServiceFault::new(
            Kind::Unauthenticated,
            format!("{what} at {place} does not accept this machine's certificate: {causes}"),
        ),
        // Certificates of a service are renewed long before they end: who finds one expired has mostly another time of day.
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        )) => ServiceFault::new(
            Kind::Untrusted,
            format!(
                "what answers at {place} cannot show that it is {what}: {causes}; this machine's clock says {}: set it if that is wrong",
                clock::wall().strftime("%Y-%m-%d %H:%M UTC")
            ),
        ),
        Some(
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::InvalidMessage(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerMisbehaved(_)
            | rustls::Error::AlertReceived(
                Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity,
            ),
        ) => ServiceFault::new(
            Kind::Untrusted,
            format!("what answers at {place} cannot show that it is {what}: {causes}"),
        ),
        // The client's own word for a `CONNECT` that was refused; it keeps to itself how, and by whom.
        _ if causes.contains("tunnel error") => ServiceFault::new(
            Kind::Unreachable,
            format!(
                "the proxy does not let this machine through to {what} at {place}: look at its name and password, and at \
                 what it lets pass ({causes})"
            ),
        ),
        _ => ServiceFault::new(Kind::Unreachable, format!("{what} at {place} cannot be reached: {causes}")),
    }
}

/// The error of TLS that an error is about, however deep.
fn tls_error(err: &reqwest::Error) -> Option<&rustls::Error> {
    let mut source = err.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // What an error of input and output holds is not its source: its source is its content's.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(found);
        }
        source = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => cause.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> ServiceFault {
        let status = StatusCode::from_u16(status).unwrap();
        let answer =
            Answer { status, retry_after: Some(Duration::from_secs(9000)), date: None, body: body.into() };
        answer.into_success(&Url::parse("https://host:8443").unwrap()).unwrap_err()
    }

    #[test]
    fn refusals_are_what_the_protocol_says() {
        for (status, code, kind) in [
            (400, "bad-request", Kind::Refused(ErrorCode::BadRequest)),
            (401, "token-refused", Kind::Refused(ErrorCode::TokenRefused)),
            (401, "unauthenticated", Kind::Unauthenticated),
            (403, "revoked", Kind::Revoked),
            (409, "fenced", Kind::Fenced),
            (409, "conflict", Kind::Refused(ErrorCode::Conflict)),
            (503, "not-yet", Kind::NotYet),
            (429, "slow-down", Kind::Busy),
            (503, "unavailable", Kind::Busy),
            (507, "quota-exceeded", Kind::QuotaExceeded),
            (500, "a-later-code", Kind::Refused(ErrorCode::Other)),
        ] {
            let fault = refusal(status, &format!(r#"{{"code":"{code}","message":"a\nb"}}"#));
            assert_eq!(fault.kind, kind, "{code}");
            assert!(fault.message.ends_with("a b"), "{}", fault.message);
            assert_eq!(fault.retry_after, Some(Duration::from_secs(3600)), "an hour at most");
        }
    }

    #[test]
    fn what_is_not_the_services_own_word_is_no_verdict() {
        for (status, kind) in [
            (503, Kind::Busy),
            (502, Kind::Busy),
            (429, Kind::Busy),
            (403, Kind::Garbage),
            (302, Kind::Garbage),
            (204, Kind::Garbage),
        ] {
            assert_eq!(refusal(status, "<html>").kind, kind, "{status}");
        }
    }

    #[test]
    fn waits_are_seconds_or_dates_by_the_senders_clock() {
        let date = date_of("Mon, 23 Nov 2026 16:00:00 GMT");
        assert!(date.is_some());
        assert_eq!(wait_of("120", None), Some(Duration::from_secs(120)));
        assert_eq!(wait_of("Mon, 23 Nov 2026 16:00:30 GMT", date), Some(Duration::from_secs(30)));
        assert_eq!(wait_of("Mon, 23 Nov 2026 15:00:00 GMT", date), Some(Duration::ZERO));
        assert_eq!((wait_of("soon", date), wait_of("-1", date)), (None, None));
    }

    #[test]
    fn texts_are_cut_and_cleaned() {
        assert_eq!(clean("a\u{1b}[31m\r\nb"), "a [31m  b");
        assert_eq!(clean(&"é".repeat(9000)).chars().count(), LONGEST_TEXT);
        let url = Url::parse("https://store.example/x?sig=secret").unwrap();
        assert_eq!(place(&url), "store.example:443");
    }
}
