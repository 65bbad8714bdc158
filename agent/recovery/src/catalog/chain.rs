//! How the epochs of one disk follow one another: single ones, and ranges that were merged.
//!
//! For every epoch at which something ends, the chain knows the last step that leads there, or that there is none. Where
//! there are several (a merge is there and its inputs are not removed yet) the widest is taken, because its inputs may be
//! half gone; where that is damaged, the next. Deliberately not here: what a step holds.

use std::collections::{BTreeMap, BTreeSet};

use mobility_format::Epoch;

/// What stands behind a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StepKind {
    /// The manifest of one epoch.
    Epoch,
    /// A merged run.
    Run,
    /// A merge in which the disk had nothing.
    Nothing,
}

/// The epochs `first..=last`, in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    pub(crate) last: Epoch,
    pub(crate) first: Epoch,
    pub(crate) kind: StepKind,
}

/// The steps that lead from nothing to each epoch of a disk.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    by_last: BTreeMap<Epoch, Step>,
}

impl Chain {
    /// Links up the steps that there are, from the end of epoch `after` on.
    pub(crate) fn link(after: Epoch, mut steps: Vec<Step>) -> Chain {
        steps.sort_unstable();
        let mut chain = Chain::default();
        // Sorted by last, then first: of those that end together, the widest comes first.
        for step in steps {
            let before = Epoch(step.first.0 - 1);
            let follows = before == after || chain.by_last.contains_key(&before);
            if follows {
                chain.by_last.entry(step.last).or_insert(step);
            }
        }
        chain
    }

    /// Whether all content up to `epoch` is accounted for.
    pub(crate) fn reaches(&self, epoch: Epoch) -> bool {
        self.by_last.contains_key(&epoch)
    }

    /// The newest epoch before `epoch` that is accounted for; 0 where there is none.
    pub(crate) fn reached_before(&self, epoch: Epoch) -> Epoch {
        self.by_last.range(..epoch).next_back().map_or(Epoch(0), |(last, _)| *last)
    }

    /// The steps after `after` up to `upto`, oldest first; nothing where there is no such way, or where a step reaches
    /// over `after`.
    pub(crate) fn path(&self, after: Epoch, upto: Epoch) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut at = upto;
        while at > after {
            let step = *self.by_last.get(&at)?;
            at = Epoch(step.first.0 - 1);
            steps.push(step);
        }
        steps.reverse();
        (at == after).then_some(steps)
    }

    /// The ends of all ways that take in the step which ends at `last`.
    pub(crate) fn all_that_use(&self, last: Epoch) -> BTreeSet<Epoch> {
        let mut using = BTreeSet::new();
        for (end, step) in self.by_last.range(last..) {
            if *end == last || using.contains(&Epoch(step.first.0 - 1)) {
                using.insert(*end);
            }
        }
        using
    }

    /// All steps on the way to any of `epochs`.
    pub(crate) fn steps_to(&self, epochs: impl Iterator<Item = Epoch>) -> BTreeSet<Step> {
        let mut steps = BTreeSet::new();
        for mut at in epochs {
            while let Some(step) = self.by_last.get(&at) {
                if !steps.insert(*step) {
                    break;
                }
                at = Epoch(step.first.0 - 1);
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(first: u64, last: u64) -> Step {
        let kind = if first == last { StepKind::Epoch } else { StepKind::Run };
        Step { last: Epoch(last), first: Epoch(first), kind }
    }

    fn path(chain: &Chain, after: u64, upto: u64) -> Option<Vec<(u64, u64)>> {
        let steps = chain.path(Epoch(after), Epoch(upto))?;
        Some(steps.iter().map(|step| (step.first.0, step.last.0)).collect())
    }

    #[test]
    fn the_widest_step_that_connects_is_taken() {
        let chain = Chain::link(
            Epoch(0),
            vec![step(1, 1), step(2, 2), step(3, 3), step(1, 3), step(4, 4), step(6, 9), step(9, 9)],
        );
        assert_eq!(path(&chain, 0, 4), Some(vec![(1, 3), (4, 4)]));
        assert_eq!(
            path(&chain, 0, 2),
            Some(vec![(1, 1), (2, 2)]),
            "the inputs of a merge still lead to their points"
        );
        assert_eq!(path(&chain, 2, 3), None, "the merge reaches over epoch 2");
        assert_eq!(path(&chain, 0, 9), None, "epoch 5 is missing");
        assert_eq!(chain.reached_before(Epoch(9)), Epoch(4));
        assert_eq!(chain.all_that_use(Epoch(3)), [Epoch(3), Epoch(4)].into());
        assert_eq!(chain.all_that_use(Epoch(1)), [Epoch(1), Epoch(2)].into());
    }
}
