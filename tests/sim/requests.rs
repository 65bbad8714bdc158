//! Requests on their way between the agent and the service, and everything that can become of one.
//!
//! A request that was sent goes on without the agent that sent it. Deliberately not here: what the service makes of it.

use std::time::Duration;

use mobility_engine::{CommitFault, Event, Fault, FaultKind, NewGeneration, SegmentId};
use mobility_format::Epoch;

use crate::{
    mutant::Mutant,
    service::{Answer, Key, Manifest, Object},
    world::{Step, World},
};

#[derive(Clone, Debug)]
pub(crate) enum Request {
    Put(SegmentId, Key, Object),
    Commit(Manifest),
    NewGeneration,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// It fails, and has done nothing.
    Fails,
    /// It is done, and the answer says that it failed.
    AnswerLost,
    /// It is given up, and is done long after.
    Late,
    Twice,
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Put(SegmentId, Result<(), Fault>),
    Commit(Result<(), CommitFault>, Epoch),
    Generation(Result<NewGeneration, Fault>),
}

impl World {
    fn fate(&mut self, faults: u64) -> Fate {
        if self.healed || !self.rng.per_mille(faults) {
            return Fate::Fine;
        }
        [Fate::Fails, Fate::AnswerLost, Fate::Late, Fate::Twice][self.rng.index(4)]
    }

    fn storage_fault(&mut self) -> Fault {
        const KINDS: [FaultKind; 4] =
            [FaultKind::StorageFull, FaultKind::StorageReadOnly, FaultKind::StorageGone, FaultKind::Storage];
        let kind = self.outage.unwrap_or_else(|| KINDS[self.rng.index(4)]);
        self.mark(match kind {
            FaultKind::StorageFull => "storage full",
            FaultKind::StorageReadOnly => "storage read-only",
            FaultKind::StorageGone => "storage gone",
            _ => "storage failed",
        });
        let wait = self.rng.per_mille(100).then(|| Duration::from_millis(self.rng.magnitude(1, 20_000)));
        if wait.is_some() {
            self.mark("storage wishes to be left alone");
        }
        Fault { wait, ..Fault::new(kind, "the storage failed") }
    }

    pub(crate) fn send(&mut self, request: Request) {
        let (now, agent) = (self.now, self.agent_mut());
        let life = agent.life;
        if (agent.failures > 0 && now < agent.hands_off_until) || now < agent.left_alone_until {
            let until = agent.hands_off_until.max(agent.left_alone_until);
            return self
                .fail(format!("the storage is tried at {now}, which fails, though not before {until}"));
        }
        let faults = match &request {
            Request::Put(..) => self.plan.upload_faults,
            Request::Commit(_) | Request::NewGeneration => self.plan.commit_faults,
        };
        let fate = if self.outage.is_some() { Fate::Fails } else { self.fate(faults) };
        let there = self.answer_delay();
        let back = there + self.answer_delay();
        if fate != Fate::Fine && fate != Fate::Twice {
            let fault = self.storage_fault();
            let reply = match &request {
                Request::Put(id, ..) => Reply::Put(*id, Err(fault)),
                Request::Commit(manifest) => Reply::Commit(Err(CommitFault::Retry(fault)), manifest.epoch),
                Request::NewGeneration => Reply::Generation(Err(fault)),
            };
            self.after(back, Step::Reply(life, Box::new(reply)));
        }
        match fate {
            Fate::Fine => self.after(there, Step::Arrive(Some(life), Box::new(request))),
            Fate::Fails => {}
            Fate::AnswerLost => self.after(there, Step::Arrive(None, Box::new(request))),
            Fate::Late => {
                let late = back + self.rng.magnitude(1_000, 20_000_000);
                self.after(late, Step::Arrive(None, Box::new(request)));
            }
            Fate::Twice => {
                let late = there + self.rng.magnitude(1, 1_000_000);
                self.after(there, Step::Arrive(Some(life), Box::new(request.clone())));
                // A second generation would be handed to nobody; the others must do no harm.
                self.after(late, Step::Arrive(None, Box::new(request)));
            }
        }
    }

