//! A disk's tracker: the bitmaps, and the order in which bits move between them so that no write is ever lost.
//!
//! Why none is, whatever completion marks are missed: let a write W to block X be issued, and let drain k be the first whose
//! taking of *touched* comes after. X is then in its `touched`. If W had ended on the device by the time that drain k read
//! the table of writes in flight, whoever reads X after drain k reads W's content. If it had not, X was in the table, and
//! drain k + 1 reports X as dirty once more, and so on until W has ended. So whoever reads `dirty` and `touched` of every
//! drain misses nothing; the marks at completion only make it unnecessary to read twice what has one.
//!
//! Deliberately not here: how programs get into the kernel (`pinned`), and which of those found may be used (`adopt`).

use std::{fs, io, path::Path, time::Instant};

use mobility_format::{BlockSet, ByteCount};

use super::{
    Continuity, Drained, TrackedDisk, adopt,
    canary::Canary,
    counters::{Cost, Counters},
    error::{TrackerError, Unsupported},
    flights::{InFlight, REQUEST_LIFETIME},
    idle,
    pinned::{self, Pinned},
    state::State,
    supported,
};

/// Tracks the changed blocks of one disk. Dropping it stops nothing: the kernel goes on marking, and the next
/// [`Tracker::open`] takes up from there; [`Tracker::remove`] ends it.
///
/// One process at a time may use the tracker of a disk; that is the caller's to see to.
pub struct Tracker {
    disk: TrackedDisk,
    pinned: Pinned,
    state: State,
    /// What was in flight when *dirty* or *touched* were last taken: dirty, until the next taking.
    carried: BlockSet,
    /// What an earlier process found and did not repair, or could not know, for the first drain to report: misses at issue,
    /// unranged writes.
    inherited: (bool, bool),
    canary: Canary,
    /// Since when a write may be in flight that no program saw being issued.
    unseen: Option<Instant>,
}

impl Tracker {
    /// Whether this machine can run the tracker, found out without loading anything.
    ///
    /// # Errors
    /// What is missing, with what to do about it.
    pub fn supported() -> Result<(), Unsupported> {
        supported::supported()
    }

    /// Takes up the tracker that is pinned for `disk` under `pin_root`, or starts one.
    ///
    /// One made by another version of the BPF object is taken over: the new programs are attached before the old go. After
    /// [`Continuity::Started`] every block of the disk counts as changed.
    ///
    /// # Errors
    /// The machine cannot run it, the kernel refuses the programs, or the pins cannot be made.
    pub fn open(disk: &TrackedDisk, pin_root: &Path) -> Result<(Tracker, Continuity), TrackerError> {
        Tracker::open_with_spin(disk, pin_root, 0)
    }

    /// As [`Tracker::open`], with programs that idle for `spin` rounds (at most 100,000) when they are started
    /// anew: how a test makes the kernel skip runs. Never use it otherwise.
    ///
    /// # Errors
    /// As [`Tracker::open`].
    #[doc(hidden)]
    pub fn open_with_spin(
        disk: &TrackedDisk,
        pin_root: &Path,
        spin: u32,
    ) -> Result<(Tracker, Continuity), TrackerError> {
        Tracker::supported()?;
        let (pinned, state, continuity) = adopt::adopt_or_start(disk, pin_root, spin)?;
        // Whoever starts a tracker knows that it has not seen everything; those who come after it are told.
        let unseen = state.unsettled.is_some() && continuity == Continuity::Continued;
        let inherited = (state.issue_missed || unseen, state.unranged);
        let (disk, carried, canary) = (disk.clone(), BlockSet::new(), Canary::default());
        // What was in flight when the programs were attached.
        let unseen = state.unsettled.map(|_| Instant::now());
        Ok((Tracker { disk, pinned, state, carried, inherited, canary, unseen }, continuity))
    }

    /// The disk it is of.
    #[must_use]
    pub fn disk(&self) -> &TrackedDisk {
        &self.disk
    }

    /// Moves what was marked since the last drain into *pending*, first from *dirty*, then from *touched*, and reads the
    /// counters of missed runs. Whoever reads the blocks of both after this has returned, for every drain, misses nothing.
    pub fn drain(&mut self) -> Drained {
        // Where the count cannot be read the disk is gone, which others notice.
        let count = Canary::count(&self.disk.sysfs_name);
        let dirty = self.take_dirty();
        let touched = self.take_touched();
        let marked = !dirty.is_empty() || !touched.is_empty();
        let blind = count.is_ok_and(|count| self.canary.is_dead(count, marked));
        let drained = Drained { dirty, touched, blind, ..self.account() };
        if drained.issue_missed {
            self.unseen = Some(Instant::now());
        }
        drained
    }

