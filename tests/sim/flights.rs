//! A model of the table of writes in flight: a slot for each tag of the device, filled when a write is seen being issued, freed
//! when its completion is seen, and overwritten when the tag is used again.
//!
//! The table is the kernel's and outlives the agent; which of its slots are stale is known to one run of the agent alone.
//! Deliberately not here: how the device gives out tags (`device`).

use std::collections::BTreeMap;

use mobility_format::{BlockRange, BlockSet};

pub(crate) type Tag = usize;

/// No request lives longer, in microseconds: the agent gives a slot up after this time.
const LIFETIME: u64 = 60_000_000;

#[derive(Clone, Copy, Debug)]
struct Filled {
    range: BlockRange,
    /// Tells one use of a tag from the next.
    usage: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    usage: u64,
    since: u64,
    ended: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Flights {
    slots: BTreeMap<Tag, Filled>,
    usages: u64,
    seen: BTreeMap<Tag, Seen>,
}

impl Flights {
    pub(crate) fn issued(&mut self, tag: Tag, range: BlockRange) {
        self.usages += 1;
        self.slots.insert(tag, Filled { range, usage: self.usages });
    }

    pub(crate) fn completed(&mut self, tag: Tag) {
        self.slots.remove(&tag);
    }

    /// A new run of the agent knows nothing of the slots.
    pub(crate) fn forget_seen(&mut self) {
        self.seen.clear();
    }

    /// The blocks of the writes that are in flight, as far as the table knows.
    pub(crate) fn now(&self) -> BlockSet {
        let stale = |tag: &Tag, filled: &Filled| {
            self.seen.get(tag).is_some_and(|seen| seen.ended && seen.usage == filled.usage)
        };
        let mut blocks = BlockSet::new();
        let filled = self.slots.iter().filter(|(tag, filled)| !stale(tag, filled));
        filled.for_each(|(_, filled)| blocks.insert_range(filled.range));
        blocks
    }

    /// The same. Where nothing is in flight afterwards, all of these have ended and are not reported again.
    pub(crate) fn observe(&mut self, idle: bool, now: u64) -> BlockSet {
        let found = self.now();
        let before = std::mem::take(&mut self.seen);
        for (&tag, &Filled { usage, .. }) in &self.slots {
            let first = Seen { usage, since: now, ended: false };
            let mut seen = before.get(&tag).copied().filter(|seen| seen.usage == usage).unwrap_or(first);
            seen.ended |= idle || now - seen.since >= LIFETIME;
            self.seen.insert(tag, seen);
        }
        found
    }
}
