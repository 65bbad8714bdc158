//! How points are cut: with a freeze or without, with the applications or without, and who is told what it became.
//!
//! Deliberately not here: what a cut reads and what conflicts; that is `CutDisk`'s, the model's and the simulation's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use mobility_engine::{
    Action, CommitKind, CutDiskOutcome, CutFigures, CutPolicy, DiskStart, Drained, Engine, Event, Fault,
    FaultKind, Known, Limits, PointFigures, Request, Start, Time, Tracking, Verdict,
};
use mobility_format::{
    BlockSet, ByteCount, DiskId, Epoch, Generation,
    manifest::{Consistency, CutMethod},
};

const DISK: DiskId = DiskId([1; 16]);

/// A machine with one disk whose cuts go as `verdicts` has it, the last of them for ever.
struct Machine {
    engine: Engine,
    now: Time,
    told: Result<bool, String>,
    released: Result<(), String>,
    /// Whether the next cuts succeed without a freeze, and with one.
    optimistic: Verdict,
    frozen: Verdict,
    /// What was done since the last point, in words.
    done: Vec<&'static str>,
}

impl Machine {
    fn new(limits: Limits) -> Machine {
        let known = Known::Owed(BlockSet::new());
        let size = ByteCount(1 << 30);
        let disks = vec![DiskStart { id: DISK, size, tracking: Tracking::Continuous, known, in_head: true }];
        let start = Start { limits, seed: 1, head: Some((Generation(1), Epoch(1))), disks };
        Machine {
            engine: Engine::new(Time(0), start),
            now: Time(0),
            told: Ok(true),
            released: Ok(()),
            optimistic: Verdict::Consistent,
            frozen: Verdict::Consistent,
            done: Vec::new(),
        }
    }

    fn with(policy: CutPolicy) -> Machine {
        Machine::new(Limits { cut_policy: policy, ..Limits::default() })
    }

    fn request(&mut self, id: u64, application: bool) {
        self.engine.handle(self.now, Event::PointWanted(Request { id, application }));
    }

    /// Goes on until this was done.
    fn until_done(&mut self, what: &str) {
        while !self.done.contains(&what) {
            match self.engine.poll() {
                Some(action) => self.act(action),
                None => self.wait(),
            }
        }
    }

    fn wait(&mut self) {
        self.now = self.engine.wakeup(self.now).expect("it waits for something").max(self.now);
        self.engine.tick(self.now);
    }

    /// The next point.
    fn point(&mut self) -> CommitKind {
        self.done.clear();
        for _ in 0..1000 {
            while let Some(action) = self.engine.poll() {
                if let Action::Commit { kind, .. } = action {
                    self.engine.handle(self.now, Event::CommitDone(Ok(())));
                    return kind;
                }
                self.act(action);
            }
            self.wait();
        }
        panic!("it never makes a point");
    }

    fn consistent(&mut self) -> PointFigures {
        match self.point() {
            CommitKind::Point(figures) => figures,
            other => panic!("{other:?}"),
        }
    }

    fn act(&mut self, action: Action) {
        let event = match action {
            Action::Drain(id) => Event::Drained(id, Drained { idle: true, ..Drained::default() }),
            Action::Sync => self.did("sync", Event::Synced),
            Action::Quiesce(..) => self.did("pre", Event::Quiesced(self.told.clone())),
            Action::Release(_) => self.did("post", Event::Released(self.released.clone())),
            Action::Cut { freeze, .. } => return self.cut(freeze),
            Action::Audit(id, blocks) => Event::Audited(id, blocks.len(), BlockSet::new()),
            Action::Settle(..) => return,
            other => panic!("{other:?}"),
        };
        self.engine.handle(self.now, event);
    }

    fn did(&mut self, what: &'static str, event: Event) -> Event {
        self.done.push(what);
        event
    }

    fn cut(&mut self, freeze: Option<Duration>) {
        self.done.push(if freeze.is_some() { "frozen cut" } else { "cut" });
        let verdict = if freeze.is_some() { &self.frozen } else { &self.optimistic }.clone();
        let figures = CutFigures { rounds: 2, frozen: freeze.is_some(), ..CutFigures::default() };
        let outcomes = vec![(DISK, CutDiskOutcome::default())];
        let consistent = verdict == Verdict::Consistent;
        self.engine.handle(self.now, Event::CutDone(verdict, figures, outcomes));
        if consistent {
            self.engine.handle(self.now, Event::CutPacked);
        }
    }
}

#[test]
fn nobody_is_stopped_while_that_works() {
    let mut machine = Machine::with(CutPolicy::Auto);
    let figures = machine.consistent();
    assert_eq!((figures.method, figures.consistency), (CutMethod::Optimistic, Consistency::Crash));
    assert_eq!((figures.tries, &*machine.done), (2, &["cut"][..]));
}

#[test]
fn where_tries_keep_failing_points_are_frozen_at_once_and_tried_now_and_then() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.optimistic = Verdict::Conflict(3);
    let figures = machine.consistent();
    assert_eq!((figures.method, figures.consistency), (CutMethod::Freeze, Consistency::FileSystem));
    assert_eq!(machine.done, ["cut", "cut", "cut", "cut", "cut", "sync", "frozen cut"]);
    assert_eq!(figures.tries, 12, "two rounds each");
    machine.consistent();
    assert_eq!(machine.done, ["sync", "frozen cut"], "it knows now");
    machine.optimistic = Verdict::Consistent;
    let methods: Vec<_> = (0..8).map(|_| machine.consistent().method).collect();
    assert!(methods.contains(&CutMethod::Optimistic), "it finds out that the load is over: {methods:?}");
    assert_eq!(methods.last(), Some(&CutMethod::Optimistic), "and then stays with it");
}