    /// Whether there was a moment during this call in which nothing was in flight, and the marks of every write that had
    /// been seen by then are there. Takes some milliseconds where a write may be in flight that nobody saw being issued.
    pub fn idle(&mut self) -> bool {
        let in_flight = in_flight(&self.disk.sysfs_name);
        if self.unseen.is_some_and(|since| since.elapsed() < REQUEST_LIFETIME) {
            if !is_certainly_zero(&in_flight) {
                return false;
            }
            self.unseen = None;
        }
        // A slot is filled before the write is counted, and freed after it was marked.
        in_flight().is_ok_and(|writes| writes == 0) && self.pinned.flights.all_ended()
    }

    /// Moves *dirty* into *pending*, and what was in flight at the last taking with it. Unlike [`Tracker::drain`] it does not
    /// look at the counters.
    pub fn take_dirty(&mut self) -> BlockSet {
        let mut dirty = self.pinned.bits.dirty.take(&self.pinned.bits.pending);
        dirty.union_with(&std::mem::take(&mut self.carried));
        self.carry();
        dirty
    }

    /// Clears *touched*: the first step of a consistent cut. The blocks go to *pending*, for the completion of their writes
    /// may never be marked.
    pub fn take_touched(&mut self) -> BlockSet {
        let touched = self.pinned.bits.touched.take(&self.pinned.bits.pending);
        if !touched.is_empty() {
            self.canary.sang();
        }
        self.carry();
        touched
    }

    /// Keeps what is in flight now for the next taking.
    fn carry(&mut self) {
        let idle = in_flight(&self.disk.sysfs_name);
        let flights = self.pinned.flights.observe(|| is_certainly_zero(&idle), Instant::now());
        let mut in_flight = match self.counted_untabled() {
            true if idle().map_or(true, |writes| writes > 0) => InFlight { everywhere: true, ..flights },
            _ => flights,
        };
        if std::mem::take(&mut in_flight.everywhere) {
            in_flight.blocks.union_with(&self.pinned.bits.pending.peek());
        }
        self.pinned.bits.pending.insert(&in_flight.blocks);
        self.carried.union_with(&in_flight.blocks);
    }

    fn counted_untabled(&self) -> bool {
        self.pinned.untabled().map_or(true, |count| count > 0)
    }

    /// Compares the counters with those dealt with, and notes what was found in the pinned state, so that it is not forgotten
    /// if this process is killed.
    fn account(&mut self) -> Drained {
        let (issue_missed, passthrough) = std::mem::take(&mut self.inherited);
        let Ok(now) = self.pinned.counters() else {
            return Drained { issue_missed: true, passthrough, ..Drained::default() };
        };
        let seen = self.state.seen;
        let found = Drained {
            completion_missed: now.completion_misses > seen.completion_misses,
            issue_missed: now.issue_misses > seen.issue_misses,
            passthrough: now.unranged > seen.unranged,
            out_of_range: now.out_of_range > seen.out_of_range,
            ..Drained::default()
        };
        self.note(now, &found);
        Drained {
            issue_missed: found.issue_missed || issue_missed,
            passthrough: found.passthrough || passthrough,
            ..found
        }
    }

    fn note(&mut self, counters: Counters, found: &Drained) {
        let mut state = self.state;
        state.seen = Counters { cost: Cost::default(), skipped_runs: 0, ..counters };
        state.issue_missed |= found.issue_missed;
        state.unranged |= found.passthrough;
        state.unsettled = state.unsettled.filter(|since| !self.settles(*since));
        // Where it cannot be written, the next process will find the same growth again.
        if state != self.state && self.pinned.set_state(&state).is_ok() {
            self.state = state;
        }
    }

    /// Whether whatever was in flight when the tracker was started at `since`, unseen, has ended by now.
    fn settles(&self, since: u64) -> bool {
        let age = adopt::now_ms().saturating_sub(since);
        u128::from(age) > REQUEST_LIFETIME.as_millis() || is_certainly_zero(&in_flight(&self.disk.sysfs_name))
    }

    /// Forgets what [`Drained::issue_missed`] and [`Drained::passthrough`] have reported: call it when a comparison of the
    /// whole disk, begun after they were reported, is durable. Until then every process that opens the tracker gets them
    /// reported by its first drain. That a tracker has never been idle since its start is not forgotten: what was in flight
    /// then may come after the comparison.
    ///
    /// # Errors
    /// The pinned state cannot be written.
    pub fn mark_verified(&mut self) -> Result<(), TrackerError> {
        let state = State { issue_missed: false, unranged: false, ..self.state };
        self.pinned.set_state(&state)?;
        self.state = state;
        Ok(())
    }

