//! What a fleet asked for, what it got, and how long that took.
//!
//! Deliberately not here: what is made of it.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Failed;

/// How many failures are remembered in words.
const SAID: usize = 5;

/// One kind of request.
#[derive(Debug, Default)]
pub struct Lane {
    asked: AtomicU64,
    failed: AtomicU64,
    micros: Mutex<Vec<u32>>,
    said: Mutex<Vec<String>>,
}

/// All that a fleet does.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Heartbeats.
    pub beats: Lane,
    /// Points, from the first byte to the answer to the notice.
    pub commits: Lane,
    /// Waits for commands.
    pub polls: Lane,
}

/// How long answers took.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// How many were asked for.
    pub asked: u64,
    /// How many were answered well.
    pub done: usize,
    /// How many were not.
    pub failed: u64,
    /// Half took no longer.
    pub p50: Duration,
    /// Of a hundred, 99 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
    /// Some failures in words.
    pub said: Vec<String>,
}

impl Ledger {
    /// Forgets everything.
    pub fn begin(&self) {
        for lane in [&self.beats, &self.commits, &self.polls] {
            lane.take();
        }
    }
}

impl Lane {
    pub(super) fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes one that was answered well.
    pub(super) fn done(&self, took: Duration) {
        self.micros.lock().unwrap().push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Notes one that was not.
    pub(super) fn failed(&self, failed: &Failed) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock().unwrap();
        if said.len() < SAID {
            said.push(failed.to_string());
        }
    }

    pub(super) async fn time<T>(&self, work: impl Future<Output = Result<T, Failed>>) -> Option<T> {
        let begin = Instant::now();
        match work.await {
            Ok(done) => {
                self.done(begin.elapsed());
                Some(done)
            }
            Err(failed) => {
                self.failed(&failed);
                None
            }
        }
    }

    /// What there was since this was asked last.
    ///
    /// # Panics
    /// When a thread that noted something has panicked.
    pub fn take(&self) -> Spread {
        let mut micros = std::mem::take(&mut *self.micros.lock().unwrap());
        micros.sort_unstable();
        let at = |percent: usize| {
            let place = (micros.len() * percent).div_ceil(100).saturating_sub(1);
            Duration::from_micros(micros.get(place).copied().unwrap_or(0).into())
        };
        Spread {
            asked: self.asked.swap(0, Ordering::Relaxed),
            done: micros.len(),
            failed: self.failed.swap(0, Ordering::Relaxed),
            p50: at(50),
            p99: at(99),
            max: at(100),
            said: std::mem::take(&mut *self.said.lock().unwrap()),
        }
    }
}
