//! The writes that are with the device at this moment, in a table with a slot for each tag of each hardware queue.
//!
//! The kernel's programs fill a slot at issue and free it at completion. Two things can leave a slot filled after its
//! write has ended: a completion program that did not run, until the tag is used again, and nothing else. A slot is taken
//! for ended when the disk certainly had nothing in flight, or after longer than any driver lets a request live.
//!
//! Deliberately not here: what is owed because of a write in flight (`tracker`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use aya::maps::MapData;
use mobility_format::{BlockRange, BlockSet};

use super::mapping::Mapping;

/// SCSI and NVMe give up on a request after 30 s by default, and then end it with an error, which is a completion.
pub(super) const REQUEST_LIFETIME: Duration = Duration::from_secs(60);

/// `EVERYWHERE` of the BPF program: a request with several ranges.
const EVERYWHERE: u64 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 24;

/// How many slots a device's table needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableSize {
    pub(super) queues: u32,
    pub(super) tags: u32,
}

impl TableSize {
    /// From `/sys/block/<disk>/mq`, at most a million slots (16 MiB). Where a device gets more queues or tags later, the
    /// program counts the writes that have no slot.
    ///
    /// # Errors
    /// The disk has no queues of its own: it is bio-based (device-mapper, md, a multipath head), or it is gone.
    pub(super) fn of_disk(sysfs_name: &str) -> io::Result<TableSize> {
        let dir = Path::new("/sys/block").join(sysfs_name).join("mq");
        let mut size = TableSize { queues: 0, tags: 1 };
        for queue in fs::read_dir(dir)? {
            let tags = fs::read_to_string(queue?.path().join("nr_tags"))?;
            size.tags = size.tags.max(tags.trim().parse().unwrap_or(1));
            size.queues += 1;
        }
        size.queues = size.queues.clamp(1, 4096);
        size.tags = size.tags.min((1 << 20) / size.queues);
        Ok(size)
    }

    pub(super) fn slots(self) -> u32 {
        self.queues * self.tags
    }
}

/// Which blocks writes may be changing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    /// The blocks of writes whose range is known.
    pub(super) blocks: BlockSet,
    /// There is also a write with several ranges.
    pub(super) everywhere: bool,
}

impl InFlight {
    /// Those of `candidates` that may be changing.
    pub(super) fn within(self, candidates: &BlockSet) -> BlockSet {
        if self.everywhere { candidates.clone() } else { self.blocks.intersection(candidates) }
    }
}

/// A slot filled by a write that has certainly ended, or that has been there for some time.
#[derive(Clone, Copy)]
struct Seen {
    usage: u64,
    since: Instant,
    ended: bool,
}

/// The table, mapped, and which of its slots are stale.
pub(super) struct Flights {
    table: Mapping,
    seen: BTreeMap<usize, Seen>,
}

impl Flights {
    pub(super) fn map(map: &MapData) -> io::Result<Flights> {
        let slots = map.info().map_err(io::Error::other)?.max_entries();
        Ok(Flights { table: Mapping::of(map, slots as usize * 2)?, seen: BTreeMap::new() })
    }

    /// What is in flight now.
    pub(super) fn now(&self) -> InFlight {
        self.filled().filter(|filled| !self.has_ended(filled)).collect()
    }

    /// What is in flight now. Where a slot was filled by the same write when this was called before, `is_idle` is asked
    /// afterwards, which may take milliseconds: if nothing was in flight then, for certain, all of these have ended and will
    /// not be reported again.
    pub(super) fn observe(&mut self, is_idle: impl FnOnce() -> bool, now: Instant) -> InFlight {
        let filled: Vec<_> = self.filled().collect();
        let found = filled.iter().copied().filter(|filled| !self.has_ended(filled)).collect();
        let before = std::mem::take(&mut self.seen);
        let stays = |filled: &Filled| {
            before.get(&filled.slot).is_some_and(|seen| seen.usage == filled.usage && !seen.ended)
        };
        let idle = filled.iter().any(stays) && is_idle();
        for Filled { slot, usage, .. } in filled {
            let first_seen = Seen { usage, since: now, ended: false };
            let mut seen =
                before.get(&slot).copied().filter(|seen| seen.usage == usage).unwrap_or(first_seen);
            seen.ended |= idle || now.duration_since(seen.since) >= REQUEST_LIFETIME;
            self.seen.insert(slot, seen);
        }
        found
    }

    /// Whether every slot is free, or its write has ended.
    pub(super) fn all_ended(&self) -> bool {
        self.filled().all(|filled| self.has_ended(&filled))
    }

    fn has_ended(&self, filled: &Filled) -> bool {
        self.seen.get(&filled.slot).is_some_and(|seen| seen.ended && seen.usage == filled.usage)
    }

    fn filled(&self) -> impl Iterator<Item = Filled> {
        self.table.words().chunks_exact(2).enumerate().filter_map(|(slot, words)| read_slot(slot, words))
    }
}

/// A slot that is not free.
#[derive(Clone, Copy)]
struct Filled {
    slot: usize,
    usage: u64,
    range: u64,
}

/// A slot that changes while it is read is read again.
fn read_slot(slot: usize, words: &[AtomicU64]) -> Option<Filled> {
    let [range_word, usage_word] = words else { return None };
    loop {
        let range = range_word.load(SeqCst);
        if range == 0 {
            return None;
        }
        let usage = usage_word.load(SeqCst);
        if range_word.load(SeqCst) == range {
            return Some(Filled { slot, usage, range });
        }
    }
}

impl FromIterator<Filled> for InFlight {
    fn from_iter<I: IntoIterator<Item = Filled>>(slots: I) -> Self {
        let mut found = InFlight::default();
        for Filled { range, .. } in slots {
            if range & EVERYWHERE == EVERYWHERE {
                found.everywhere = true;
            } else {
                found.blocks.insert_range(BlockRange::new(range >> COUNT_BITS, range & EVERYWHERE));
            }
        }
        found
    }
}
