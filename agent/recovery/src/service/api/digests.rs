//! Digests: what a machine's disk held at its head, for a resync, a scan or an audit.
//!
//! Reading a catalog takes much longer than reading a window, and a resync asks for a disk in thousands of pieces, so readers
//! are kept. What was pruned under a reader is in merged segments: it is opened again, once. Deliberately not here: the
//! reading (the library's `WindowReader`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::extract::State;
use mobility_format::{BlockIndex, DiskId, Epoch, MachineId, WINDOW_BLOCKS, control::ErrorCode};
use serde::Deserialize;

use super::{InPath, InQuery, caller::Caller};
use crate::{
    Catalog, ContentError, WindowContent, WindowReader, block_digests,
    service::{
        refusal::{Answer, Refusal},
        state::Service,
    },
    storage::Stores,
};

/// Windows in one answer.
const MOST: u64 = 64;
/// Readers that are kept.
const READERS: usize = 32;
/// When to ask again for an epoch that is not taken in yet, in seconds.
const SOON: u64 = 1;

/// What is said in the address.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Asked {
    window: u64,
    count: u64,
    epoch: Epoch,
}

type Key = (MachineId, DiskId, Epoch);
type Kept = (Instant, Arc<Mutex<WindowReader>>);

/// Readers by what they read.
#[derive(Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<HashMap<Key, Kept>>>);

impl Readers {
    fn get(&self, stores: &Stores, key: Key) -> Result<Arc<Mutex<WindowReader>>, ContentError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((used, reader)) = kept.get_mut(&key) {
            *used = Instant::now();
            return Ok(reader.clone());
        }
        drop(kept);
        let (machine, disk, epoch) = key;
        let catalog = Catalog::load(stores, machine)?;
        let reader = Arc::new(Mutex::new(WindowReader::at(&catalog, disk, epoch)?));
        kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= READERS {
            let oldest = kept.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|oldest| kept.remove(&oldest));
        }
        kept.insert(key, (Instant::now(), reader.clone()));
        Ok(reader)
    }

    fn forget(&self, key: Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

pub(super) async fn give(
    State(service): State<Arc<Service>>,
    caller: Caller,
    InPath(disk): InPath<DiskId>,
    InQuery(asked): InQuery<Asked>,
) -> Answer<Vec<u8>> {
    if asked.count > MOST || asked.window > u64::MAX / WINDOW_BLOCKS / 2 {
        return Err(Refusal::bad(format!("at most {MOST} windows can be asked for at once")));
    }
    let machine = caller.machine;
    let taken_in = service.database.state(machine).await?.map_or(0, |state| state.taken_in);
    if asked.epoch.0 > taken_in {
        return Err(Refusal::not_yet(format!("epoch {} is not taken in yet", asked.epoch), SOON));
    }
    if asked.epoch.0 < taken_in {
        let message = format!("the newest epoch that was taken in is {taken_in}, not {}", asked.epoch);
        return Err(Refusal::new(ErrorCode::Conflict, message));
    }
    let readers = service.readers.clone();
    service.blocking(move |stores| read(stores, &readers, (machine, disk, asked.epoch), asked)).await
}

fn read(stores: &Stores, readers: &Readers, key: Key, asked: Asked) -> Answer<Vec<u8>> {
    let first = readers.get(stores, key).and_then(|reader| windows(&reader, asked));
    let bytes = match first {
        Ok(bytes) => Ok(bytes),
        Err(_) => {
            readers.forget(key);
            readers.get(stores, key).and_then(|reader| windows(&reader, asked))
        }
    };
    bytes.map_err(|err| match err {
        ContentError::Unusable { .. } => Refusal::new(ErrorCode::NotFound, err.to_string()),
        err => Refusal::failing(&err),
    })
}

fn windows(reader: &Mutex<WindowReader>, asked: Asked) -> Result<Vec<u8>, ContentError> {
    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = Vec::new();
    for window in asked.window..asked.window + asked.count {
        let start = BlockIndex(window * WINDOW_BLOCKS);
        let content = match start.0 < reader.size().blocks() {
            true => reader.window(start)?,
            false => WindowContent::Zero,
        };
        match content {
            WindowContent::Zero => bytes.push(0),
            content => {
                bytes.push(1);
                block_digests(&content).iter().for_each(|digest| bytes.extend_from_slice(&digest.0));
            }
        }
    }
    Ok(bytes)
}
