//! The arithmetic of the optimistic cut, apart from the reading.
//!
//! A cut takes place while writes go on. For each disk, in this order:
//!
//! 1. take `touched`; when that has been done on all disks it is `t0`; then look which blocks have a write in flight;
//! 2. take `dirty`: what had completed and was not sent yet;
//! 3. wait until the writes that were in flight at `t0`, to blocks that will be or were lately read, have ended;
//! 4. read;
//! 5. look at `touched` and `dirty` again.
//!
//! What is in flight has to be looked at before `dirty` is taken: a write that completes in between is then in both, the
//! other way round it would be in neither.
//!
//! If no block that was read was touched in between, then what was read, with what was sent before, is what the disks
//! held at `t0`: whatever had completed by then is in it, whatever was issued after it is not, and what was in flight is
//! in it as a whole or not at all. `docs/ARCHITECTURE.md` has the argument. The caller does the five steps; this type
//! says what to read, when the wait is over and what conflicts.
//!
//! Step 5 may follow each read at once: a block that is untouched right after it was read was read as it was at `t0`,
//! whatever is written to it later. And a round that ends with conflicts is not lost: what was read stays good but for
//! the blocks written since, and these few are what the next round, with a `t0` of its own, has to read
//! ([`CutDisk::next_round`]). So rounds get shorter and shorter, until one fits between two writes to the same block.
//!
//! Blocks touched and not dirty are read too, so a completion mark that was lost without being counted does not make a
//! point wrong, but for one: of a write both issued and completed while step 1 goes from the first disk's bitmap to the
//! last one's. It is owed by the next drain; to rule it out, each write issued in these microseconds would have to count
//! as a conflict. Deliberately not here: several disks, tries, budgets.

use mobility_format::BlockSet;

use crate::Drained;

/// What the engine knows of a disk when it asks for a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutPlan {
    /// Blocks that must be read whatever the tracker says.
    pub owed: BlockSet,
    /// Blocks with a write in flight since before the last time the tracker was drained, or with a lost completion.
    pub suspects: BlockSet,
    /// Blocks that were read since the last consistent cut or idle moment: a write in flight may have torn what was read.
    pub recent: BlockSet,
    /// Blocks that conflicted in the last cuts: to be read before the others, so that there is less time to write them.
    pub hot: BlockSet,
    /// Blocks whose content does not matter, as swap: a write to them is no conflict.
    pub ignored: BlockSet,
    /// Blocks that were written lately: if completions were missed, it may have been theirs.
    pub lately: BlockSet,
    /// Whether a write may be in flight that the tracker did not see being issued. Then only a moment in which nothing
    /// was in flight ends step 3.
    pub unseen: bool,
    /// Whether a write may be in flight that was issued before this run of the agent began. If not, then whatever is in
    /// flight is touched, a suspect, or written lately.
    pub inherited: bool,
}

/// A cut of one disk, step by step.
#[derive(Clone, Debug)]
pub struct CutDisk {
    plan: CutPlan,
    to_read: BlockSet,
    in_flight: BlockSet,
    unseen: bool,
    completed_before_read: BlockSet,
    /// What the rounds before this one have read.
    read_before: BlockSet,
}

impl CutDisk {
    /// A cut is about to start.
    #[must_use]
    pub fn new(plan: CutPlan) -> Self {
        let unseen = plan.unseen;
        let (to_read, in_flight, completed_before_read, read_before) = Default::default();
        CutDisk { plan, to_read, in_flight, unseen, completed_before_read, read_before }
    }

    /// On to the next round of the same cut, after one in which all was read and `conflicts` were found. `drained` is what
    /// this round has taken, with every block of `touched` that was issued after `t0` and taken as well. What
    /// was read and did not conflict stays as it is: if it is written before the next `t0`, it will be in that round's
    /// `dirty` or `touched`.
    pub fn next_round(&mut self, drained: &Drained, conflicts: &BlockSet) {
        let plan = &mut self.plan;
        plan.lately.union_with(&drained.touched);
        plan.lately.union_with(&plan.suspects);
        plan.suspects.union_with(&drained.touched);
        plan.suspects.subtract(&drained.dirty);
        plan.owed = conflicts.clone();
        plan.recent.union_with(&self.to_read);
        plan.hot.union_with(conflicts);
        plan.unseen = self.unseen && !drained.idle;
        self.read_before.union_with(&self.to_read);
        (self.to_read, self.in_flight, self.completed_before_read) = Default::default();
        self.unseen = plan.unseen;
    }