    /// The blocks in *touched*, left there.
    #[must_use]
    pub fn touched(&self) -> BlockSet {
        self.pinned.bits.touched.peek()
    }

    /// The blocks in *dirty*, left there.
    #[must_use]
    pub fn dirty(&self) -> BlockSet {
        self.pinned.bits.dirty.peek()
    }

    /// The blocks of `blocks` that are in *touched*. Costs what `blocks` is large, not what the disk is.
    #[must_use]
    pub fn touched_within(&self, blocks: &BlockSet) -> BlockSet {
        self.pinned.bits.touched.within(blocks)
    }

    /// The blocks of `blocks` that are in *dirty*. Costs what `blocks` is large, not what the disk is.
    #[must_use]
    pub fn dirty_within(&self, blocks: &BlockSet) -> BlockSet {
        self.pinned.bits.dirty.within(blocks)
    }

    /// The blocks of `blocks` that a write may be changing at this moment: given to the device, and not seen to complete.
    #[must_use]
    pub fn in_flight_within(&self, blocks: &BlockSet) -> BlockSet {
        if self.counted_untabled() && self.in_flight().map_or(true, |writes| writes > 0) {
            return blocks.clone();
        }
        self.pinned.flights.now().within(blocks)
    }

    /// The blocks in *pending*: taken, and not yet durable in a committed epoch.
    #[must_use]
    pub fn pending(&self) -> BlockSet {
        self.pinned.bits.pending.peek()
    }

    /// Adds to *pending*; blocks beyond the disk's end are left out.
    pub fn add_pending(&self, blocks: &BlockSet) {
        self.pinned.bits.pending.insert(blocks);
    }

    /// Empties *pending*: an epoch that holds all of it has been committed. What was in flight at the last taking stays.
    pub fn clear_pending(&self) {
        self.keep_pending(&BlockSet::new());
    }

    /// Makes *pending* hold `blocks` and what was in flight at the last taking: an epoch that holds all the others has been
    /// committed.
    pub fn keep_pending(&self, blocks: &BlockSet) {
        let mut kept = self.carried.clone();
        kept.union_with(blocks);
        self.pinned.bits.pending.insert(&kept);
        self.pinned.bits.pending.retain(&kept);
    }

    /// What has been counted since the tracker was started.
    ///
    /// # Errors
    /// The counters cannot be read; the disk then counts as unverified.
    pub fn counters(&self) -> Result<Counters, TrackerError> {
        self.pinned.counters()
    }

    /// How many writes the device is working on now (`/sys/block/<disk>/inflight`).
    ///
    /// Zero does not mean that nothing is: a write is counted a moment after its issue, and not any more when its completion
    /// interrupt is pending (block/blk-mq.c, `blk_mq_check_in_flight`). [`Tracker::idle`] is sure.
    ///
    /// # Errors
    /// The file cannot be read: the disk is gone.
    pub fn in_flight(&self) -> io::Result<u64> {
        in_flight(&self.disk.sysfs_name)()
    }

    /// Goes on with bitmaps for a disk that now has `new_size`. New programs are attached before the old go, what was marked
    /// is taken over, and blocks that are new, or that were the partial block at the old end, are dirty.
    ///
    /// # Errors
    /// As [`Tracker::open`]. The old tracker then stays as it is, and tracks the old range.
    pub fn resize(&mut self, new_size: ByteCount) -> Result<(), TrackerError> {
        let disk = TrackedDisk { size: new_size, ..self.disk.clone() };
        let (pinned, state) = adopt::take_over(&self.pinned, self.state, &disk)?;
        self.inherited = (self.inherited.0 | state.issue_missed, self.inherited.1 | state.unranged);
        (self.disk, self.pinned, self.state) = (disk, pinned, state);
        Ok(())
    }

    /// Ends tracking and removes the pins.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove(self) -> Result<(), TrackerError> {
        self.unpin()
    }

    /// As [`Tracker::remove`], for one that is still held: it marks nothing more.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn unpin(&self) -> Result<(), TrackerError> {
        pinned::remove(self.pinned.dir())
    }
}

/// Whether nothing was in flight, however late a write is counted.
fn is_certainly_zero(in_flight: &impl Fn() -> io::Result<u64>) -> bool {
    let zero = || in_flight().is_ok_and(|writes| writes == 0);
    zero() && idle::wait_for_issues_at_hand() && zero()
}

fn in_flight(sysfs_name: &str) -> impl Fn() -> io::Result<u64> + use<> {
    let path = format!("/sys/block/{sysfs_name}/inflight");
    move || {
        let text = fs::read_to_string(&path)?;
        let writes = text.split_ascii_whitespace().nth(1).and_then(|writes| writes.parse().ok());
        writes.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} holds '{}'", text.trim()))
        })
    }
}
