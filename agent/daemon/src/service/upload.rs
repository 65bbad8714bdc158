//! One `PUT` of one object, as a grant says, and what the store's answer means.
//!
//! Bytes are handed over in small pieces, at the agent's pace where there is one; an upload of which no piece goes for a
//! while is given up. What the service grants is not believed blindly: it may not lead to plain HTTP beyond this machine, nor
//! set headers that change what a request is. Deliberately not here: which grant, and when to try again (`grants`, `commits`).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mobility_format::control::Grant;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{
    Payload,
    answer::{self, Answer, Unread},
    client::{Client, is_loopback},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    pace::{Pace, Slot},
};

/// An upload may stand still for so long: no piece taken, or no answer after the last.
const IDLE: Duration = Duration::from_secs(60);
/// An upload may take so long in all, at whatever pace.
const WHOLE: Duration = Duration::from_secs(3600);
/// The longest answer of a store that is looked at.
const LONGEST_ANSWER: usize = 64 << 10;
/// Headers that are not a grant's to set.
const FORBIDDEN: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-authorization",
];

/// What the store said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The object is there.
    Done,
    /// There was one already.
    Taken,
    /// The grant is bad or has expired, or it is taken and the store says so in other words.
    Refused(String),
}

/// Holds a payload together with a body.
struct Owner(Payload);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Puts an object. Broken connections and stores that cannot take it now are faults.
pub(super) fn put(
    client: &Client,
    grant: &Grant,
    payload: &Payload,
    pace: Option<&Arc<Pace>>,
) -> Result<Stored, ServiceFault> {
    let ways = client.ways();
    let url = Url::parse(&grant.url).map_err(|_| bad_grant("its address cannot be read"))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) && ways.is_local() => {}
        _ => return Err(bad_grant("it leads to an address without TLS")),
    }
    let http = if ways.is_service(&url) { Some(&ways.service) } else { ways.stores.as_ref() };
    let http =
        http.ok_or_else(|| ServiceFault::new(Kind::Local, "there is no way to stores before enrolment"))?;
    let progress = Arc::new(Progress::new());
    let bytes = Bytes::from_owner(Owner(payload.clone()));
    let body = Paced { bytes, pace: pace.cloned(), progress: progress.clone(), asked: None };
    let request = http.put(url.clone()).headers(headers(grant)?).body(reqwest::Body::wrap(body));
    let exchange = async {
        let response = request.send().await.map_err(|err| answer::of_failure("the store", &url, &err))?;
        match Answer::read(response, LONGEST_ANSWER, IDLE).await {
            Ok(answer) => Ok(answer),
            // The status has come; what a store writes below it is for people.
            Err(Unread::Broken(err)) => Err(answer::of_failure("the store", &url, &err)),
            Err(unread) => Err(unread.about("the store", &url)),
        }
    };
    let answer = client.wait(async {
        tokio::select! {
            answer = exchange => answer,
            () = progress.stalled() => Err(ServiceFault::new(
                Kind::Unreachable,
                format!("the store at {} took nothing for {} s", answer::place(&url), IDLE.as_secs()),
            )),
            () = tokio::time::sleep(WHOLE) => Err(ServiceFault::new(
                Kind::Unreachable,
                format!("an upload to {} took longer than {} s", answer::place(&url), WHOLE.as_secs()),
            )),
        }
    })?;
    judge(&answer, &url)
}

fn bad_grant(why: &str) -> ServiceFault {
    ServiceFault::new(Kind::Garbage, format!("a grant of the recovery service is refused: {why}"))
}

