//! Segments on their way: which wait, which are being put, which failed and when they are tried again.
//!
//! While the storage fails, one upload at a time probes it. Deliberately not here: what is in a segment.

use std::collections::{BTreeMap, BTreeSet};

use mobility_format::ByteCount;

use crate::{Action, Fault, Limits, SegmentId, Time, retry};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
}

/// What the storage has been answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The last failure.
    pub fault: Fault,
    /// Since when everything has failed.
    pub since: Time,
    /// When it is tried again.
    pub retry_at: Time,
    /// How many failures in a row.
    pub failures: u32,
}

impl Outage {
    /// Whether the storage has wished to be left alone until later.
    fn wants_rest(&self, now: Time) -> bool {
        self.fault.wait.is_some() && now < self.retry_at
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Uploads {
    segments: BTreeMap<SegmentId, (State, ByteCount)>,
    /// Segments that nobody wants any more, but whose upload runs and counts among those that may.
    void: BTreeSet<SegmentId>,
    outage: Option<Outage>,
    /// The earliest time at which the rate limit allows the next upload.
    paced_until: Time,
    pub(crate) uploaded: ByteCount,
}

impl Uploads {
    pub(crate) fn add(&mut self, segment: SegmentId, length: ByteCount) {
        self.segments.insert(segment, (State::Waiting, length));
    }

    pub(crate) fn all_durable(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.segments.len()
    }

    /// How long those of `segments` are that are not durable.
    pub(crate) fn in_memory(&self, segments: &[SegmentId]) -> ByteCount {
        let lengths = segments.iter().filter_map(|id| self.segments.get(id));
        ByteCount(lengths.map(|(_, length)| length.0).sum())
    }

    pub(crate) fn forget_all(&mut self) {
        let segments = std::mem::take(&mut self.segments);
        self.void
            .extend(segments.iter().filter(|(_, (state, _))| *state == State::Running).map(|(&id, _)| id));
    }

    pub(crate) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// The storage failed, in an upload or in a commit.
    pub(crate) fn failed(
        &mut self,
        now: Time,
        mut fault: Fault,
        limits: &Limits,
        jitter: &mut retry::Jitter,
    ) -> Time {
        let (since, failures) =
            self.outage.as_ref().map_or((now, 1), |o| (o.since, o.failures.saturating_add(1)));
        let mut retry_at = now + retry::backoff(limits, failures, fault.wait, jitter);
        // What another upload was told a moment ago counts still.
        if let Some(asked) = self.outage.as_ref().filter(|outage| outage.wants_rest(now)) {
            retry_at = retry_at.max(asked.retry_at);
            fault.wait = fault.wait.or(asked.fault.wait);
        }
        self.outage = Some(Outage { fault, since, retry_at, failures });
        retry_at
    }

    /// The storage took something. One that wished to be left alone is, all the same: what was under way does not count.
    pub(crate) fn works(&mut self, now: Time) {
        self.outage = self.outage.take().filter(|outage| outage.wants_rest(now));
    }

    /// Takes in how an upload ended. A segment that was forgotten meanwhile is none of our business.
    pub(crate) fn done(&mut self, segment: SegmentId, ok: bool) {
        self.void.remove(&segment);
        if ok {
            if let Some((_, length)) = self.segments.remove(&segment) {
                self.uploaded.0 += length.0;
            }
        } else if let Some((state, _)) = self.segments.get_mut(&segment) {
            *state = State::Waiting;
        }
    }

    /// The uploads that may start now.
    pub(crate) fn start(&mut self, now: Time, limits: &Limits) -> Vec<Action> {
        let running = self.segments.values().filter(|(state, _)| *state == State::Running);
        let mut running = self.void.len() + running.count();
        let most = match &self.outage {
            Some(outage) if now < outage.retry_at => 0,
            Some(_) => 1,
            None => limits.uploads,
        };
        let mut actions = Vec::new();
        for (&segment, (state, length)) in &mut self.segments {
            if running >= most || now < self.paced_until {
                break;
            }
            if *state == State::Waiting {
                *state = State::Running;
                running += 1;
                actions.push(Action::Upload(segment));
                if let Some(rate) = limits.upload_rate {
                    let millis = length.0.saturating_mul(1000) / rate.0.max(1);
                    self.paced_until = Time(now.0.saturating_add(millis));
                }
            }
        }
        actions
    }

    /// When something may start that may not now.
    pub(crate) fn wakeup(&self, now: Time) -> Option<Time> {
        self.segments.values().find(|(state, _)| *state == State::Waiting)?;
        let retry_at = self.outage.as_ref().map_or(now, |outage| outage.retry_at);
        let at = retry_at.max(self.paced_until);
        (at > now).then_some(at)
    }
}
