//! Marks that the tracker is known to have missed.
//!
//! A missed completion is repaired by what the issue told, and a missed issue by the completion; only when both may be of
//! one write is there nothing left that knows of it. Until a moment was seen in which nothing was in flight, or for longer
//! than any write lives, it has to be assumed that they are. Deliberately not here: which blocks it can have been.

use crate::{Drained, Time, suspects::OLDEST};

/// What was missed of writes that may still be in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Misses {
    issues: Option<Time>,
    completions: Option<Time>,
}

impl Misses {
    /// Of a tracker that starts: what is in flight then was issued unseen.
    pub(crate) fn at_start(now: Time) -> Self {
        Misses { issues: Some(now), completions: None }
    }

    /// Takes in what was drained. True when a write may have come and gone unseen.
    pub(crate) fn absorb(&mut self, now: Time, drained: &Drained) -> bool {
        let young = |at: &Time| now.since(*at) <= OLDEST;
        let (issue, completion) =
            (drained.issue_missed.then_some(now), drained.completion_missed.then_some(now));
        let issues = issue.or(self.issues.filter(young));
        let completions = completion.or(self.completions.filter(young));
        let both = issues.is_some() && completions.is_some();
        // Which came first, the idle moment or what was missed in this drain, is not known.
        let (issues, completions) = if drained.idle { (issue, completion) } else { (issues, completions) };
        // What was missed at completion is over and done; what was missed at issue may still be in flight.
        *self = Misses { issues, completions: completions.filter(|_| !both) };
        both
    }

    /// As [`Misses::unseen`], for one who does not know the time: then it is kept for longer.
    pub(crate) fn any_unseen(&self) -> bool {
        self.issues.is_some()
    }

    /// Whether a write may be in flight that nobody saw being issued.
    pub(crate) fn unseen(&self, now: Time) -> bool {
        self.issues.is_some_and(|at| now.since(at) <= OLDEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(issue_missed: bool, completion_missed: bool, idle: bool) -> Drained {
        Drained { issue_missed, completion_missed, idle, ..Drained::default() }
    }

    #[test]
    fn both_ends_missed_in_different_drains_are_noticed() {
        let mut misses = Misses::default();
        assert!(!misses.absorb(Time(0), &drained(true, false, false)));
        assert!(misses.unseen(Time(0)));
        assert!(
            misses.absorb(Time(10), &drained(false, true, true)),
            "the idle moment came after the completion"
        );
        assert!(!misses.unseen(Time(10)));
    }

    #[test]
    fn an_idle_moment_separates_them_but_not_those_of_its_own_drain() {
        let mut misses = Misses::default();
        assert!(!misses.absorb(Time(0), &drained(true, false, false)));
        assert!(!misses.absorb(Time(10), &drained(false, false, true)));
        assert!(!misses.absorb(Time(20), &drained(false, true, false)));
        let mut misses = Misses::default();
        assert!(!misses.absorb(Time(0), &drained(true, false, true)));
        assert!(
            misses.absorb(Time(10), &drained(false, true, false)),
            "it may have been issued after the idle moment"
        );
    }

    #[test]
    fn no_write_lives_for_ever() {
        let mut misses = Misses::at_start(Time(0));
        assert!(misses.unseen(Time(60_000)) && !misses.unseen(Time(60_001)));
        assert!(!misses.absorb(Time(60_001), &drained(false, true, false)));
    }
}