#[test]
fn a_freeze_that_does_not_fit_is_tried_again_after_more_copying() {
    let mut machine = Machine::with(CutPolicy::Freeze);
    machine.frozen = Verdict::Overrun;
    let figures = machine.consistent();
    assert_eq!(machine.done.iter().filter(|what| **what == "sync").count(), 5, "{:?}", machine.done);
    assert_eq!(
        (machine.done.last(), figures.method),
        (Some(&"cut"), CutMethod::Optimistic),
        "as a last resort"
    );
    machine.optimistic = Verdict::Unsettled;
    let CommitKind::Fuzzy(figures, reason) = machine.point() else { panic!("not fuzzy") };
    assert!(reason.contains("10 tries") && figures.tries == 20, "{reason}, {figures:?}");
}

#[test]
fn the_policy_may_rule_a_freeze_out() {
    let mut machine = Machine::with(CutPolicy::Optimistic);
    machine.optimistic = Verdict::Conflict(1);
    assert!(matches!(machine.point(), CommitKind::Fuzzy(..)));
    assert_eq!(machine.done, ["cut"; 5]);
    machine.optimistic = Verdict::Consistent;
    machine.request(7, true);
    let figures = machine.consistent();
    assert!(figures.shortfall.unwrap().contains("policy"));
    assert_eq!(figures.requests, [7]);
}

#[test]
fn without_a_file_system_there_is_nothing_to_freeze_and_the_point_is_optimistic_or_fuzzy() {
    let mut machine = Machine::with(CutPolicy::Freeze);
    machine.frozen = Verdict::NothingToFreeze;
    let figures = machine.consistent();
    assert_eq!((figures.method, figures.consistency), (CutMethod::Optimistic, Consistency::Crash));
    machine.optimistic = Verdict::Conflict(1);
    assert!(matches!(machine.point(), CommitKind::Fuzzy(..)));
}

#[test]
fn applications_are_told_after_the_bulk_was_copied_and_let_go_right_after_the_cut() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.request(1, true);
    let figures = machine.consistent();
    assert_eq!((figures.method, figures.consistency), (CutMethod::Freeze, Consistency::Application));
    assert_eq!(machine.done, ["sync", "pre", "sync", "frozen cut", "post"]);
    assert_eq!((figures.requests, figures.shortfall), (vec![1], None));
    let figures = machine.consistent();
    assert_eq!(figures.consistency, Consistency::Crash, "it was one wish");
}

#[test]
fn applications_are_let_go_when_no_cut_succeeds() {
    let mut machine = Machine::with(CutPolicy::Auto);
    (machine.optimistic, machine.frozen) = (Verdict::Conflict(1), Verdict::Overrun);
    machine.request(1, true);
    assert!(matches!(machine.point(), CommitKind::Fuzzy(..)));
    assert_eq!(machine.done.iter().filter(|what| **what == "pre").count(), 1, "they are told once");
    assert_eq!(machine.done.last(), Some(&"post"));
}

#[test]
fn a_cycle_that_begins_again_tells_the_applications_again() {
    let mut machine = Machine::with(CutPolicy::Auto);
    let fault = Fault::new(FaultKind::DiskRead, "a test");
    machine.frozen = Verdict::Unread(DISK, fault);
    machine.request(1, true);
    machine.until_done("post");
    machine.frozen = Verdict::Consistent;
    let figures = machine.consistent();
    assert_eq!(machine.done, ["sync", "pre", "sync", "frozen cut", "post"]);
    assert_eq!(figures.consistency, Consistency::Application);
}

#[test]
fn a_script_that_fails_makes_the_point_crash_consistent_and_says_so() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.told = Err("script 50-postgresql ended with 1".to_owned());
    machine.request(1, true);
    let figures = machine.consistent();
    assert_eq!(figures.consistency, Consistency::Crash);
    assert!(figures.shortfall.unwrap().contains("50-postgresql"));
    assert_eq!(machine.done, ["sync", "pre", "cut"], "those that were told have been let go by then");
}

#[test]
fn a_script_that_says_afterwards_that_it_had_not_held_takes_the_claim_back() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.released = Err("the lock was lost".to_owned());
    machine.request(1, true);
    let figures = machine.consistent();
    assert_eq!(figures.consistency, Consistency::FileSystem);
    assert!(figures.shortfall.unwrap().contains("the lock was lost"));
}

#[test]
fn a_point_without_scripts_does_not_claim_more_than_the_freeze_gave() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.told = Ok(false);
    machine.request(1, true);
    let figures = machine.consistent();
    assert_eq!(figures.consistency, Consistency::FileSystem);
    assert!(figures.shortfall.unwrap().contains("no script"));
}

#[test]
fn application_consistent_points_have_a_schedule_of_their_own() {
    let hour = Duration::from_secs(3600);
    let limits = Limits { interval: hour / 6, application_interval: Some(hour), ..Limits::default() };
    let mut machine = Machine::new(limits);
    let points: Vec<_> = (0..14).map(|_| machine.consistent().consistency).collect();
    let application = points.iter().filter(|&&c| c == Consistency::Application).count();
    assert_eq!((application, points[0]), (2, Consistency::Crash), "{points:?}");
}

#[test]
fn a_request_that_comes_during_a_cut_is_served_by_the_next_point() {
    let mut machine = Machine::with(CutPolicy::Auto);
    machine.consistent();
    machine.request(1, false);
    machine.done.clear();
    while let Some(action) = machine.engine.poll() {
        if matches!(action, Action::Cut { .. }) {
            machine.request(2, false);
        }
        machine.act(action);
        if machine.done.contains(&"cut") {
            break;
        }
    }
    assert_eq!(machine.consistent().requests, [1]);
    assert_eq!(machine.consistent().requests, [2]);
}
