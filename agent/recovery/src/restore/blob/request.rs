//! The requests that a page blob needs, each tried again as long as that may help.
//!
//! All of them may be sent twice: putting and clearing the same pages changes nothing, and a blob that was made carries a
//! mark by which an answer that was lost is found out. No text here holds the address' signature. Deliberately not here: what
//! is put when.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reqwest::{
    Certificate, Method, StatusCode, Url,
    blocking::{RequestBuilder, Response},
    redirect::Policy,
};

use super::{PageBlob, failed, may_succeed_later};
use crate::{RemoteLimits, service::AZURE_VERSION as VERSION, storage::StorageError};

/// What a request puts. Shared, because it may have to be sent again.
pub(super) type Body = std::sync::Arc<[u8]>;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long one request may take where somebody waits for the end.
const HURRY: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How much of an answer that refuses is shown.
const SHOWN: usize = 300;
/// What the mark is called that says whose a blob is.
const MARK: &str = "x-ms-meta-restore";

/// Speaks about one blob.
pub(super) struct Client {
    client: reqwest::blocking::Client,
    url: Url,
    pub(super) path: PathBuf,
    limits: RemoteLimits,
    mark: String,
    hurried: AtomicBool,
}

impl Client {
    pub(super) fn new(blob: &PageBlob) -> Result<Client, StorageError> {
        // The process may have chosen one already, which is then as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let path = blob.path();
        let make = || -> Result<_, String> {
            let mut builder = reqwest::blocking::Client::builder()
                .redirect(Policy::none())
                .connect_timeout(blob.limits.connect)
                .timeout(blob.limits.request);
            let authorities = blob.authorities.as_deref().unwrap_or_default();
            let authorities = Certificate::from_pem_bundle(authorities).map_err(|err| err.to_string())?;
            builder = builder.tls_certs_merge(authorities);
            let client = builder.build().map_err(|err| err.to_string())?;
            let url = Url::parse(blob.url.reveal()).map_err(|err| err.to_string())?;
            Ok((client, url))
        };
        let (client, url) = make().map_err(|text| failed("use", &path, io::ErrorKind::InvalidInput, text))?;
        let mark = format!("{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
        let (limits, hurried) = (blob.limits, AtomicBool::new(false));
        Ok(Client { client, url, path, limits, mark, hurried })
    }

    /// From now on nothing is tried twice.
    pub(super) fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    /// The blob's length; nothing where there is none.
    pub(super) fn length(&self) -> Result<Option<u64>, StorageError> {
        let answer = match self.send("look at", || self.request(Method::HEAD, None)) {
            Err(err) if err.is_not_found() => return Ok(None),
            other => other?,
        };
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        match header("x-ms-blob-type") {
            Some("PageBlob") => {}
            other => {
                let text = format!("it is no page blob but {}", other.unwrap_or("nothing that has a type"));
                return Err(failed("write", &self.path, io::ErrorKind::InvalidInput, text));
            }
        }
        let length = header("x-ms-blob-content-length").or(header("content-length"));
        let length = length.and_then(|text| text.parse().ok());
        let lacks = || self.odd("look at", "the store does not say how long it is");
        length.map(Some).ok_or_else(lacks)
    }

    /// Makes the blob, all zero, where there is none.
    pub(super) fn create(&self, length: u64) -> Result<(), StorageError> {
        let created = self.send("create", || {
            self.request(Method::PUT, None)
                .header("x-ms-blob-type", "PageBlob")
                .header("x-ms-blob-content-length", length)
                .header("content-type", "application/octet-stream")
                .header("content-length", 0)
                .header(MARK, &self.mark)
                .header("if-none-match", "*")
        });
        match created {
            // An earlier try may have made it, of which we were never told.
            Err(err) if err.is_already_there() && self.is_ours()? => Ok(()),
            other => other.map(drop),
        }
    }

    fn is_ours(&self) -> Result<bool, StorageError> {
        let answer = self.send("look at", || self.request(Method::HEAD, None))?;
        Ok(answer.headers().get(MARK).is_some_and(|mark| *mark == *self.mark))
    }

    pub(super) fn put(&self, at: u64, bytes: &Body) -> Result<(), StorageError> {
        let last = at + bytes.len() as u64 - 1;
        let put = self.send("put pages of", || {
            self.request(Method::PUT, Some("page"))
                .header("x-ms-page-write", "update")
                .header("x-ms-range", format!("bytes={at}-{last}"))
                .body(bytes.to_vec())
        });
        put.map(drop)
    }

    pub(super) fn clear(&self, at: u64, length: u64) -> Result<(), StorageError> {
        let cleared = self.send("clear pages of", || {
            self.request(Method::PUT, Some("page"))
                .header("x-ms-page-write", "clear")
                .header("x-ms-range", format!("bytes={at}-{}", at + length - 1))
                .header("content-length", 0)
        });
        cleared.map(drop)
    }

    pub(super) fn remove(&self) -> Result<(), StorageError> {
        self.send("remove", || self.request(Method::DELETE, None)).map(drop)
    }

    /// Fills `buf` from the blob.
    pub(super) fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let range = format!("bytes={at}-{}", at + buf.len() as u64 - 1);
        self.try_often("read back", || {
            let answer =
                self.once("read back", self.request(Method::GET, None).header("x-ms-range", &range))?;
            let (mut answer, mut filled) = (answer.take(buf.len() as u64), 0);
            while filled < buf.len() {
                match answer.read(&mut buf[filled..]) {
                    Ok(0) | Err(_) => {
                        return Err(Tried::Again(self.odd("read back", "an answer ended early")));
                    }
                    Ok(read) => filled += read,
                }
            }
            Ok(())
        })
    }

