//! The cut of a cycle: with or without a freeze, with or without the applications' help, again or not.
//!
//! ```text
//! cut -> Cut                                                              without a freeze
//! cut -> Sync -> Collect, Copy ... -> cut -> Cut                          with one
//! cut -> Sync -> Collect, Copy ... -> Quiesce -> Sync -> ... -> cut -> Cut    application-consistent
//! ```
//!
//! Flushing comes before the last passes, so that a freeze has little left to flush and to read; and it comes a second
//! time after the applications were told, for they write then. Deliberately not here: what conflicts (`cut`), when to
//! freeze at once (`choice`).

use std::collections::BTreeSet;

use mobility_format::ByteCount;

use super::{Next, Phase};
use crate::{Action, CommitKind, CutFigures, CutPolicy, Engine, Time, Verdict, disk::Disk};

/// What a cycle knows of its cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempt {
    /// Cuts tried without a freeze, and with one.
    pub(super) optimistic: u32,
    pub(super) frozen: u32,
    /// Instants tried as `t0`, in all of them.
    pub(super) instants: u32,
    /// Whether the cut under way, or the last one, has a freeze.
    pub(super) freezes: bool,
    /// Whether the file systems were flushed for it, and the passes after that have been made.
    synced: bool,
    /// Whether the applications were told; what came of it.
    told: Option<Result<bool, String>>,
    /// There is nothing to freeze, or it failed too often.
    unfreezable: bool,
}

impl Attempt {
    pub(super) fn tries(&self) -> u32 {
        self.optimistic + self.frozen
    }

    /// Whether there was an application to be told, or why it could not be; nothing if none was to be told.
    pub(super) fn told(&self) -> Option<&Result<bool, String>> {
        self.told.as_ref()
    }

    /// What was flushed is dirty again by the time of the next try, and what was told has been told that it is over.
    pub(super) fn begin_again(&mut self) {
        (self.synced, self.told) = (false, None);
    }

    /// Whether there was an application, and it was told.
    pub(super) fn application(&self) -> bool {
        self.told == Some(Ok(true))
    }
}

impl Engine {
    /// All that a pass can do has been done: on towards the cut.
    pub(super) fn cut(&mut self, now: Time) {
        let application = self.application_wanted();
        self.cycle.cut.freezes = self.freezes(now, application);
        if self.cycle.cut.freezes {
            if !self.cycle.cut.synced {
                self.actions.push_back(Action::Sync);
                self.phase = Phase::Sync;
                return;
            }
            if application && self.cycle.cut.told.is_none() {
                if self.releasing {
                    self.phase = Phase::Pause(now + self.limits.try_delay);
                    return;
                }
                self.quiesced = true;
                self.actions.push_back(Action::Quiesce(self.generation, self.epoch));
                self.phase = Phase::Quiesce;
                return;
            }
        }
        self.try_cut(now);
    }

    fn freezes(&self, now: Time, application: bool) -> bool {
        let attempt = &self.cycle.cut;
        self.may_freeze()
            && match self.limits.cut_policy {
                CutPolicy::Optimistic => false,
                CutPolicy::Freeze => true,
                CutPolicy::Auto => {
                    (application && !matches!(attempt.told, Some(Err(_))))
                        || attempt.optimistic >= self.limits.tries
                        || self.owed_of_trackers() > self.limits.cut_bytes
                        || (attempt.optimistic == 0 && self.choice.freezes_at_once(self.dirty_rate(now)))
                }
            }
    }

    pub(crate) fn synced(&mut self, now: Time) {
        self.cycle.cut.synced = true;
        self.cycle.passes = 0;
        self.collect(now);
    }

    pub(crate) fn told(&mut self, now: Time, result: Result<bool, String>) {
        self.quiesced = result.is_ok();
        self.cycle.cut.told = Some(result);
        self.cycle.cut.synced = false;
        self.cut(now);
    }

    fn try_cut(&mut self, now: Time) {
        let plans: Vec<_> = self
            .active()
            .filter(|disk| disk.continuous())
            .map(|disk| (disk.id, disk.cut_plan(now)))
            .collect();
        self.cycle.cut_disks = self.active().map(|disk| (disk.id, disk.size)).collect();
        self.cycle.served = self.wishes;
        if plans.is_empty() {
            self.cycle.cut.optimistic += 1;
            self.cycle.cut.instants += 1;
            return self.confirm(now);
        }
        let (budget, freeze) = if self.cycle.cut.freezes {
            self.cycle.cut.frozen += 1;
            (self.limits.freeze_bytes, Some(self.limits.freeze_limit))
        } else {
            self.cycle.cut.optimistic += 1;
            (self.limits.cut_bytes, None)
        };
        self.actions.push_back(Action::Cut { plans, budget, freeze });
        self.phase = Phase::Cut;
    }

