//! How fast segments are uploaded: a rate that all uploads share, which can be changed while they run.
//!
//! Each piece of a body is given the moment at which it may go. Pieces are small against the rate, so that no second has
//! more than its share. Deliberately not here: which rate it is (`policy`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The largest piece that a body is sent in.
const LARGEST: usize = 64 << 10;
/// The smallest piece.
const SMALLEST: usize = 2 << 10;
/// What was not used of the rate is made up for as far as this.
const BURST: Duration = Duration::from_millis(100);

/// A rate and who has used it.
#[derive(Debug)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    /// In bytes per second.
    rate: Option<u64>,
    /// When all pieces that were given a moment will have gone at this rate.
    busy_until: Instant,
    /// Grows when the rate changes: moments given before are void.
    round: u64,
}

/// The moment at which a piece may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// How long to wait for it.
    pub(super) wait: Duration,
    round: u64,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace(Mutex::new(State { rate: None, busy_until: Instant::now(), round: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, as many bytes per second; as fast as goes for none.
    pub(super) fn set(&self, rate: Option<u64>) {
        let mut state = self.state();
        if state.rate != rate {
            *state = State {
                rate: rate.map(|rate| rate.max(1)),
                busy_until: Instant::now(),
                round: state.round + 1,
            };
        }
    }

    /// How large a piece should be: what goes in a twentieth of a second.
    pub(super) fn piece(&self) -> usize {
        let rate = self.state().rate.unwrap_or(u64::MAX);
        usize::try_from(rate / 20).unwrap_or(LARGEST).clamp(SMALLEST, LARGEST)
    }

    /// Asks for the right to send `length` bytes.
    pub(super) fn reserve(&self, length: usize) -> Slot {
        self.reserve_at(Instant::now(), length)
    }

    fn reserve_at(&self, now: Instant, length: usize) -> Slot {
        let mut state = self.state();
        let round = state.round;
        let Some(rate) = state.rate else { return Slot { wait: Duration::ZERO, round } };
        let cost = Duration::from_nanos(
            u64::try_from(length as u128 * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX),
        );
        let start = state.busy_until.max(now.checked_sub(BURST).unwrap_or(now));
        state.busy_until = start + cost;
        Slot { wait: start.saturating_duration_since(now), round }
    }

    /// Whether the rate was changed since: then ask again.
    pub(super) fn is_void(&self, slot: Slot) -> bool {
        self.state().round != slot.round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends pieces of `sizes` in turns for `time`, and returns how many bytes went.
    fn sent(pace: &Pace, sizes: &[usize], time: Duration) -> usize {
        let (start, mut at, mut bytes) = (Instant::now(), Duration::ZERO, 0);
        for size in sizes.iter().cycle() {
            at += pace.reserve_at(start + at, *size).wait;
            if at >= time {
                return bytes;
            }
            bytes += size;
        }
        bytes
    }

    #[test]
    fn the_rate_holds_within_five_per_cent_over_ten_seconds() {
        for rate in [16u64 << 10, 1 << 20, 50 << 20] {
            let pace = Pace::new();
            pace.set(Some(rate));
            let piece = pace.piece();
            let bytes = sent(&pace, &[piece, piece / 3, piece], Duration::from_secs(10)) as f64;
            let expected = rate as f64 * 10.0;
            assert!((bytes / expected - 1.0).abs() < 0.05, "{bytes} of {expected}");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let pace = Pace::new();
        pace.set(Some(1 << 20));
        let later = Instant::now() + Duration::from_secs(60);
        let mut at_once = 0;
        while pace.reserve_at(later, 10 << 10).wait.is_zero() {
            at_once += 10 << 10;
        }
        assert!(at_once <= 130 << 10, "{at_once} bytes at once");
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let pace = Pace::new();
        pace.set(Some(1000));
        pace.reserve(100_000);
        let slow = pace.reserve(1000);
        assert!(slow.wait > Duration::from_secs(90));
        pace.set(None);
        assert!(pace.is_void(slow) && pace.reserve(1 << 30).wait.is_zero());
        let same = pace.reserve(1);
        pace.set(None);
        assert!(!pace.is_void(same), "nothing has changed");
    }
}