    /// All that has been read, in this round and those before it, or is to be read in this one.
    #[must_use]
    pub fn read(&self) -> BlockSet {
        self.read_before.union(&self.to_read)
    }

    /// What is to be read first.
    #[must_use]
    pub fn read_first(&self) -> BlockSet {
        self.to_read.intersection(&self.plan.hot)
    }

    /// Steps 1 and 2 are done; `in_flight` are the blocks that had a write in flight at a moment between them.
    pub fn taken(&mut self, drained: &Drained, in_flight: &BlockSet) {
        // Most of these are in flight and may be in the point or not; but if it is the mark that was lost, they must be.
        let mut suspects = drained.touched.difference(&drained.dirty);
        suspects.union_with(&self.plan.suspects);
        let mut open = in_flight.intersection(&self.concerned(&drained.touched));
        self.to_read = drained.dirty.clone();
        self.to_read.union_with(&self.plan.owed);
        self.to_read.union_with(&suspects);
        self.to_read.union_with(&open.intersection(&self.plan.recent));
        open.union_with(&suspects);
        if drained.completion_missed {
            self.to_read.union_with(&drained.touched);
            self.to_read.union_with(&self.plan.lately);
        }
        self.unseen |= drained.issue_missed;
        open.intersect_with(&self.to_read);
        self.in_flight = open;
    }

    /// Of which blocks it has to be known, in steps 1 and 3, whether a write to them is in flight, when `touched` was taken
    /// in step 1: of no others can one be, whatever a tracker that missed a completion believes.
    #[must_use]
    pub fn concerned(&self, touched: &BlockSet) -> BlockSet {
        let mut blocks = touched.clone();
        blocks.union_with(&self.plan.suspects);
        blocks.union_with(&self.plan.lately);
        if self.plan.inherited {
            blocks.union_with(&self.plan.recent);
            blocks.union_with(&self.plan.owed);
        }
        blocks
    }

    /// What has to be read. It may grow when step 3 ends.
    #[must_use]
    pub fn to_read(&self) -> &BlockSet {
        &self.to_read
    }

    /// Whether there is anything to wait for in step 3.
    #[must_use]
    pub fn must_settle(&self) -> bool {
        self.unseen || !self.in_flight.is_empty()
    }

    /// Ends step 3, if it can be ended. Of the disk at this moment, right before step 4: `in_flight` are the blocks with
    /// a write in flight, `dirty` what has completed since step 2, `touched` what was issued since `t0`, in this order;
    /// `idle` tells that no write at all was in flight at a moment after step 2, which also clears a block whose
    /// completion was lost.
    pub fn settled(
        &mut self,
        in_flight: &BlockSet,
        dirty: &BlockSet,
        touched: &BlockSet,
        idle: bool,
    ) -> bool {
        if !idle && (self.unseen || self.in_flight.intersects(in_flight)) {
            return false;
        }
        // It was in flight, unseen, when a pass read it; one that was issued after `t0` was not.
        let mut late = dirty.intersection(&self.plan.recent);
        if self.unseen {
            // It has ended, and its mark may be still to come.
            late = self.plan.recent.clone();
        } else {
            late.subtract(touched);
        }
        self.to_read.union_with(&late);
        self.completed_before_read = dirty.intersection(&self.to_read);
        true
    }

