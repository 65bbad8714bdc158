//! Puts pages, several requests at once.
//!
//! Memory: what is sent and what waits, at most [`WAITING`] and [`AT_ONCE`] times the longest request, and a window's worth.
//! Deliberately not here: the requests.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use super::{
    super::pipeline::IDLE,
    lock,
    request::{Body, Client},
};
use crate::storage::StorageError;

/// Requests under way: 32 MiB at most.
const AT_ONCE: usize = 8;
/// Requests waiting for one of them to end: 16 MiB at most.
const WAITING: usize = 4;

/// What is put and what waits to be.
pub(super) struct Uploads {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Body)>,
    under_way: usize,
    failed: Option<StorageError>,
    /// Nothing more is begun.
    stopped: bool,
}

impl Uploads {
    pub(super) fn start(client: &Arc<Client>) -> Arc<Uploads> {
        let uploads = Arc::new(Uploads { state: Mutex::default(), changed: Condvar::new() });
        for _ in 0..AT_ONCE {
            let (uploads, client) = (uploads.clone(), client.clone());
            thread::spawn(move || uploads.work(&client));
        }
        uploads
    }

    fn work(&self, client: &Client) {
        while let Some((at, body)) = self.next() {
            let put = client.put(at, &body);
            let mut state = lock(&self.state);
            state.under_way -= 1;
            if let Err(err) = put {
                state.failed.get_or_insert(err);
                state.stopped = true;
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(u64, Body)> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                state.under_way += 1;
                self.changed.notify_all();
                return Some(next);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds pages. Ask first whether there is room.
    pub(super) fn add(&self, at: u64, bytes: Vec<u8>) {
        lock(&self.state).waiting.push_back((at, bytes.into()));
        self.changed.notify_all();
    }

    /// Waits a moment for room. What has failed meanwhile is told here.
    pub(super) fn room(&self) -> Result<bool, StorageError> {
        let full = |state: &mut State| state.waiting.len() >= WAITING && state.failed.is_none();
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, IDLE, full);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.failed.take() {
            Some(err) => Err(err),
            None => Ok(state.waiting.len() < WAITING),
        }
    }

    /// Waits until everything is put.
    pub(super) fn finish(&self) -> Result<(), StorageError> {
        let busy = |state: &mut State| !state.stopped && (!state.waiting.is_empty() || state.under_way > 0);
        let waited = self.changed.wait_while(lock(&self.state), busy);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Begins nothing more, and lets its threads end.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.waiting.clear();
        self.changed.notify_all();
    }
}