fn headers(grant: &Grant) -> Result<HeaderMap, ServiceFault> {
    let mut headers = HeaderMap::new();
    for (name, value) in &grant.headers {
        let name: HeaderName = name.parse().map_err(|_| bad_grant("a header's name is none"))?;
        if FORBIDDEN.contains(&name.as_str()) {
            return Err(bad_grant(&format!("it may not set the header {name}")));
        }
        let value = HeaderValue::from_str(value).map_err(|_| bad_grant("a header's value is none"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn judge(answer: &Answer, url: &Url) -> Result<Stored, ServiceFault> {
    let (status, place) = (answer.status.as_u16(), answer::place(url));
    let words = answer::clean(&String::from_utf8_lossy(&answer.body));
    let fault = |kind, what: &str| {
        Err(ServiceFault::new(kind, format!("the store at {place} {what} ({status}): {words}"))
            .after(answer.retry_after))
    };
    match status {
        200 | 201 => Ok(Stored::Done),
        409 | 412 => Ok(Stored::Taken),
        403 if words.contains("UnauthorizedBlobOverwrite") || words.contains("BlobAlreadyExists") => {
            Ok(Stored::Taken)
        }
        507 => fault(Kind::StorageFull, "has no room; make some, or prune old recovery points"),
        408 | 425 | 429 | 500..=599 => fault(Kind::Storage, "cannot take an upload now"),
        _ => Ok(Stored::Refused(format!("the store at {place} refuses a grant ({status}): {words}"))),
    }
}

/// When the last piece went.
struct Progress {
    start: Instant,
    /// Milliseconds since `start`; `WAITS` while the agent itself holds the next piece back.
    last: AtomicU64,
}

const WAITS: u64 = u64::MAX;

impl Progress {
    fn new() -> Self {
        Progress { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn went(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing went for too long.
    async fn stalled(&self) {
        loop {
            tokio::time::sleep(IDLE / 20).await;
            let last = self.last.load(Ordering::Relaxed);
            if last != WAITS && self.start.elapsed() > Duration::from_millis(last) + IDLE {
                return;
            }
        }
    }
}

/// A body that is handed over piece by piece.
struct Paced {
    bytes: Bytes,
    pace: Option<Arc<Pace>>,
    progress: Arc<Progress>,
    /// The next piece's moment, and its length.
    asked: Option<(Slot, usize, Pin<Box<tokio::time::Sleep>>)>,
}

/// How long a piece waits at most before the pace is asked again: it may have been changed.
const NAP: Duration = Duration::from_millis(200);

impl Paced {
    /// The length of the next piece, once it may go.
    fn poll_right(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(pace) = &self.pace else { return Poll::Ready(self.bytes.len().min(64 << 10)) };
        loop {
            let (slot, length, sleep) = self.asked.get_or_insert_with(|| {
                let length = pace.piece().min(self.bytes.len());
                let slot = pace.reserve(length);
                (slot, length, Box::pin(tokio::time::sleep(slot.wait.min(NAP))))
            });
            if sleep.as_mut().poll(cx).is_pending() {
                self.progress.last.store(WAITS, Ordering::Relaxed);
                return Poll::Pending;
            }
            if pace.is_void(*slot) {
                self.asked = None;
                continue;
            }
            slot.wait = slot.wait.saturating_sub(NAP);
            if slot.wait.is_zero() {
                let length = *length;
                self.asked = None;
                return Poll::Ready(length);
            }
            *sleep = Box::pin(tokio::time::sleep(slot.wait.min(NAP)));
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            self.progress.went();
            return Poll::Ready(None);
        }
        let Poll::Ready(length) = self.poll_right(cx) else { return Poll::Pending };
        self.progress.went();
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    fn judged(status: u16, body: &str) -> Result<Stored, Kind> {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, retry_after: None, date: None, body: body.into() };
        judge(&answer, &Url::parse("https://store.example/x?sig=secret").unwrap()).map_err(|fault| {
            assert!(!fault.message.contains("secret"));
            fault.kind
        })
    }

    #[test]
    fn stores_answers_are_what_the_protocol_says() {
        for status in [200, 201] {
            assert_eq!(judged(status, ""), Ok(Stored::Done));
        }
        for status in [409, 412] {
            assert_eq!(judged(status, ""), Ok(Stored::Taken));
        }
        assert_eq!(judged(403, "<Code>UnauthorizedBlobOverwrite</Code>"), Ok(Stored::Taken));
        for status in [400, 401, 403, 404, 413, 302, 204] {
            assert!(matches!(judged(status, "expired"), Ok(Stored::Refused(_))), "{status}");
        }
        for status in [408, 429, 500, 503] {
            assert_eq!(judged(status, ""), Err(Kind::Storage), "{status}");
        }
        assert_eq!(judged(507, ""), Err(Kind::StorageFull));
    }

    #[test]
    fn a_grant_cannot_change_what_a_request_is() {
        let with = |name: &str, value: &str| Grant {
            url: "https://store.example/x".to_owned(),
            headers: [(name.to_owned(), value.to_owned())].into(),
        };
        assert_eq!(headers(&with("x-ms-blob-type", "BlockBlob")).unwrap().len(), 1);
        for name in FORBIDDEN {
            assert!(headers(&with(&name.to_uppercase(), "1")).is_err(), "{name}");
        }
        assert!(headers(&with("a b", "1")).is_err() && headers(&with("a", "b\r\nc: d")).is_err());
    }
}
