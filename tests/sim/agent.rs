//! The model shell around the real engine: what one run of the agent's process has in memory.
//!
//! All of it is gone when the process is killed. Deliberately not here: the steps of a job (`jobs`, `cut_job`), and the
//! requests that are on their way to the service (`requests`).

use std::collections::BTreeMap;

use mobility_engine::{Engine, SegmentId};
use mobility_format::BlockSet;

use crate::{
    device::{Content, ZERO},
    jobs::Job,
    service::{Images, Key},
};

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) key: Key,
    pub(crate) blocks: Vec<(u64, Content)>,
    pub(crate) durable: bool,
}

pub(crate) struct Agent {
    pub(crate) engine: Engine,
    /// Which run it is.
    pub(crate) life: u64,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    pub(crate) parts: u64,
    /// The digest table: what the head holds, as this process knows it.
    pub(crate) head: Images,
    /// What was sent of each disk in this epoch, which a confirming scan compares with.
    pub(crate) sent: Vec<BTreeMap<u64, Content>>,
    /// What was issued to each disk since it was idle: what a missed completion may have been about.
    pub(crate) unsettled: Vec<BlockSet>,
    /// Disks whose tracker no drain of this process has looked at yet.
    pub(crate) unattended: Vec<bool>,
    pub(crate) uploads: usize,
    /// Failures of the storage in a row, and until when the engine has to leave it alone.
    pub(crate) failures: u32,
    pub(crate) hands_off_until: u64,
    /// Until when it was asked to.
    pub(crate) left_alone_until: u64,
    pub(crate) wake_at: Option<u64>,
    /// When the first of the current epoch's confirming scans began.
    pub(crate) confirming_since: u64,
    pub(crate) stopped: bool,
}

impl Agent {
    pub(crate) fn in_memory(&self) -> usize {
        self.segments.values().filter(|segment| !segment.durable).count()
    }

    pub(crate) fn busy(&self, disk: usize) -> bool {
        self.jobs.values().any(|job| job.disks().contains(&disk))
    }

    pub(crate) fn takes_touched(&self) -> bool {
        self.jobs.values().any(|job| matches!(job, Job::Cut(cut) if cut.is_taking_touched()))
    }

    pub(crate) fn head_content(&self, disk: usize, block: u64) -> Content {
        self.head.get(disk).and_then(|image| image.get(block as usize)).copied().unwrap_or(ZERO)
    }

    pub(crate) fn sent_content(&self, disk: usize, block: u64) -> Content {
        self.sent[disk].get(&block).copied().unwrap_or_else(|| self.head_content(disk, block))
    }

    pub(crate) fn forget_epoch(&mut self) {
        self.segments.clear();
        self.sent.iter_mut().for_each(BTreeMap::clear);
    }
}
