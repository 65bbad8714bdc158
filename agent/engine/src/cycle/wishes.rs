//! Wishes for a point: by schedule, by request, as the last act.
//!
//! A wish is served by the first point whose cut began after it came. Each has a number; a cut serves all up to the
//! highest there was when it began. Deliberately not here: who wishes, and how he gets his answer.

use mobility_format::{BLOCK_SIZE, ByteCount};

use crate::{CutPolicy, Engine, Request, Time};

/// A request that waits for its point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    number: u64,
    request: Request,
}

impl Engine {
    pub(crate) fn want_point(&mut self, now: Time) {
        self.wishes += 1;
        self.point_due = self.point_due.min(now);
    }

    pub(crate) fn request(&mut self, now: Time, request: Request) {
        self.want_point(now);
        self.requests.push(Wish { number: self.wishes, request });
    }

    /// An application-consistent point may be due.
    pub(super) fn wish_by_schedule(&mut self, now: Time) {
        let (Some(due), Some(interval)) = (self.application_due, self.limits.application_interval) else {
            return;
        };
        if now >= due {
            self.application_due = Some(now + interval);
            self.want_point(now);
            self.application_wish = Some(self.wishes);
        }
    }

    /// Whether the next cut shall be application-consistent. The policy may rule that out.
    pub(super) fn application_wanted(&self) -> bool {
        let requested = self.requests.iter().any(|wish| wish.request.application);
        self.limits.cut_policy != CutPolicy::Optimistic && (requested || self.application_wish.is_some())
    }

    /// Why a point without the applications' help is less than was wanted.
    pub(super) fn application_shortfall(&self) -> Option<String> {
        let served = self.served().any(|wish| wish.request.application)
            || self.application_wish.is_some_and(|number| number <= self.cycle.served);
        if !served {
            return None;
        }
        let attempt = &self.cycle.cut;
        Some(match attempt.told() {
            Some(Err(reason)) => format!("the applications could not be told: {reason}"),
            Some(Ok(true)) => "the file systems could not be frozen".to_owned(),
            Some(Ok(false)) => "there is no application to be told: no script is installed".to_owned(),
            None if self.limits.cut_policy == CutPolicy::Optimistic => {
                "the cut policy rules out freezing file systems".to_owned()
            }
            None => "there is nothing on the disks that can be frozen, so the applications were not told"
                .to_owned(),
        })
    }

    fn served(&self) -> impl Iterator<Item = &Wish> {
        self.requests.iter().filter(|wish| wish.number <= self.cycle.served)
    }

    /// The requests that the cut under way serves.
    pub(super) fn served_requests(&self) -> Vec<u64> {
        self.served().map(|wish| wish.request.id).collect()
    }

    /// A point has been committed whose cut served all wishes up to `number`.
    pub(super) fn wishes_served(&mut self, number: u64) {
        self.requests.retain(|wish| wish.number > number);
        self.application_wish = self.application_wish.filter(|&wish| wish > number);
    }

    /// How much was dirtied each second since the last point.
    pub(super) fn dirty_rate(&self, now: Time) -> ByteCount {
        let blocks: u64 = self.disks.values().map(|disk| disk.changed).sum();
        let millis = self.last_point.map_or(1000, |last| now.since(last).as_millis()).max(1);
        ByteCount(u64::try_from(u128::from(blocks) * BLOCK_SIZE as u128 * 1000 / millis).unwrap_or(u64::MAX))
    }
}
