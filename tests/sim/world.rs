//! The simulated machine with everything around it: virtual time, the queue of what happens next, and the model shell's
//! hands.
//!
//! One thing happens at a time, in an order that the seed alone decides. Deliberately not here: faults (`faults`), what is
//! right (`checks`).

use std::{
    cmp::Ordering,
    collections::{BTreeSet, BinaryHeap, VecDeque},
};

use mobility_engine::{
    Action, CommitDisk, CommitKind, CutFigures, Event, FaultKind, Limits, Time, Tracking, Verdict,
};
use mobility_format::{BLOCK_SIZE, BlockSet, ByteCount, DiskId};
use mobility_tests::dice::Dice;

use crate::{
    agent::Agent,
    cut_job::CutJob,
    device::{Device, Write, WriteId},
    faults::Trouble,
    jobs::{Comparison, ComparisonKind, Copy, Drain, Job, blocks_of},
    mutant::Mutant,
    plan::Plan,
    requests::{Reply, Request},
    service::{Manifest, ManifestDisk, Object, Service},
    tracker::Tracker,
};

/// One thing that happens. Those with a life are of one run of the agent, and die with it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Writer(usize),
    Device(WriteId),
    Job(u64, u64),
    Wake(u64),
    Arrive(Option<u64>, Box<Request>),
    Reply(u64, Box<Reply>),
    Trouble(Trouble),
}

struct Scheduled {
    at: u64,
    order: u64,
    step: Step,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) limits: Limits,
    pub(crate) rng: Dice,
    /// Microseconds.
    pub(crate) now: u64,
    /// Grows with every step.
    pub(crate) stamp: u64,
    queue: BinaryHeap<Scheduled>,
    ids: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) trackers: Vec<Tracker>,
    pub(crate) tracking: Vec<Tracking>,
    /// Whether the agent has been told of the disk's being there.
    pub(crate) announced: Vec<bool>,
    pub(crate) writes: Vec<Write>,
    pub(crate) agent: Option<Agent>,
    pub(crate) lives: u64,
    pub(crate) service: Service,
    pub(crate) outage: Option<FaultKind>,
    /// Nothing goes wrong any more.
    pub(crate) healed: bool,
    pub(crate) writing: bool,
    /// Writes are held by a freeze.
    pub(crate) held: bool,
    /// Applications were told, and wait to hear that it is over.
    pub(crate) quiesced: bool,
    pub(crate) marks: BTreeSet<&'static str>,
    pub(crate) failure: Option<String>,
    pub(crate) trace: Option<VecDeque<String>>,
    actions_in_second: (u64, u64),
}

/// The id of the disk with this number.
pub(crate) fn disk_id(index: usize) -> DiskId {
    let mut id = [0; DiskId::LEN];
    id[0] = index as u8;
    DiskId(id)
}

pub(crate) fn disk_index(id: DiskId) -> usize {
    usize::from(id.0[0])
}

pub(crate) fn bytes(blocks: u64) -> ByteCount {
    ByteCount(blocks * BLOCK_SIZE as u64)
}

