//! How the background threads wait: for a bell, for the next try after one that failed.
//!
//! Deliberately not here: the waits of replication itself, which are the engine's.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::identity::random;

/// The first wait after a failure.
const FIRST: Duration = Duration::from_secs(1);

/// Wakes one thread before its time.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it is rung, or was since the last wait, but not longer than `limit`. Returns whether it was.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self
            .changed
            .wait_timeout_while(rung, limit, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung)
    }
}

/// When something that failed is tried again: at growing intervals, each drawn by chance, or when the other side wishes.
#[derive(Debug)]
pub(super) struct Waits {
    step: Duration,
    longest: Duration,
    next: Instant,
}

impl Waits {
    pub(super) fn new(longest: Duration) -> Waits {
        Waits { step: FIRST, longest, next: Instant::now() }
    }

    /// Nothing stands against trying now.
    pub(super) fn is_due(&self) -> bool {
        self.left().is_zero()
    }

    /// How long it takes until then.
    pub(super) fn left(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    pub(super) fn succeeded(&mut self) {
        *self = Waits::new(self.longest);
    }

    pub(super) fn failed(&mut self, wish: Option<Duration>) {
        self.next = Instant::now() + wait(self.step, wish, chance());
        self.step = (self.step * 2).min(self.longest).max(FIRST);
    }
}

/// Half of `step` and, by chance (0 to 1), up to all of it; or the wish and up to a tenth more, so that not everybody comes
/// back at once.
fn wait(step: Duration, wish: Option<Duration>, chance: f64) -> Duration {
    match wish {
        Some(wish) => wish.mul_f64(1.0 + chance / 10.0).max(FIRST / 2),
        None => step.mul_f64(0.5 + chance / 2.0),
    }
}

/// A number from 0 to 1 by chance.
pub(super) fn chance() -> f64 {
    random().map_or(0.5, |bytes: [u8; 4]| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_follow_wishes() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(4 * second, None, 0.0), 2 * second);
        assert_eq!(wait(4 * second, None, 1.0), 4 * second);
        assert_eq!(wait(second, Some(100 * second), 0.0), 100 * second);
        assert_eq!(wait(second, Some(100 * second), 1.0), 110 * second);
        assert_eq!(wait(second, Some(Duration::ZERO), 0.0), second / 2, "never a busy loop");
        let mut waits = Waits::new(8 * second);
        assert!(waits.is_due());
        for _ in 0..9 {
            waits.failed(None);
            assert!(!waits.is_due() && waits.left() <= 8 * second);
        }
        assert!(waits.left() > 3 * second);
        waits.succeeded();
        assert!(waits.is_due());
    }

    #[test]
    fn a_bell_that_was_rung_before_is_heard() {
        let bell = Bell::default();
        bell.ring();
        assert!(bell.wait(Duration::from_secs(9)));
        assert!(!bell.wait(Duration::ZERO));
    }
}