    /// A request reaches the service; the agent of that life gets an answer.
    pub(crate) fn on_arrive(&mut self, life: Option<u64>, request: Request) {
        let reply = match request {
            Request::Put(id, key, object) => {
                self.service.put(key, object);
                Reply::Put(id, Ok(()))
            }
            Request::NewGeneration => {
                let generation = self.service.new_generation();
                let head = self.service.head().map_or(Epoch(0), |(_, epoch)| epoch);
                Reply::Generation(Ok(NewGeneration { generation, head }))
            }
            Request::Commit(manifest) => {
                let answer = self.service.commit(&manifest);
                if answer == Answer::Committed {
                    self.check_commit(&manifest);
                }
                Reply::Commit(self.commit_result(answer), manifest.epoch)
            }
        };
        if let Some(life) = life {
            let delay = self.answer_delay();
            self.after(delay, Step::Reply(life, Box::new(reply)));
        }
    }

    fn commit_result(&mut self, answer: Answer) -> Result<(), CommitFault> {
        match answer {
            Answer::Committed | Answer::Known => Ok(()),
            Answer::Superseded => {
                self.mark("commit superseded");
                let (generation, head) = self.service.head().unwrap_or_default();
                Err(CommitFault::Superseded { head, generation })
            }
            Answer::Refused(reason) => {
                self.mark("commit refused");
                Err(CommitFault::Refused(reason))
            }
        }
    }

    pub(crate) fn on_reply(&mut self, reply: Reply) {
        match reply {
            Reply::Put(id, result) => {
                self.agent_mut().uploads -= 1;
                let wrong = self.plan.mutant == Some(Mutant::UploadFaultIsSuccess);
                self.note_storage(result.as_ref().err());
                let result = if wrong { Ok(()) } else { result };
                if let Some(segment) = self.agent_mut().segments.get_mut(&id) {
                    segment.durable = result.is_ok();
                }
                self.tell(Event::Uploaded(id, result));
            }
            Reply::Generation(result) => {
                self.note_storage(result.as_ref().err());
                if result.is_ok() {
                    let head = self.service.images.clone();
                    self.agent_mut().head = head;
                }
                self.tell(Event::Generation(result));
            }
            Reply::Commit(result, epoch) => self.on_commit_reply(result, epoch),
        }
    }

    fn on_commit_reply(&mut self, result: Result<(), CommitFault>, epoch: Epoch) {
        let retry = match &result {
            Err(CommitFault::Retry(fault)) => Some(fault.clone()),
            _ => None,
        };
        if retry.is_some() {
            self.mark("commit retried");
        }
        self.note_storage(retry.as_ref());
        let result = match (self.plan.mutant, result) {
            (Some(Mutant::RefusedIsSuccess), Err(CommitFault::Refused(_))) => Ok(()),
            (Some(Mutant::CommitFaultIsSuccess), Err(_)) => Ok(()),
            (_, result) => result,
        };
        match &result {
            Ok(()) => {
                let head = self.service.images.clone();
                let agent = self.agent_mut();
                agent.head = head;
                agent.forget_epoch();
            }
            Err(CommitFault::Superseded { head, .. }) => {
                if *head < epoch {
                    return self.fail(format!("epoch {epoch} was tried after {head}"));
                }
                self.agent_mut().head = self.service.images.clone();
            }
            Err(_) => {}
        }
        self.tell(Event::CommitDone(result));
    }

    /// Follows the failures in a row, as the engine has to, to know when it may try again.
    fn note_storage(&mut self, fault: Option<&Fault>) {
        let (limits, now) = (self.limits, self.now);
        let agent = self.agent_mut();
        let Some(fault) = fault else {
            agent.failures = 0;
            return;
        };
        agent.failures += 1;
        if let Some(wish) = fault.wait {
            // Followed whatever comes of what was under way meanwhile. The engine's clock has milliseconds.
            let until = now + (wish.as_micros() as u64).saturating_sub(2_000);
            agent.left_alone_until = agent.left_alone_until.max(until);
            agent.hands_off_until = agent.left_alone_until;
            return;
        }
        let doubled = limits.retry_first.saturating_mul(1 << (agent.failures - 1).min(20));
        // Half of it is jitter, and the engine's clock has milliseconds.
        let least = (doubled.min(limits.retry_last).as_micros() as u64 / 2).saturating_sub(2_000);
        agent.hands_off_until = now + least;
    }
}
