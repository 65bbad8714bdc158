//! The end of a cycle: what goes into the commit, and what follows from it.
//!
//! What is committed is fixed when that is decided. What happens to a disk while the rest becomes durable is of the next
//! epoch. Deliberately not here: how a cycle gets there.

use std::collections::{BTreeMap, BTreeSet};

use mobility_format::{
    BLOCK_SIZE, ByteCount,
    manifest::{Consistency, CutMethod},
};

use super::Phase;
use crate::{Action, CommitDisk, CommitKind, Engine, PointFigures, Time, disk::Disk, engine::StopWish};

/// Checkpoints in a row that did not make less what is owed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    least: Option<ByteCount>,
    stuck: u32,
}

impl Backlog {
    /// Another checkpoint is needed for `owed`. True if it is no use, for as much is written as is sent.
    pub(super) fn grows(&mut self, owed: ByteCount, most: u32) -> bool {
        if self.least.is_none_or(|least| owed < least) {
            self.least = Some(owed);
            return false;
        }
        self.stuck += 1;
        self.stuck > most
    }
}

impl Engine {
    pub(super) fn flush_point(&mut self, now: Time) {
        // A disk that came after the cut is as much missing as one that went before it.
        let late = |disk: &&Disk| !self.cycle.cut_disks.contains_key(&disk.id);
        let late: Vec<_> = self.disks.values().filter(late).map(|disk| disk.id).collect();
        self.cycle.excluded.extend(late);
        let missing: Vec<_> = self.missing().map(|disk| disk.id.to_string()).collect();
        let mut figures = self.point_figures();
        if figures.consistency != Consistency::Application {
            figures.shortfall = self.application_shortfall();
        }
        let kind = match missing.is_empty() {
            true => CommitKind::Point(figures),
            false => CommitKind::Fuzzy(figures, format!("without disk {}", missing.join(", "))),
        };
        self.flush(now, kind);
    }

    fn missing(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values().filter(|disk| disk.gone || self.cycle.excluded.contains(&disk.id))
    }

    pub(super) fn point_figures(&self) -> PointFigures {
        let changed: u64 = self.disks.values().map(|disk| disk.changed).sum();
        let attempt = &self.cycle.cut;
        let frozen = attempt.freezes && self.cycle.figures.frozen;
        let polled = self.active().any(|disk| !disk.continuous());
        PointFigures {
            cut: self.cycle.figures,
            method: match () {
                () if self.active().all(|disk| !disk.continuous()) => CutMethod::Scan,
                () if attempt.freezes => CutMethod::Freeze,
                () => CutMethod::Optimistic,
            },
            consistency: match frozen && !polled {
                true if attempt.application() => Consistency::Application,
                true => Consistency::FileSystem,
                false => Consistency::Crash,
            },
            tries: attempt.instants,
            changed: ByteCount(changed * BLOCK_SIZE as u64),
            shortfall: None,
            requests: self.served_requests(),
        }
    }

    /// Decides what the epoch is; what is on its way has to become durable yet.
    pub(super) fn flush(&mut self, now: Time, kind: CommitKind) {
        if self.cycle.new_generation.is_some() {
            self.phase = Phase::Idle;
            self.point_due = self.point_due.min(now);
            return;
        }
        let missing: BTreeSet<_> = self.missing().map(|disk| disk.id).collect();
        if kind != CommitKind::Checkpoint {
            // In a point a disk that could not be read stays as it was in the one before, not as far as it came.
            missing.iter().for_each(|&id| self.with_disk(id, Disk::give_up));
        }
        let sizes = if matches!(kind, CommitKind::Point(_)) {
            std::mem::take(&mut self.cycle.cut_disks)
        } else {
            BTreeMap::new()
        };
        let state = |disk: &Disk| CommitDisk {
            id: disk.id,
            size: sizes.get(&disk.id).copied().unwrap_or(disk.size),
            segments: disk.segments.clone(),
            missing: missing.contains(&disk.id) && disk.segments.is_empty(),
            audited: disk.audit.checked,
            missed: disk.audit.missed,
        };
        let disks = self.disks.values().map(state).collect();
        self.cycle.commit = Some((kind, disks));
        self.phase = Phase::Flush;
    }

    pub(super) fn commit(&mut self) {
        let Some((kind, disks)) = self.cycle.commit.clone() else { return };
        let (generation, epoch) = (self.generation, self.epoch);
        self.actions.push_back(Action::Commit { generation, epoch, kind, disks });
        self.phase = Phase::Commit;
    }

    pub(crate) fn committed(&mut self, now: Time) {
        let epoch = self.epoch;
        self.epoch = epoch.next();
        for disk in self.disks.values_mut() {
            let left = disk.settle(epoch);
            self.actions.push_back(Action::Settle(disk.id, left));
        }
        let cycle = std::mem::take(&mut self.cycle);
        // A wish that came while the commit was under way.
        self.cycle.new_generation = cycle.new_generation;
        self.phase = Phase::Idle;
        if matches!(cycle.commit, Some((CommitKind::Checkpoint, _)) | None) {
            // Disks that cannot be read must not keep the others from their point again and again.
            self.cycle.excluded = cycle.excluded;
            self.point_due = now;
            return;
        }
        self.backlog = Backlog::default();
        self.disks.values_mut().for_each(|disk| disk.changed = 0);
        self.last_point = Some(now);
        self.point_due = (cycle.started.unwrap_or(now) + self.limits.interval).max(now);
        self.wishes_served(cycle.served);
        if cycle.served < self.wishes {
            self.point_due = now;
        } else if self.stop == Some(StopWish::AfterPoint) {
            self.stop = Some(StopWish::Now);
        }
    }
}
