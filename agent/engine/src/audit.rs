//! The audit: because a tracker cannot prove that it saw everything, the disk is read slowly all the time and compared
//! with the head.
//!
//! One window at a time, only between cycles, so that whatever changed since the head is still marked while the window is
//! compared. Deliberately not here: the comparison.

use std::time::Duration;

use mobility_format::{BlockRange, BlockSet, DiskId, WINDOW_BLOCKS};

use crate::{Action, Engine, Time, cycle::Phase, disk::Disk};

fn auditable(disk: &Disk, now: Time) -> bool {
    let settled = disk.continuous() && disk.in_head && disk.verified() && disk.size.0 > 0;
    // A write in flight that nobody saw being issued would look like one that was missed.
    settled && !disk.gone && disk.fault.is_none() && !disk.unseen(now)
}

impl Engine {
    pub(crate) fn audit_wakeup(&self, now: Time) -> Option<Time> {
        if self.rests() {
            return None;
        }
        let idle = self.phase == Phase::Idle && self.audit.is_none();
        let due = self.disks.values().filter(|disk| auditable(disk, now)).map(|disk| disk.audit.due).min()?;
        idle.then(|| due.max(now))
    }

    /// Starts the comparison of a window, if one is due.
    pub(crate) fn start_audit(&mut self, now: Time) -> bool {
        let due = |disk: &&mut Disk| auditable(disk, now) && disk.audit.due <= now;
        let Some(disk) = self.disks.values_mut().filter(due).min_by_key(|disk| disk.audit.due) else {
            return false;
        };
        let windows = disk.whole().count.div_ceil(WINDOW_BLOCKS);
        let window = disk.audit.next % windows;
        disk.audit.next = window + 1;
        let pace = self.limits.audit_round / u32::try_from(windows).unwrap_or(u32::MAX);
        disk.audit.due = now + pace.max(self.limits.audit_pause).max(Duration::from_millis(1));
        let range = BlockRange::new(window * WINDOW_BLOCKS, WINDOW_BLOCKS).intersection(disk.whole());
        let mut blocks = BlockSet::of(range);
        blocks.subtract(&disk.owed);
        // A cycle that waits for a disk to be readable again has sent what the head does not have.
        blocks.subtract(&disk.sent);
        blocks.subtract(&disk.suspects());
        self.audit = Some(disk.id);
        self.actions.push_back(Action::Audit(disk.id, blocks));
        true
    }

    pub(crate) fn on_audited(&mut self, now: Time, id: DiskId, checked: u64, missed: &BlockSet) {
        self.audit = None;
        self.with_disk(id, |disk| {
            disk.audit.checked += checked;
            disk.audit.missed += missed.len();
        });
        if !missed.is_empty() && self.disks.contains_key(&id) {
            let blocks = missed.len();
            self.unverify(
                id,
                format!("the audit found {blocks} blocks changed that the tracker had not marked"),
            );
            self.point_due = now;
        }
    }
}
