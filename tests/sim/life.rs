//! One seed from start to end: trouble, then healing, then the proof that nothing was lost.
//!
//! Deliberately not here: how many seeds, and which.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use mobility_engine::Event;

use crate::{
    faults::Trouble,
    mutant::Mutant,
    world::{Step, World},
};

const SECOND: u64 = 1_000_000;

pub(crate) struct Life {
    pub(crate) failure: Option<String>,
    pub(crate) marks: BTreeSet<&'static str>,
    pub(crate) microseconds: u64,
    pub(crate) steps: u64,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn live(seed: u64, mutant: Option<Mutant>, traced: bool) -> Life {
    let mut world = World::new(seed, mutant, traced);
    // A panic of the engine is a failure like any other, and its seed has to be told.
    let run = catch_unwind(AssertUnwindSafe(|| world.live()));
    let panicked = run.err().map(|cause| format!("panicked: {:?}", cause.downcast_ref::<String>()));
    Life {
        failure: world.failure.or(panicked),
        marks: world.marks,
        microseconds: world.now,
        steps: world.stamp,
        trace: world.trace.into_iter().flatten().collect(),
    }
}

impl World {
    fn live(&mut self) {
        let busy = self.plan.busy;
        self.run(busy, |_| false);
        self.heal();
        // What is still on its way ends by itself.
        self.run(busy + 25 * SECOND, |_| false);
        let limits = self.limits;
        let patience = 10 * limits.interval + 10 * limits.retry_last;
        let mut until = self.now + patience.as_micros() as u64 + 200 * SECOND;
        if self.plan.blind > 0 {
            // Only the audit can find these; give it time.
            let rounds = limits.audit_round.as_micros() as u64 + 12 * limits.audit_pause.as_micros() as u64;
            self.run(self.now + 3 * rounds + 10 * SECOND, |_| false);
            until += 3 * rounds;
        }
        let quiet_since = self.stamp;
        self.run(until, |world| world.point_since(quiet_since));
        if self.failure.is_none() && !self.point_since(quiet_since) {
            self.fail("no consistent point though all is well".to_owned());
        }
        if let Some(difference) = self.difference() {
            self.fail(format!("the disks are quiet, and the last point differs: {difference}"));
        }
        self.stop();
        if let Some(epoch) = self.service.changed_past() {
            self.fail(format!("epoch {epoch} is not what it was"));
        }
    }

    /// Everything that is wrong ends, but for what has already been lost.
    fn heal(&mut self) {
        self.note(|_| "healed".to_owned());
        (self.healed, self.writing, self.outage) = (true, false, None);
        for disk in 0..self.devices.len() {
            self.devices[disk].attached = true;
            self.devices[disk].set_unreadable(Vec::new());
            self.after(1, Step::Trouble(Trouble::Notice(disk)));
        }
    }

    fn stop(&mut self) {
        if self.failure.is_some() || self.agent.is_none() {
            return;
        }
        let after_point = self.rng.per_mille(500);
        let (wished, commits) = (self.stamp, self.service.committed.len());
        self.tell(Event::Stop { after_point });
        let until = self.now + 60 * SECOND;
        self.run(until, |world| world.agent.as_ref().is_none_or(|agent| agent.stopped));
        if !self.agent.as_ref().is_some_and(|agent| agent.stopped) {
            return self.fail("it does not stop".to_owned());
        }
        self.mark(if after_point { "stopped after a point" } else { "stopped at once" });
        if after_point && (self.service.committed.len() == commits || !self.point_since(wished)) {
            self.fail("it stopped without the last point".to_owned());
        }
    }
}
