//! Whether a cut stops nobody or freezes the file systems, by what the last ones came to.
//!
//! An optimistic cut costs nothing but its tries, so it is tried first; but where it keeps failing, the tries only delay
//! the point and put the same blocks through memory again. Then points are frozen at once, for longer and longer
//! stretches, and a try in between finds out when the load has changed. Deliberately not here: the freeze.

use mobility_format::ByteCount;

/// The longest stretch of points that are frozen without trying is this power of two, less one.
const STRETCHES: u32 = 5;

/// What is remembered of the last cuts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice {
    /// Points in a row for which no optimistic cut succeeded when it was tried.
    failures: u32,
    /// How many points are still to be frozen at once.
    stretch: u32,
    /// How much was dirtied each second when it failed last.
    failed_rate: ByteCount,
}

impl Choice {
    /// Whether to freeze without a try, while so much is dirtied each second. At half the load that was too much
    /// the stretch is over.
    pub(super) fn freezes_at_once(&self, rate: ByteCount) -> bool {
        let lighter = rate < self.failed_rate && rate.0 <= self.failed_rate.0 / 2;
        self.stretch > 0 && !lighter
    }

    /// A point was cut without a freeze.
    pub(super) fn succeeded(&mut self) {
        *self = Choice::default();
    }

    /// All tries for a point failed, while so much was dirtied each second.
    pub(super) fn failed(&mut self, rate: ByteCount) {
        self.failures = (self.failures + 1).min(STRETCHES);
        self.stretch = (1 << self.failures) - 1;
        self.failed_rate = rate;
    }

    /// A point was frozen at once.
    pub(super) fn frozen(&mut self) {
        self.stretch = self.stretch.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `points` are frozen at once while no try succeeds.
    fn frozen(choice: &mut Choice, points: u32, rate: ByteCount) -> u32 {
        let mut frozen = 0;
        for _ in 0..points {
            if choice.freezes_at_once(rate) {
                choice.frozen();
                frozen += 1;
            } else {
                choice.failed(rate);
            }
        }
        frozen
    }

    #[test]
    fn tries_get_rarer_while_they_fail_and_one_success_forgets_it() {
        let (mut choice, rate) = (Choice::default(), ByteCount(1000));
        assert!(!choice.freezes_at_once(rate));
        assert_eq!(frozen(&mut choice, 6, rate), 4, "tried at the first and the third");
        assert!(frozen(&mut choice, 320, rate) >= 300, "about one in 32");
        assert!(choice.freezes_at_once(rate));
        choice.succeeded();
        assert!(!choice.freezes_at_once(rate));
    }

    #[test]
    fn a_lighter_load_is_tried_at_once() {
        let mut choice = Choice::default();
        choice.failed(ByteCount(1000));
        assert!(choice.freezes_at_once(ByteCount(600)));
        assert!(!choice.freezes_at_once(ByteCount(500)));
    }
}
