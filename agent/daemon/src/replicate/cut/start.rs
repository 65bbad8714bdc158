//! Starts a cut on the thread that reads disks, and packs what it has read.
//!
//! Deliberately not here: the cut itself.

use std::time::Duration;

use mobility_engine::{CutFigures, CutPlan, Event, Verdict};
use mobility_format::{ByteCount, DiskId};

use super::{Outcome, Target, cut};
use crate::replicate::{
    Mailbox, Message, Replication, copy,
    pack::{Packer, SharedChain, Window, lock},
};

impl Replication {
    pub(in crate::replicate) fn cut(
        &self,
        plans: Vec<(DiskId, CutPlan)>,
        budget: ByteCount,
        freeze: Option<Duration>,
    ) {
        let targets = match self.targets(plans) {
            Ok(targets) => targets,
            Err(verdict) => return self.answer(Event::CutDone(verdict, CutFigures::default(), Vec::new())),
        };
        let chains: Vec<_> =
            targets.iter().filter_map(|target| self.chains.get(&target.id).cloned()).collect();
        let (window, mailbox) = (self.window.clone(), self.mailbox.clone());
        let round = window.round();
        let freezing = self.applications.freezing.clone();
        self.worker.run(move || {
            let outcome = match freeze {
                None => cut(&targets, budget, None),
                Some(limit) => {
                    let mut freezing = lock(&freezing);
                    let outcome = cut(&targets, budget, Some((&mut freezing, limit)));
                    freezing.release();
                    outcome
                }
            };
            pack(outcome, &chains, (&window, round), &mailbox);
        });
    }

    fn targets(&self, plans: Vec<(DiskId, CutPlan)>) -> Result<Vec<Target>, Verdict> {
        let mut targets = Vec::new();
        for (id, plan) in plans {
            let disk = self.present(id).map_err(|fault| Verdict::Unread(id, fault))?;
            if let Some(tracker) = disk.tracker() {
                let (tracker, reader) = (tracker.clone(), disk.reader.clone());
                targets.push(Target { id, disk: disk.disk.clone(), tracker, reader, plan });
            }
        }
        Ok(targets)
    }
}

/// Says how the cut went, then makes segments of what it has read.
fn pack(outcome: Outcome, chains: &[SharedChain], (window, round): (&Window, u64), mailbox: &Mailbox) {
    let consistent = outcome.verdict == Verdict::Consistent;
    let done = Event::CutDone(outcome.verdict, outcome.figures, outcome.disks);
    // Nobody is there to hear it only when the loop has ended.
    let _ = mailbox.send(Message::Event(done));
    for (id, content) in outcome.contents {
        let Some(chain) = chains.iter().find(|chain| lock(chain).disk == id) else { continue };
        let mut chain = lock(chain);
        let mut sealed = |sealed| {
            let _ = mailbox.send(Message::Sealed(sealed));
        };
        let packer = Packer::new(window, round, &mut chain, &mut sealed);
        if copy::pack_memory(&content, packer).is_err() {
            // The agent is stopping: what is missing must not be committed.
            return;
        }
    }
    if consistent {
        let _ = mailbox.send(Message::Event(Event::CutPacked));
    }
}