    /// Step 5, for the blocks that `touched` and `dirty` were looked up for: those of them that were read while they may
    /// have been changing.
    #[must_use]
    pub fn conflicts(&self, touched: &BlockSet, dirty: &BlockSet) -> BlockSet {
        let mut conflicts = dirty.difference(&self.completed_before_read);
        conflicts.union_with(touched);
        conflicts.intersect_with(&self.to_read);
        conflicts.subtract(&self.plan.ignored);
        conflicts
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::BlockIndex;

    use super::*;

    fn set(blocks: &[u64]) -> BlockSet {
        blocks.iter().map(|&b| BlockIndex(b)).collect()
    }

    #[test]
    fn what_the_tracker_believes_to_be_in_flight_for_ever_is_not_waited_for() {
        let plan = CutPlan { recent: set(&[7]), ..CutPlan::default() };
        assert!(!cut(plan.clone(), &[], &[], &[7]).must_settle());
        assert!(cut(CutPlan { inherited: true, ..plan.clone() }, &[], &[], &[7]).must_settle());
        assert!(cut(CutPlan { lately: set(&[7]), ..plan }, &[], &[], &[7]).must_settle());
    }

    fn cut(plan: CutPlan, dirty: &[u64], touched: &[u64], in_flight: &[u64]) -> CutDisk {
        let mut cut = CutDisk::new(plan);
        let drained = Drained { dirty: set(dirty), touched: set(touched), ..Drained::default() };
        cut.taken(&drained, &set(in_flight));
        cut
    }

    #[test]
    fn quiet_blocks_are_read_and_do_not_conflict() {
        let mut cut = cut(CutPlan::default(), &[1, 2], &[1, 2], &[]);
        assert_eq!(cut.to_read(), &set(&[1, 2]));
        assert!(!cut.must_settle() && cut.settled(&set(&[]), &set(&[]), &set(&[]), false));
        assert!(cut.conflicts(&set(&[9]), &set(&[9])).is_empty());
    }

    #[test]
    fn a_write_issued_after_t0_conflicts_only_where_it_was_read() {
        let mut cut = cut(CutPlan::default(), &[1, 2], &[], &[]);
        assert!(cut.settled(&set(&[2]), &set(&[]), &set(&[]), false));
        assert_eq!(cut.conflicts(&set(&[2, 3]), &set(&[3])), set(&[2]));
    }

    #[test]
    fn a_second_write_in_flight_to_a_block_that_is_dirty_is_waited_for() {
        let mut cut = cut(CutPlan::default(), &[1], &[1], &[1]);
        assert!(cut.must_settle());
        assert!(!cut.settled(&set(&[1]), &set(&[]), &set(&[]), false));
        assert!(cut.settled(&set(&[]), &set(&[1]), &set(&[]), false));
        assert!(cut.conflicts(&set(&[]), &set(&[1])).is_empty(), "it completed before the read");
    }

    #[test]
    fn a_block_touched_and_not_dirty_is_read_for_its_completion_may_have_been_lost() {
        let mut cut = cut(CutPlan::default(), &[1], &[1, 7], &[7]);
        assert_eq!(cut.to_read(), &set(&[1, 7]));
        assert!(!cut.settled(&set(&[7]), &set(&[]), &set(&[]), false));
        assert!(cut.settled(&set(&[]), &set(&[7]), &set(&[]), false));
    }

    #[test]
    fn a_block_read_in_the_last_pass_while_a_write_was_in_flight_is_read_again() {
        let plan = CutPlan { recent: set(&[7, 8]), ..CutPlan::default() };
        let mut cut = cut(plan, &[], &[7], &[7]);
        assert_eq!(cut.to_read(), &set(&[7]));
        assert!(!cut.settled(&set(&[7]), &set(&[]), &set(&[]), false));
        assert!(
            cut.settled(&set(&[7]), &set(&[]), &set(&[]), true),
            "idle says that it ended, though its mark was lost"
        );
    }

    #[test]
    fn a_write_that_nobody_saw_being_issued_ends_only_with_an_idle_moment() {
        let plan = CutPlan { recent: set(&[4]), unseen: true, ..CutPlan::default() };
        let mut cut = cut(plan, &[1], &[], &[]);
        assert!(cut.must_settle() && !cut.settled(&set(&[]), &set(&[]), &set(&[]), false));
        assert!(cut.settled(&set(&[]), &set(&[4]), &set(&[]), true));
        assert_eq!(cut.to_read(), &set(&[1, 4]), "a pass read block 4 while it was in flight");
        assert!(cut.conflicts(&set(&[]), &set(&[4])).is_empty());
    }

    #[test]
    fn missed_completions_put_everything_written_lately_into_the_cut() {
        let plan = CutPlan { lately: set(&[6]), ..CutPlan::default() };
        let mut cut = CutDisk::new(plan);
        cut.taken(&Drained { touched: set(&[2]), completion_missed: true, ..Drained::default() }, &set(&[]));
        assert_eq!(cut.to_read(), &set(&[2, 6]));
    }

    #[test]
    fn a_completion_during_the_read_conflicts() {
        let plan = CutPlan { suspects: set(&[3]), ..CutPlan::default() };
        let mut cut = cut(plan, &[], &[], &[]);
        assert!(cut.settled(&set(&[]), &set(&[]), &set(&[]), false));
        assert_eq!(cut.conflicts(&set(&[]), &set(&[3])), set(&[3]));
    }
}
