//! Answers with a part of a disk: heads as RFC 9110 wants them, and bytes at the pace of who takes them.
//!
//! The first window is there before the head is sent, so what cannot be read at all is an error that says why. What fails later
//! ends the connection before its time: no byte is ever sent that was not compared with its digest, and a part that is short
//! is not taken for whole. Who takes nothing for a minute is given up. Deliberately not here: who may ask.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, REFERRER_POLICY,
        },
    },
    response::{IntoResponse, Response},
};
use mobility_format::{ByteCount, WINDOW_SIZE, control::ErrorCode};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::{
    disk::Disk,
    range::Part,
    shelf::{Failure, Shelf},
    view::View,
};
use crate::service::refusal::{Answer, Refusal};

/// Answers that are streamed at once. Each holds a window and a piece of one.
pub(super) const STREAMS: usize = 128;
/// Those of one disk: who reads it slowly, and many times, leaves the others theirs.
pub(super) const STREAMS_OF_ONE: usize = 32;
/// How much is handed on at once.
const PIECE: usize = 256 << 10;
/// How long the other side may take nothing.
const STALL: Duration = Duration::from_secs(60);
/// How long to wait for one of the streams.
const TURN: Duration = Duration::from_secs(20);
/// When to ask again where all streams are taken, in seconds.
const SOON: u64 = 5;

/// What is told when stored data is found damaged, once for each object.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// A request for a disk of an export.
pub(crate) struct Asked<'a> {
    pub(crate) view: &'a View,
    /// The disk's id, as the path says it.
    pub(crate) disk: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

/// Answers with what is asked for of a disk.
pub(crate) async fn answer(shelf: &Arc<Shelf>, asked: Asked<'_>, tell: Tell) -> Answer<Response> {
    let view = asked.view;
    let shown = view.disk(asked.disk).ok_or_else(|| Refusal::not_found("disk in this export"))?;
    let (size, tag) = (shown.size, view.tag(shown));
    let part = Part::of(asked.method, asked.headers, size.0, &tag);
    let (status, start, end) = match part {
        Part::Whole => (StatusCode::OK, 0, size.0),
        Part::Bytes(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Part::Behind => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
        Part::Same => (StatusCode::NOT_MODIFIED, 0, 0),
    };
    let mut body = Body::empty();
    if *asked.method == Method::GET && start < end {
        let disk = shelf.disk((view.machine, view.epoch, shown.id));
        let reading = Reading { shelf: shelf.clone(), disk, size, tell, _turns: None };
        body = reading.stream(start, end).await?;
    }
    let mut answer = (status, body).into_response();
    let headers = answer.headers_mut();
    heads(headers, &tag)?;
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    }
    let range = match status {
        StatusCode::PARTIAL_CONTENT => format!("bytes {start}-{}/{size}", end - 1, size = size.0),
        StatusCode::RANGE_NOT_SATISFIABLE => format!("bytes */{}", size.0),
        _ => return Ok(answer),
    };
    headers.insert(CONTENT_RANGE, value(&range)?);
    Ok(answer)
}

/// Answers with what an export is of.
pub(crate) fn index(shown: &serde_json::Value) -> Response {
    let mut answer = axum::Json(shown).into_response();
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn heads(headers: &mut HeaderMap, tag: &str) -> Answer<()> {
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A machine's disk lies in nobody's cache, and its address is a secret.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(ETAG, value(tag)?);
    Ok(())
}

fn value(text: &str) -> Answer<HeaderValue> {
    HeaderValue::from_str(text).map_err(|err| Refusal::failing(&err))
}

/// Reading a part of a disk.
struct Reading {
    shelf: Arc<Shelf>,
    disk: Arc<Disk>,
    size: ByteCount,
    tell: Tell,
    _turns: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Reading {
    async fn stream(mut self, start: u64, end: u64) -> Answer<Body> {
        let turns = async {
            let of_disk = self.disk.streams.clone().acquire_owned().await.ok()?;
            Some((of_disk, self.shelf.streams.clone().acquire_owned().await.ok()?))
        };
        let Ok(Some(turns)) = timeout(TURN, turns).await else {
            let message = "too many answers are under way: again in a moment";
            return Err(Refusal {
                code: ErrorCode::SlowDown,
                message: message.to_owned(),
                retry_after: Some(SOON),
            });
        };
        self._turns = Some(turns);
        let first = self.window(start / WINDOW_SIZE as u64).await.map_err(|failure| refusal(&failure))?;
        let within = piece(&first, start, end);
        if within.len() as u64 == end - start {
            return Ok(Body::from(within));
        }
        let (pieces, taken) = mpsc::channel(1);
        tokio::spawn(self.send(within, start, end, pieces));
        Ok(Body::from_stream(futures_util::stream::unfold((taken, end - start), next)))
    }

    async fn send(self, mut window: Bytes, mut at: u64, end: u64, pieces: mpsc::Sender<Bytes>) {
        loop {
            at += window.len() as u64;
            while !window.is_empty() {
                let piece = window.split_to(window.len().min(PIECE));
                match timeout(STALL, pieces.send(piece)).await {
                    Ok(Ok(())) => {}
                    // Nobody is there any more, or takes anything. What ends without its last piece is cut off.
                    Ok(Err(_)) | Err(_) => return,
                }
            }
            if at >= end {
                return;
            }
            match self.window(at / WINDOW_SIZE as u64).await {
                Ok(whole) => window = piece(&whole, at, end),
                Err(failure) => return tracing::debug!("an answer is cut off: {failure}"),
            }
        }
    }

    async fn window(&self, window: u64) -> Result<Bytes, Failure> {
        let read = self.shelf.window(&self.disk, window, self.size).await;
        if let Err(failure) = &read
            && self.disk.is_news(failure)
        {
            match failure.is_damage() {
                true => (self.tell)(format!("found while an export was read: {failure}")),
                false => tracing::error!("an export cannot be read: {failure}"),
            }
        }
        read
    }
}

/// What lies from `start` on and before `end` of the window that `start` lies in.
fn piece(window: &Bytes, start: u64, end: u64) -> Bytes {
    let offset = (start % WINDOW_SIZE as u64) as usize;
    let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(WINDOW_SIZE - offset);
    window.slice(offset..offset + length)
}

/// The next piece of an answer that has so much left. What ends early is an error.
async fn next(
    (mut taken, left): (mpsc::Receiver<Bytes>, u64),
) -> Option<(io::Result<Bytes>, (mpsc::Receiver<Bytes>, u64))> {
    if left == 0 {
        return None;
    }
    match taken.recv().await {
        Some(piece) => {
            let left = left.saturating_sub(piece.len() as u64);
            Some((Ok(piece), (taken, left)))
        }
        None => Some((Err(io::Error::other("the answer is cut off")), (taken, 0))),
    }
}

fn refusal(failure: &Failure) -> Refusal {
    match failure.is_damage() {
        // Asking again is of no use.
        true => Refusal::new(ErrorCode::Conflict, format!("{failure}: choose another point")),
        false => Refusal::failing(failure),
    }
}
