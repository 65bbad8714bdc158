//! The service's own cache storage: addresses that are rights, and what is put there.
//!
//! An address names one object, until when it may be created, how long it may be, and a code over all of that which only this
//! service can make; nothing else is asked of who uses it. An object appears as a whole, durable and never in place of another.
//! Deliberately not here: who is given addresses (`grants`).

use std::{
    fs::{self, File, OpenOptions},
    future::poll_fn,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Path as UrlPath, Query, State},
    http::{StatusCode, Uri},
};
use hyper::body::Body as _;
use jiff::Timestamp;
use mobility_format::{control::ErrorCode, key::CacheKey};
use serde::Deserialize;
use tokio::time::timeout;

use crate::service::{
    refusal::{Answer, Refusal},
    state::{Counters, Service},
};

/// What cache keys start with, and addresses do not repeat.
const PREFIX: &str = "cache/";
/// How much of an object is held in memory before it is written.
const PIECE: usize = 1 << 20;
/// How long the next bytes of an object may take.
const STALL: Duration = Duration::from_secs(60);
/// How often a directory that somebody removed meanwhile is made again.
const TRIES: usize = 8;
/// What the names of unfinished objects start with.
const UNFINISHED: &str = ".unfinished-";

/// What an address says beside the object's name.
#[derive(Deserialize)]
pub(super) struct Right {
    until: i64,
    longest: u64,
    mac: String,
}

/// The address by which the object `key` may be created once.
pub(crate) fn address(service: &Service, key: CacheKey, until: Timestamp, longest: u64) -> String {
    let key = key.to_string();
    let (key, until) = (key.strip_prefix(PREFIX).unwrap_or(&key), until.as_second());
    let mac = service.sealer.seal(&right(key, until, longest));
    let base = service.addresses.first().map_or("", String::as_str);
    format!("{base}/v1/cache/{key}?until={until}&longest={longest}&mac={mac}")
}

/// What the code is made over. A key holds no line break, or there would be two readings of it.
fn right(key: &str, until: i64, longest: u64) -> String {
    format!("PUT\n{key}\n{until}\n{longest}")
}

pub(super) async fn take(
    State(service): State<Arc<Service>>,
    UrlPath(key): UrlPath<String>,
    uri: Uri,
    body: Body,
) -> Answer<StatusCode> {
    let refused = |message| Err(Refusal::new(ErrorCode::Forbidden, message));
    let Some(cache) = service.stores.cache().as_directory().filter(|_| service.granting.is_own()) else {
        return refused("cache storage is not here");
    };
    let Ok(Query(asked)) = Query::<Right>::try_from_uri(&uri) else {
        return refused("the address is not one that was granted");
    };
    if !service.sealer.is_sealed(&right(&key, asked.until, asked.longest), &asked.mac) {
        return refused("the address is not one that was granted");
    }
    if Timestamp::now().as_second() >= asked.until {
        return refused("the grant has expired");
    }
    let _turn = service.uploads.acquire().await.map_err(|err| Refusal::failing(&err))?;
    // From here on the key is one that this service has made itself.
    let machine = key.split('/').next().and_then(|machine| machine.parse().ok());
    let machine = machine.ok_or_else(|| Refusal::failing(&"a granted key names no machine"))?;
    if service.standing(machine).await?.is_none_or(|standing| standing.revoked) {
        return refused("the machine was taken out of protection");
    }
    let path = cache.root().join(format!("{PREFIX}{key}"));
    let there = || Refusal::new(ErrorCode::Conflict, "the object exists already");
    if path.exists() {
        return Err(there());
    }
    let beside = path.clone();
    let upload = blocking(move || Upload::begin(&beside)).await?;
    let Received::Whole(upload, length) = receive(upload, body, asked.longest).await? else {
        return Ok(StatusCode::PAYLOAD_TOO_LARGE);
    };
    match blocking(move || upload.publish(&path)).await? {
        false => Err(there()),
        true => {
            Counters::add(&service.counters.uploads, 1);
            Counters::add(&service.counters.uploaded_bytes, length);
            Ok(StatusCode::CREATED)
        }
    }
}

/// What arrived.
enum Received {
    Whole(Upload, u64),
    TooLong,
}

async fn receive(mut upload: Upload, mut body: Body, longest: u64) -> Answer<Received> {
    let (mut length, mut piece) = (0_u64, Vec::new());
    loop {
        let part = next(&mut body).await?;
        let ended = part.is_none();
        if let Some(part) = part {
            length += part.len() as u64;
            if length > longest {
                return Ok(Received::TooLong);
            }
            piece.extend_from_slice(&part);
        }
        if piece.len() >= PIECE || ended {
            let full = std::mem::take(&mut piece);
            upload = blocking(move || upload.write(&full)).await?;
        }
        if ended {
            return Ok(Received::Whole(upload, length));
        }
    }
}

/// The next bytes of an object, nothing at its end.
async fn next(body: &mut Body) -> Answer<Option<Bytes>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    match timeout(STALL, frame).await {
        Err(_) => Err(Refusal::bad("the object did not arrive in time")),
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(_))) => Err(Refusal::bad("the object did not arrive whole")),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|err| Refusal::failing(&err))?;
    done.map_err(|err| match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            tracing::error!("cache storage is full: {err}");
            Refusal::new(ErrorCode::QuotaExceeded, "cache storage is full")
        }
        _ => Refusal::failing(&format!("cache storage fails: {err}")),
    })
}

/// An object that is arriving.
struct Upload {
    file: File,
    unfinished: PathBuf,
}

impl Upload {
    fn begin(path: &Path) -> io::Result<Upload> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut tries = 0;
        loop {
            make_directory(directory)?;
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let unfinished = directory.join(format!("{UNFINISHED}{}-up{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&unfinished) {
                Ok(file) => return Ok(Upload { file, unfinished }),
                // An empty directory may be removed at any time; one of that name may be left of an earlier process.
                Err(err)
                    if tries < TRIES
                        && matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
                {
                    tries += 1;
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn write(mut self, piece: &[u8]) -> io::Result<Upload> {
        self.file.write_all(piece)?;
        Ok(self)
    }

    /// Whether there was no such object yet.
    fn publish(self, path: &Path) -> io::Result<bool> {
        self.file.sync_all()?;
        match fs::hard_link(&self.unfinished, path) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            other => other?,
        }
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(true)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        fs::remove_file(&self.unfinished).ok();
    }
}

/// Makes a directory and what is missing above it, each entry durable.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    make_directory(parent)?;
    match fs::create_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => File::open(parent)?.sync_all(),
    }
}
