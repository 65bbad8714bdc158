//! Waiting after failures: doubling, bounded, and with jitter so that a thousand agents do not come back at once; or for as
//! long as the other side wishes.
//!
//! Deliberately not here: what is retried. A retry has no end, because an outage has none that we know; its pace has.

use std::time::Duration;

use crate::Limits;

/// A wish of the other side is followed up to this.
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// A small deterministic random generator (SplitMix64), good enough for jitter and seeded by the caller.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Jitter(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `duration`, and up to a tenth more.
    fn beyond(&mut self, duration: Duration) -> Duration {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(millis.saturating_add(self.next() % (millis / 10 + 1)))
    }

    /// Something between half of `duration` and all of it.
    pub(crate) fn spread(&mut self, duration: Duration) -> Duration {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let half = millis / 2;
        Duration::from_millis(half + self.next() % (millis - half + 1))
    }
}

/// How long to wait after the `attempt`-th failure in a row, the first being 1: what the other side wishes, if it does.
pub(crate) fn backoff(
    limits: &Limits,
    attempt: u32,
    wish: Option<Duration>,
    jitter: &mut Jitter,
) -> Duration {
    if let Some(wish) = wish {
        return jitter.beyond(wish.clamp(limits.retry_first.min(LONGEST_WISH), LONGEST_WISH));
    }
    let doubled = limits.retry_first.saturating_mul(1 << attempt.saturating_sub(1).min(20));
    jitter.spread(doubled.min(limits.retry_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_spread() {
        let limits = Limits::default();
        let mut jitter = Jitter::new(1);
        for attempt in 1..200 {
            let wait = backoff(&limits, attempt, None, &mut jitter);
            let full = limits.retry_first.saturating_mul(1 << (attempt - 1).min(20)).min(limits.retry_last);
            assert!(wait >= full / 2 && wait <= full, "{attempt}: {wait:?}");
        }
        let waits: std::collections::BTreeSet<_> =
            (0..50).map(|_| backoff(&limits, 20, None, &mut jitter)).collect();
        assert!(waits.len() > 40);
    }

    #[test]
    fn wishes_are_followed_within_bounds() {
        let limits = Limits::default();
        let mut jitter = Jitter::new(2);
        let mut wait = |seconds| backoff(&limits, 9, Some(Duration::from_secs(seconds)), &mut jitter);
        for _ in 0..200 {
            let wished = wait(100);
            assert!(wished >= Duration::from_secs(100) && wished <= Duration::from_secs(110), "{wished:?}");
        }
        assert!(wait(u64::MAX) <= LONGEST_WISH.mul_f64(1.1), "no wish stops replication for good");
        assert!(wait(0) >= limits.retry_first, "never a busy loop");
    }
}
