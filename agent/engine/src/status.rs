//! What the engine is doing, for people.
//!
//! Deliberately not here: wording beyond one state word per thing, and anything the engine does not decide by.

use std::time::Duration;

use mobility_format::{ByteCount, DiskId, Epoch, Generation};

use crate::{Engine, Fault, Outage, Time, cycle::Phase, disk::Disk};

/// The state of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskPhase {
    /// Its content is being sent for the first time.
    InitialReplication,
    /// It is being compared with the head.
    Resync,
    /// Every change is tracked.
    Protected,
    /// It cannot be read.
    Failing,
    /// It is not there.
    Gone,
}

/// A disk in a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Which.
    pub id: DiskId,
    /// Its state.
    pub phase: DiskPhase,
    /// Its size.
    pub size: ByteCount,
    /// How much is known to have changed and is not durable.
    pub owed: ByteCount,
    /// How much must be compared or sent before it is protected.
    pub unverified: ByteCount,
    /// How much there is to send, as far as is known, and not durable yet: what is owed or unverified, what is being compared or
    /// read, and the segments that wait.
    pub backlog: ByteCount,
    /// Why it is being compared.
    pub resync: Option<String>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
    /// Blocks that the audit has compared.
    pub audited_blocks: u64,
    /// Blocks that the audit found missed.
    pub missed_blocks: u64,
}

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub phase: &'static str,
    /// The current generation.
    pub generation: Generation,
    /// The epoch being made.
    pub epoch: Epoch,
    /// When the last recovery point was committed.
    pub last_point: Option<Time>,
    /// When the next is due.
    pub point_due: Time,
    /// From one to the next, as it is in force.
    pub interval: Duration,
    /// Cuts tried in this cycle.
    pub tries: u32,
    /// Segments in memory.
    pub segments: usize,
    /// What has been uploaded since the start.
    pub uploaded: ByteCount,
    /// What is wrong with the storage.
    pub outage: Option<Outage>,
    /// All disks.
    pub disks: Vec<DiskStatus>,
}

impl Engine {
    /// What the engine is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase_name(),
            generation: self.generation,
            epoch: self.epoch,
            last_point: self.last_point,
            point_due: self.point_due,
            interval: self.limits.interval,
            tries: self.cycle.tries(),
            segments: self.uploads.waiting(),
            uploaded: self.uploads.uploaded,
            outage: self.uploads.outage().cloned(),
            disks: self.disks.values().map(|disk| self.disk_status(disk)).collect(),
        }
    }

    fn disk_status(&self, disk: &Disk) -> DiskStatus {
        let phase = match () {
            () if disk.gone => DiskPhase::Gone,
            () if disk.fault.is_some() => DiskPhase::Failing,
            () if disk.initial => DiskPhase::InitialReplication,
            () if disk.resync.is_some() || !disk.verified() => DiskPhase::Resync,
            () => DiskPhase::Protected,
        };
        DiskStatus {
            id: disk.id,
            phase,
            size: disk.size,
            owed: disk.owed.bytes(),
            unverified: disk.unverified.bytes(),
            backlog: self.backlog(disk),
            resync: disk.resync.clone(),
            fault: disk.fault.clone(),
            audited_blocks: disk.audit.checked,
            missed_blocks: disk.audit.missed,
        }
    }

    fn backlog(&self, disk: &Disk) -> ByteCount {
        let comparing = self.cycle.comparing.get(&disk.id).map_or(0, |blocks| blocks.bytes().0);
        let reading = match &self.phase {
            Phase::Copy(waiting) if waiting.contains(&disk.id) => disk.last_read.0,
            Phase::CutPacking if disk.continuous() => disk.last_read.0,
            _ => 0,
        };
        let unscanned = if disk.unscanned() { disk.size.0 } else { 0 };
        let waiting = self.uploads.in_memory(&disk.segments).0;
        ByteCount(disk.owed.bytes().0 + disk.unverified.bytes().0 + comparing + reading + waiting + unscanned)
    }
}

impl Engine {
    fn phase_name(&self) -> &'static str {
        match &self.phase {
            Phase::Idle if self.rests() => "paused",
            Phase::Generation | Phase::RetryGeneration(_) => "starting",
            Phase::Idle => "idle",
            Phase::Collect(_) => "collecting",
            Phase::Compare(_) => "comparing",
            Phase::Copy(_) => "copying",
            Phase::Sync
            | Phase::Quiesce
            | Phase::Cut
            | Phase::CutPacking
            | Phase::Pause(_)
            | Phase::Confirm(_) => "cutting",
            Phase::Flush => "uploading",
            Phase::Commit | Phase::RetryCommit(_) => "committing",
            Phase::Stopped => "stopped",
        }
    }
}