    /// Which pages of a range are not zero, as the store's XML; no longer than `most`.
    pub(super) fn page_list(&self, at: u64, end: u64, most: u64) -> Result<String, StorageError> {
        let action = "list the pages of";
        self.try_often(action, || {
            let request = self.request(Method::GET, Some("pagelist"));
            let answer =
                self.once(action, request.header("x-ms-range", format!("bytes={at}-{}", end - 1)))?;
            let mut text = String::new();
            match answer.take(most + 1).read_to_string(&mut text) {
                Ok(length) if length as u64 <= most => Ok(text),
                Ok(_) => Err(Tried::Never(self.odd(action, "the list is too long"))),
                Err(_) => Err(Tried::Again(self.odd(action, "an answer ended early"))),
            }
        })
    }

    fn request(&self, method: Method, component: Option<&str>) -> RequestBuilder {
        let mut url = self.url.clone();
        if let Some(component) = component {
            url.query_pairs_mut().append_pair("comp", component);
        }
        let request = self.client.request(method, url).header("x-ms-version", VERSION);
        match self.hurried.load(Ordering::Relaxed) {
            true => request.timeout(HURRY.min(self.limits.request)),
            false => request,
        }
    }

    fn odd(&self, action: &'static str, text: &str) -> StorageError {
        failed(action, &self.path, io::ErrorKind::NotConnected, text.to_owned())
    }

    fn send(
        &self,
        action: &'static str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, StorageError> {
        self.try_often(action, || self.once(action, request()))
    }

    fn try_often<T>(
        &self,
        action: &'static str,
        mut once: impl FnMut() -> Result<T, Tried>,
    ) -> Result<T, StorageError> {
        let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut tries = 0;
        loop {
            match once() {
                Ok(done) => return Ok(done),
                Err(Tried::Never(err)) => return Err(err),
                Err(Tried::Again(err)) => {
                    let over = tries >= self.limits.retries || start.elapsed() + pause > self.limits.give_up;
                    if over || self.hurried.load(Ordering::Relaxed) {
                        let text = format!("{} (tried {} times)", err.source, tries + 1);
                        return Err(failed(action, &self.path, err.source.kind(), text));
                    }
                }
            }
            thread::sleep(pause);
            (tries, pause) = (tries + 1, (2 * pause).min(LONGEST_PAUSE));
        }
    }

    fn once(&self, action: &'static str, request: RequestBuilder) -> Result<Response, Tried> {
        let answer = request.send().map_err(|err| {
            let kind = if err.is_timeout() { io::ErrorKind::TimedOut } else { io::ErrorKind::NotConnected };
            Tried::Again(failed(action, &self.path, kind, chain(&err.without_url())))
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let err = refused(action, &self.path, answer);
        Err(if may_succeed_later(status) { Tried::Again(err) } else { Tried::Never(err) })
    }
}

/// Why there is nothing.
enum Tried {
    /// It may be there the next time.
    Again(StorageError),
    /// It will not.
    Never(StorageError),
}

fn refused(action: &'static str, path: &std::path::Path, answer: Response) -> StorageError {
    let status = answer.status();
    let code = answer.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok());
    let code = code.unwrap_or_default().to_owned();
    let kind = match status {
        _ if code.starts_with("Container") => io::ErrorKind::NotConnected,
        StatusCode::NOT_FOUND => io::ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => io::ErrorKind::AlreadyExists,
        StatusCode::INSUFFICIENT_STORAGE => io::ErrorKind::StorageFull,
        _ if may_succeed_later(status) => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::Other,
    };
    let mut body = String::new();
    answer.take(SHOWN as u64).read_to_string(&mut body).ok();
    let words: Vec<_> = body.split_whitespace().collect();
    failed(action, path, kind, format!("{status} {code} {}", words.join(" ")).trim_end().to_owned())
}

/// The error with its causes: what a connection failed of is in them.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
