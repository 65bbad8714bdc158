//! What a recovery service wants of a replication that runs, and what it is told of it.
//!
//! Deliberately not here: how it is heard and told (`crate::service`), and what the engine makes of it.

use std::collections::BTreeMap;

use mobility_engine::{Doubt, Event, Limits};
use mobility_format::{
    BlockRange, BlockSet, DiskId, Epoch, Generation,
    control::{Command, CommandId, CommandResult, DoubtedDisk, Order, Policy},
};

use super::{Replication, store::claim_of};
use crate::{
    clock,
    exit::Failure,
    request::{Answer, Request, RequestId},
    service::{FromService, Service, policy},
};

/// The service, while there is one, and its commands that wait for a point.
pub(crate) struct Link {
    service: Service,
    policy: Policy,
    waiting: BTreeMap<RequestId, CommandId>,
    /// The last point before a failover, if it was asked for and is not made.
    last: Option<RequestId>,
    /// What came of it, until somebody has looked.
    last_answer: Option<Answer>,
    /// The head when this run began: of commits after it the engine knows what they held.
    since: Epoch,
}

impl Link {
    pub(crate) fn new(service: Service, policy: Policy, since: Epoch) -> Link {
        Link { service, policy, waiting: BTreeMap::new(), last: None, last_answer: None, since }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the operator's scripts may run.
    pub(super) fn allows_scripts(&self) -> bool {
        self.policy.scripts
    }

    /// The last point before a failover is asked for.
    pub(super) fn wants_last(&mut self, id: RequestId) {
        (self.last, self.last_answer) = (Some(id), None);
    }

    /// What came of it, once.
    pub(super) fn last_answered(&mut self) -> Option<Answer> {
        self.last_answer.take()
    }

    /// A point that the service had asked for was made, or not.
    pub(super) fn answered(&mut self, id: &RequestId, answer: &Answer) {
        if self.last == Some(*id) {
            (self.last, self.last_answer) = (None, Some(answer.clone()));
        }
        let Some(command) = self.waiting.remove(id) else { return };
        let result = match answer {
            Answer::Made(made) => {
                let consistency = made.consistency.name();
                CommandResult::done(format!("point {}, {consistency}-consistent", made.id))
            }
            Answer::Failed { reason } => CommandResult::refused(reason.clone()),
        };
        self.service.finish_command(command, result);
    }
}

/// The limits that result from the configuration and a policy.
pub(crate) fn with_policy(limits: Limits, policy: &Policy) -> Limits {
    Limits {
        interval: policy::interval(policy),
        application_interval: policy::application_interval(policy).filter(|_| policy.scripts),
        paused: policy.paused,
        ..limits
    }
}

impl Replication {
    /// The service says something.
    pub(super) fn said_by_service(&mut self, said: FromService) {
        match said {
            FromService::PolicyChanged(policy) => self.follow(policy),
            FromService::Command(command) => self.obey(command),
            FromService::TakenIn(epoch) => self.engine.handle(clock::now(), Event::TakenIn(epoch)),
            FromService::Fenced(message) => self.end(Failure::Fenced(message)),
            FromService::Revoked(message) => self.end(Failure::Revoked(message)),
            FromService::Told(command, taken) => self.told(command, taken),
            // It has ended by then.
            FromService::Reinstated => {}
        }
    }

    fn end(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.engine.handle(clock::now(), Event::Stop { after_point: false });
    }

    fn follow(&mut self, policy: Policy) {
        let Some(link) = &mut self.link else { return };
        tracing::info!("the policy '{}' is in force, version {}", policy.name, policy.version);
        link.policy = policy;
        self.limits_changed();
        self.pace();
    }

    /// Configuration or policy have changed.
    pub(super) fn limits_changed(&mut self) {
        let limits = self.report.limits();
        let limits = self.link.as_ref().map_or(limits, |link| with_policy(limits, &link.policy));
        self.engine.handle(clock::now(), Event::LimitsChanged(self.halt.over(limits)));
    }

    /// The rate that the policy allows now.
    pub(super) fn pace(&self) {
        if let Some(link) = &self.link {
            link.service.set_rate(policy::upload_rate(&link.policy, clock::wall()));
        }
    }

    fn obey(&mut self, Command { id, order }: Command) {
        match order {
            Order::Point { application } => self.asked_by_service(id, application),
            Order::Resync { generation, reason, through, disks } => {
                let message = self.doubt(generation, reason, through, disks);
                self.conclude(id, CommandResult::done(message));
            }
            Order::Halt { failover } => self.halt(id, failover),
            Order::SwitchOff { failover } => self.switch_off(id, &failover),
            Order::GoOn { failover } => self.go_on(id, &failover),
            // The connection answers these by itself.
            Order::Renew | Order::Logs | Order::Unknown => {}
        }
    }

    pub(super) fn conclude(&self, id: CommandId, result: CommandResult) {
        if let Some(link) = &self.link {
            link.service.finish_command(id, result);
        }
    }

    fn asked_by_service(&mut self, command: CommandId, application: bool) {
        match RequestId::draw() {
            Ok(id) => {
                if let Some(link) = &mut self.link {
                    link.waiting.insert(id, command);
                }
                self.requested(Request { id, application });
            }
            Err(err) => self.conclude(command, CommandResult::refused(err.to_string())),
        }
    }

    fn doubt(
        &mut self,
        generation: Generation,
        reason: String,
        through: Epoch,
        disks: Vec<DoubtedDisk>,
    ) -> &'static str {
        if generation < self.engine.status().generation {
            return "that generation was given up already";
        }
        tracing::error!("what was committed is not trusted and is compared: {reason}");
        self.report.error(reason.clone());
        // What an earlier run committed after `through` is known to nobody: all is compared.
        let known = self.link.as_ref().is_some_and(|link| link.since <= through);
        let doubts = if known { disks.into_iter().map(doubt_of).collect() } else { Vec::new() };
        self.engine.handle(clock::now(), Event::Doubted(doubts, reason));
        "the disks are compared, and what differs is sent again"
    }

    /// Tells the service how things are; `at_once` if it should hear of it now.
    pub(super) fn tell_service(&self, at_once: bool) {
        if let Some(link) = &self.link {
            let health = self.report.health(&self.engine.status(), &self.captures());
            link.service.report(self.head.as_ref().map(claim_of), health, at_once);
        }
    }

    pub(super) fn stop_service(&self) {
        self.link.iter().for_each(|link| link.service.stop());
    }
}

fn doubt_of(disk: DoubtedDisk) -> Doubt {
    let DoubtedDisk { id, ranges } = disk;
    let range = |(start, end): &(u64, u64)| BlockRange::new(*start, end.saturating_sub(*start));
    let blocks: BlockSet = ranges.iter().map(range).collect();
    (id, Some(blocks).filter(|_| !ranges.is_empty()))
}

/// How each disk is known and tracked.
pub(super) type Captures = BTreeMap<DiskId, (std::path::PathBuf, &'static str)>;

impl Replication {
    pub(super) fn captures(&self) -> Captures {
        self.disks.iter().map(|(id, disk)| (*id, (disk.disk.given.clone(), disk.capture()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_doubt_are_its_part_of_the_disk_and_none_are_all_of_it() {
        let id = DiskId([1; 16]);
        let part = |ranges| doubt_of(DoubtedDisk { id, ranges });
        assert_eq!(part(vec![]), (id, None));
        assert_eq!(part(vec![(4, 8)]), (id, Some(BlockSet::of(BlockRange::new(4, 4)))));
        assert_eq!(part(vec![(8, 4)]), (id, Some(BlockSet::new())), "nonsense is nothing");
    }
}