    pub(crate) fn cut_done(&mut self, now: Time, verdict: &Verdict, figures: CutFigures, unverified: bool) {
        self.cycle.figures = figures;
        self.cycle.cut.instants += figures.rounds;
        if *verdict == Verdict::Consistent {
            self.learn(now);
            // Also when the disk turned out to be unverified: its segments are on their way and have to be waited for.
            self.phase = Phase::CutPacking;
            return;
        }
        if unverified {
            self.phase = Phase::Idle;
            self.point_due = now;
            return;
        }
        let reason = match verdict {
            Verdict::Unread(..) => {
                self.phase = Phase::Collect(BTreeSet::new());
                return;
            }
            Verdict::TooMuch => "more changed before the cut than it may read".to_owned(),
            Verdict::Conflict(blocks) => format!("{blocks} blocks were written while the cut read them"),
            Verdict::Unsettled => "writes in flight did not end in time".to_owned(),
            Verdict::Overrun => {
                format!("what was left could not be read within {} ms", self.limits.freeze_limit.as_millis())
            }
            Verdict::NotFrozen(reason) => format!("the file systems could not be frozen: {reason}"),
            Verdict::NothingToFreeze => {
                self.cycle.cut.unfreezable = true;
                "there is no file system to freeze".to_owned()
            }
            Verdict::Missed | Verdict::Consistent => {
                "the kernel skipped the tracker during the cut".to_owned()
            }
        };
        if matches!(verdict, Verdict::TooMuch | Verdict::Overrun) {
            // However little the passes achieved: less has to be left.
            self.cycle.left = None;
        }
        self.try_again(now, &reason);
    }

    /// Remembers what it took to get a consistent cut.
    fn learn(&mut self, now: Time) {
        let rate = self.dirty_rate(now);
        match &self.cycle.cut {
            attempt if !attempt.freezes => self.choice.succeeded(),
            attempt if attempt.optimistic > 0 => self.choice.failed(rate),
            _ => self.choice.frozen(),
        }
    }

    fn may_freeze(&self) -> bool {
        self.limits.cut_policy != CutPolicy::Optimistic
            && !self.cycle.cut.unfreezable
            && self.active().any(Disk::continuous)
    }

    /// How much may be left for a cut to read.
    pub(super) fn most_for_cut(&self) -> ByteCount {
        if self.may_freeze() { self.limits.freeze_bytes } else { self.limits.cut_bytes }
    }

    fn try_again(&mut self, now: Time, reason: &str) {
        let most = self.limits.tries;
        let attempt = &mut self.cycle.cut;
        attempt.synced = false;
        // Before giving up: it may do without, however the policy has it.
        attempt.unfreezable |= attempt.frozen >= most;
        if self.cycle.cut.optimistic >= most && !self.may_freeze() {
            let tries = self.cycle.cut.tries();
            return self.copy(now, Next::Fuzzy(format!("{reason}, at each of {tries} tries")));
        }
        self.cycle.passes = 0;
        self.phase = Phase::Pause(now + self.jitter.spread(self.limits.try_delay));
    }

    pub(crate) fn cut_packed(&mut self, now: Time) {
        if self.cycle.new_generation.is_some() {
            self.phase = Phase::Idle;
            self.point_due = now;
        } else {
            self.confirm(now);
        }
    }

    fn confirm(&mut self, now: Time) {
        self.cycle.unconfirmed = 0;
        let polling: BTreeSet<_> =
            self.active().filter(|disk| !disk.continuous()).map(|disk| disk.id).collect();
        if polling.is_empty() {
            return self.flush_point(now);
        }
        self.actions.extend(polling.iter().map(|&id| Action::Confirm(id)));
        self.phase = Phase::Confirm(polling);
    }

    pub(super) fn confirmed(&mut self, now: Time) {
        if self.round_failed(now) {
            return;
        }
        match self.cycle.unconfirmed {
            0 => self.flush_point(now),
            blocks => self.try_again(now, &format!("{blocks} blocks changed between two scans")),
        }
    }

    /// Tells the applications that it is over, once it is.
    pub(super) fn release_applications(&mut self) {
        let under_way = match self.phase {
            Phase::Sync | Phase::Quiesce | Phase::Collect(_) | Phase::Cut | Phase::Pause(_) => true,
            // What is copied for a point that is given up on may take long.
            Phase::Copy(_) => matches!(self.cycle.next, Next::Collect | Next::Cut),
            _ => false,
        };
        if self.quiesced && !under_way {
            self.quiesced = false;
            let cut = self.phase == Phase::CutPacking;
            let succeeded = cut && self.cycle.cut.freezes;
            if !cut {
                self.cycle.cut.begin_again();
            }
            self.releasing = true;
            self.actions.push_back(Action::Release(succeeded));
        }
    }

    /// They were told; some say only now that they had not been ready any more when the cut was made.
    pub(crate) fn released(&mut self, result: Result<(), String>) {
        self.releasing = false;
        // Of a try that is over already it says nothing about the next one.
        let (Err(reason), Some(_)) = (result, &self.cycle.cut.told) else { return };
        self.cycle.cut.told = Some(Err(reason));
        let consistency = self.point_figures().consistency;
        let shortfall = self.application_shortfall();
        if let Some((CommitKind::Point(figures), _)) = &mut self.cycle.commit {
            (figures.consistency, figures.shortfall) = (consistency, shortfall);
        }
    }

    pub(super) fn owed_of_trackers(&self) -> ByteCount {
        let disks = self.active().filter(|disk| disk.continuous());
        ByteCount(disks.map(|disk| disk.owed.bytes().0).sum())
    }
}