/// So many actions a virtual second are a busy loop. Jobs take microseconds here, so that an honest agent may do a lot.
const ACTIONS_PER_SECOND: u64 = 20_000;
const TRACE_LINES: usize = 400;

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, traced: bool) -> World {
        let mut rng = Dice::new(seed);
        let mut plan = Plan { mutant, ..Plan::draw(&mut rng) };
        if let Some(mutant) = mutant {
            mutant.provoke(&mut plan, &mut rng);
        }
        let size = |&(size, _): &(u64, Tracking)| size;
        let mut world = World {
            limits: plan.limits,
            devices: plan.disks.iter().map(|disk| Device::new(size(disk))).collect(),
            trackers: plan.disks.iter().map(|disk| Tracker::new(size(disk))).collect(),
            tracking: plan.disks.iter().map(|disk| disk.1).collect(),
            announced: vec![false; plan.disks.len()],
            plan,
            rng,
            now: 0,
            stamp: 0,
            queue: BinaryHeap::new(),
            ids: 0,
            writes: Vec::new(),
            agent: None,
            lives: 0,
            service: Service::default(),
            outage: None,
            healed: false,
            writing: true,
            held: false,
            quiesced: false,
            marks: BTreeSet::new(),
            failure: None,
            trace: traced.then(VecDeque::new),
            actions_in_second: (0, 0),
        };
        world.note(|world| format!("{:#?}", world.plan));
        for writer in 0..world.plan.writers {
            world.after(0, Step::Writer(writer));
        }
        world.schedule_troubles();
        world
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    pub(crate) fn agent_mut(&mut self) -> &mut Agent {
        self.agent.as_mut().unwrap()
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(crate) fn engine_time(&self) -> Time {
        Time(self.now / 1000)
    }

    pub(crate) fn after(&mut self, delay: u64, step: Step) {
        let order = self.next_id();
        self.queue.push(Scheduled { at: self.now + delay, order, step });
    }

    pub(crate) fn answer_delay(&mut self) -> u64 {
        self.rng.magnitude(1, 2 * self.plan.answer)
    }

    pub(crate) fn read_delay(&mut self) -> u64 {
        self.rng.magnitude(1, 2 * self.plan.read)
    }

    pub(crate) fn mark(&mut self, mark: &'static str) {
        self.note(|_| mark.to_owned());
        self.marks.insert(mark);
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.note(|_| format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&World) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = format!("{:>12} #{} {}", self.now, self.stamp, line(self));
        if let Some(trace) = &mut self.trace {
            if trace.len() >= TRACE_LINES {
                // The first line is the plan, which is always wanted.
                trace.remove(1);
            }
            trace.push_back(line);
        }
    }

    /// Lets things happen until `until`, or until something is wrong, or `done`.
    pub(crate) fn run(&mut self, until: u64, done: impl Fn(&World) -> bool) {
        while self.failure.is_none() && !done(self) {
            match self.queue.peek() {
                Some(next) if next.at <= until => {}
                _ => {
                    self.now = until;
                    return;
                }
            }
            let Some(Scheduled { at, step, .. }) = self.queue.pop() else { return };
            self.now = at;
            self.stamp += 1;
            self.take(step);
        }
    }

    fn take(&mut self, step: Step) {
        let life = match &step {
            Step::Job(life, _) | Step::Wake(life) | Step::Reply(life, _) => Some(*life),
            _ => None,
        };
        if life.is_some() && self.agent.as_ref().map(|agent| agent.life) != life {
            return;
        }
        match step {
            Step::Writer(writer) => self.on_writer(writer),
            Step::Device(write) => self.on_device(write),
            Step::Job(_, id) => self.on_job(id),
            Step::Wake(_) => self.on_wake(),
            Step::Arrive(life, request) => self.on_arrive(life, *request),
            Step::Reply(_, reply) => self.on_reply(*reply),
            Step::Trouble(trouble) => self.on_trouble(trouble),
        }
    }

    fn on_wake(&mut self) {
        let (now, engine_now) = (self.now, self.engine_time());
        let agent = self.agent_mut();
        if agent.wake_at.is_none_or(|at| at > now) {
            return;
        }
        agent.wake_at = None;
        agent.engine.tick(engine_now);
        self.pump();
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.note(|_| format!("event {event:?}"));
        let now = self.engine_time();
        let Some(agent) = &mut self.agent else { return };
        if agent.stopped {
            return;
        }
        agent.engine.handle(now, event);
        self.pump();
    }

    /// Does what the engine wants done, and sees to being back in time.
    pub(crate) fn pump(&mut self) {
        while let Some(action) = self.agent.as_mut().and_then(|agent| agent.engine.poll()) {
            self.note(|_| format!("action {action:?}"));
            let second = self.now / 1_000_000;
            let count = if self.actions_in_second.0 == second { self.actions_in_second.1 + 1 } else { 1 };
            self.actions_in_second = (second, count);
            if count > ACTIONS_PER_SECOND {
                return self.fail(format!("more than {ACTIONS_PER_SECOND} actions in a second"));
            }
            if self.agent().stopped {
                return self.fail(format!("{action:?} after Stop"));
            }
            self.perform(action);
            if self.failure.is_some() || self.killed_by_chance(2) {
                return;
            }
        }
        self.schedule_wake();
    }

    fn schedule_wake(&mut self) {
        let engine_now = self.engine_time();
        let Some(agent) = &mut self.agent else { return };
        let Some(mut at) = agent.engine.wakeup(engine_now) else {
            agent.wake_at = None;
            return;
        };
        if at <= engine_now {
            agent.engine.tick(engine_now);
            if let Some(action) = agent.engine.poll() {
                return self.fail(format!("{action:?} came only with a second tick"));
            }
            at = agent.engine.wakeup(engine_now).unwrap_or(Time(u64::MAX));
            if at <= engine_now {
                return self.fail(format!("wakeup says {at} again and again at {engine_now}"));
            }
        }
        let at = at.0.saturating_mul(1000);
        if agent.wake_at != Some(at) && at < u64::MAX / 2 {
            agent.wake_at = Some(at);
            let life = agent.life;
            let delay = at - self.now;
            self.after(delay, Step::Wake(life));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::NewGeneration(_) => {
                self.mark("new generation");
                self.agent_mut().forget_epoch();
                self.send(Request::NewGeneration);
            }
            Action::Drain(id) => {
                let drained = mobility_engine::Drained::default();
                self.start_job(Job::Drain(Drain {
                    disk: disk_index(id),
                    word: 0,
                    dirty_done: false,
                    drained,
                }));
            }
            Action::Scan(id) => self.compare(ComparisonKind::Scan, id, None),
            Action::Compare(id, blocks) => self.compare(ComparisonKind::Compare, id, Some(&blocks)),
            Action::Confirm(id) => self.compare(ComparisonKind::Confirm, id, None),
            Action::Audit(id, blocks) => self.compare(ComparisonKind::Audit, id, Some(&blocks)),
            Action::Copy(id, blocks) => {
                let (disk, blocks) = (disk_index(id), blocks_of(&blocks));
                let room = self.rng.magnitude(1, 200) as usize;
                let unread = BlockSet::new();
                self.start_job(Job::Copy(Copy { disk, blocks, next: 0, buffer: Vec::new(), room, unread }));
            }
            Action::Upload(segment) => self.upload(segment),
            Action::Cut { freeze: Some(_), .. } if !self.healed && self.rng.per_mille(200) => {
                let verdict = match self.rng.within(0, 2) {
                    0 => Verdict::Overrun,
                    1 => Verdict::NotFrozen("frozen by somebody else".to_owned()),
                    _ => Verdict::NothingToFreeze,
                };
                let done = Event::CutDone(verdict, CutFigures::default(), Vec::new());
                self.start_job(Job::Errand(done));
            }
            Action::Cut { plans, budget, freeze } => {
                self.start_job(Job::Cut(Box::new(CutJob::new(plans, budget, freeze))));
            }
            Action::Sync => self.start_job(Job::Errand(Event::Synced)),
            Action::Quiesce(..) => {
                let told = match self.rng.per_mille(300) {
                    true => Err("a script failed".to_owned()),
                    false => Ok(self.rng.per_mille(800)),
                };
                self.start_job(Job::Errand(Event::Quiesced(told)));
            }
            Action::Release(_) => {
                // It may come while the applications are still being told, when the agent stops.
                self.quiesced = false;
                let lost = self.rng.per_mille(100).then(|| "a hold was lost".to_owned());
                self.start_job(Job::Errand(Event::Released(lost.map_or(Ok(()), Err))));
            }
            Action::Commit { generation, epoch, kind, disks } => {
                let disks = disks.iter().map(|disk| self.manifest_disk(disk)).collect();
                let (session, confirming_since) = (self.agent().life, self.agent().confirming_since);
                self.commit(Manifest { generation, epoch, session, kind, disks, confirming_since });
            }
            Action::Settle(id, left) => {
                let left =
                    if self.plan.mutant == Some(Mutant::SettlesEverything) { BlockSet::new() } else { left };
                self.trackers[disk_index(id)].keep_pending(left);
            }
            // That a disk has to be marked is known to this process alone; there a kill is worth the most.
            Action::MarkAll(_) if self.killed_by_chance(30) => {}
            Action::MarkAll(id) => self.trackers[disk_index(id)].mark_all(),
            Action::Stop => self.agent_mut().stopped = true,
        }
    }

    fn compare(&mut self, kind: ComparisonKind, id: DiskId, blocks: Option<&BlockSet>) {
        let disk = disk_index(id);
        let blocks = blocks.map_or_else(|| (0..self.trackers[disk].size).collect(), blocks_of);
        if kind == ComparisonKind::Confirm {
            self.agent_mut().confirming_since = self.stamp;
        }
        let job = Comparison { kind, disk, blocks, next: 0, found: BlockSet::new(), failed: false };
        self.start_job(Job::Comparison(job));
    }

    fn upload(&mut self, id: mobility_engine::SegmentId) {
        let (limits, damaged) = (self.limits, !self.healed && self.rng.per_mille(self.plan.corruption));
        let agent = self.agent_mut();
        agent.uploads += 1;
        let most = if agent.failures > 0 { 1 } else { limits.uploads };
        if agent.uploads > most {
            let uploads = agent.uploads;
            return self.fail(format!("{uploads} uploads at once, {most} allowed"));
        }
        let Some(segment) = agent.segments.get(&id).cloned() else {
            return self.fail(format!("{id:?} is to be uploaded, but void"));
        };
        let object = Object { blocks: segment.blocks, damaged };
        self.send(Request::Put(id, segment.key, object));
    }

    fn manifest_disk(&mut self, disk: &CommitDisk) -> ManifestDisk {
        let mut keys = Vec::new();
        for id in &disk.segments {
            match self.agent().segments.get(id) {
                Some(segment) if segment.durable => keys.push(segment.key),
                other => {
                    let state = other.map(|segment| segment.durable);
                    self.fail(format!("the commit names {id:?}, which is not durable: {state:?}"));
                }
            }
        }
        ManifestDisk { disk: disk_index(disk.id), size: disk.size.blocks(), missing: disk.missing, keys }
    }

    fn commit(&mut self, manifest: Manifest) {
        if self.plan.mutant == Some(Mutant::ClearsPendingBeforeCommit) {
            self.trackers.iter_mut().for_each(|tracker| tracker.pending = BlockSet::new());
        }
        if let CommitKind::Fuzzy(_, reason) = &manifest.kind
            && reason.is_empty()
        {
            self.fail("a fuzzy point without a reason".to_owned());
        }
        self.send(Request::Commit(manifest));
    }

    /// The blocks with a write in flight that the tracker saw being issued.
    pub(crate) fn in_flight(&self, disk: usize) -> BlockSet {
        self.trackers[disk].in_flight()
    }
}
