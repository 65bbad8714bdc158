//! Single rules of the engine that the simulation found broken once, each as the shortest story that shows it.
//!
//! Deliberately not here: whether the rules together lose nothing; that is the simulation's (`tests/sim`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use mobility_engine::{
    Action, CommitDisk, CommitKind, CutDiskOutcome, CutFigures, CutPolicy, DiskStart, Drained, Engine, Event,
    Fault, FaultKind, Known, Limits, NewGeneration, SegmentId, Start, Time, Tracking, Verdict,
};
use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, ByteCount, DiskId, Epoch, Generation};

const A: DiskId = DiskId([1; 16]);
const B: DiskId = DiskId([2; 16]);
const SIZE: ByteCount = ByteCount(1000 * BLOCK_SIZE as u64);

fn tracked(id: DiskId, owed: u64) -> DiskStart {
    let known = Known::Owed(BlockSet::of(BlockRange::new(0, owed)));
    DiskStart { id, size: SIZE, tracking: Tracking::Continuous, known, in_head: true }
}

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, "a test")
}

/// An engine, its time, and what it has asked for and nobody has answered.
struct Story {
    engine: Engine,
    now: Time,
    asked: Vec<Action>,
    segments: u64,
}

impl Story {
    fn new(limits: Limits, disks: Vec<DiskStart>) -> Story {
        let start = Start { limits, seed: 1, head: Some((Generation(1), Epoch(1))), disks };
        let engine = Engine::new(Time(0), start);
        let mut story = Story { engine, now: Time(0), asked: Vec::new(), segments: 0 };
        story.poll();
        story
    }

    fn poll(&mut self) {
        while let Some(action) = self.engine.poll() {
            self.asked.push(action);
        }
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.poll();
    }

    /// Answers what is asked, as a machine without faults and with `dirty` blocks at each drain would, until `stop` finds
    /// what it looks for among what is asked.
    fn until(&mut self, dirty: u64, stop: impl Fn(&Action) -> bool) -> Action {
        for _ in 0..1000 {
            if let Some(found) = self.asked.iter().position(&stop) {
                return self.asked.remove(found);
            }
            if self.asked.is_empty() {
                self.now = self.engine.wakeup(self.now).expect("it neither asks nor waits").max(self.now);
                self.engine.tick(self.now);
                self.poll();
            } else {
                let action = self.asked.remove(0);
                self.answer(action, dirty);
            }
        }
        panic!("it never asks for it");
    }

    fn answer(&mut self, action: Action, dirty: u64) {
        match action {
            Action::NewGeneration(_) => {
                self.tell(Event::Generation(Ok(NewGeneration { generation: Generation(2), head: Epoch(1) })))
            }
            Action::Drain(id) => {
                let blocks = BlockSet::of(BlockRange::new(0, dirty));
                let drained =
                    Drained { touched: blocks.clone(), dirty: blocks, idle: true, ..Drained::default() };
                self.tell(Event::Drained(id, drained));
            }
            Action::Compare(id, _) => self.tell(Event::Compared(id, Ok(BlockSet::new()))),
            Action::Copy(id, _) => {
                self.segment(id);
                self.tell(Event::Copied(id, BlockSet::new(), None));
            }
            Action::Upload(id) => self.tell(Event::Uploaded(id, Ok(()))),
            Action::Cut { plans, freeze, .. } => {
                let outcome = |(id, plan): (_, mobility_engine::CutPlan)| {
                    (id, CutDiskOutcome { read: plan.owed, ..CutDiskOutcome::default() })
                };
                let outcomes = plans.into_iter().map(outcome).collect();
                let figures = CutFigures { rounds: 1, frozen: freeze.is_some(), ..CutFigures::default() };
                self.tell(Event::CutDone(Verdict::Consistent, figures, outcomes));
                self.tell(Event::CutPacked);
            }
            Action::Sync => self.tell(Event::Synced),
            Action::Quiesce(..) => self.tell(Event::Quiesced(Ok(true))),
            Action::Release(_) => self.tell(Event::Released(Ok(()))),
            Action::Commit { .. } => self.tell(Event::CommitDone(Ok(()))),
            Action::Audit(id, blocks) => self.tell(Event::Audited(id, blocks.len(), BlockSet::new())),
            Action::Settle(..) | Action::MarkAll(_) | Action::Stop => {}
            Action::Scan(_) | Action::Confirm(_) => panic!("nothing is polled here"),
        }
    }

    fn segment(&mut self, id: DiskId) {
        self.segments += 1;
        self.tell(Event::SegmentReady(SegmentId(self.segments), id, ByteCount(1)));
    }

    /// The next commit, which stays unanswered.
    fn commit(&mut self, dirty: u64) -> (CommitKind, Vec<CommitDisk>) {
        match self.until(dirty, |action| matches!(action, Action::Commit { .. })) {
            Action::Commit { kind, disks, .. } => (kind, disks),
            _ => unreachable!("it is what was looked for"),
        }
    }
}

fn is_cut(action: &Action) -> bool {
    matches!(action, Action::Cut { .. })
}

fn consistent() -> Event {
    let outcomes = vec![(A, CutDiskOutcome::default())];
    Event::CutDone(Verdict::Consistent, CutFigures::default(), outcomes)
}

#[test]
fn the_last_point_is_cut_after_the_wish_to_stop() {
    let mut story = Story::new(Limits::default(), vec![tracked(A, 1)]);
    story.commit(0);
    story.tell(Event::Stop { after_point: true });
    story.tell(Event::CommitDone(Ok(())));
    assert!(!story.asked.contains(&Action::Stop), "what was written before the wish is in no point yet");
    story.commit(0);
    story.tell(Event::CommitDone(Ok(())));
    assert!(story.asked.contains(&Action::Stop));
}

#[test]
fn a_stop_does_not_wait_for_a_point_that_cannot_be_made() {
    let mut story = Story::new(Limits::default(), vec![tracked(A, 1)]);
    story.commit(0);
    story.tell(Event::CommitDone(Ok(())));
    story.tell(Event::DiskGone(A, fault(FaultKind::DiskGone)));
    story.tell(Event::Stop { after_point: true });
    story.until(0, |action| *action == Action::Stop);
}

#[test]
fn a_disk_that_comes_back_after_the_cut_is_missing_from_the_point() {
    let mut story = Story::new(Limits::default(), vec![tracked(A, 0), tracked(B, 0)]);
    story.tell(Event::DiskGone(B, fault(FaultKind::DiskGone)));
    story.until(0, is_cut);
    story.tell(consistent());
    story.tell(Event::DiskFound(tracked(B, 3)));
    story.tell(Event::CutPacked);
    let (kind, disks) = story.commit(0);
    assert!(matches!(kind, CommitKind::Fuzzy(..)), "{kind:?}");
    assert!(disks.iter().any(|disk| disk.id == B && disk.missing && disk.segments.is_empty()));
}

#[test]
fn a_point_has_the_size_that_the_disk_had_at_the_cut() {
    let mut story = Story::new(Limits::default(), vec![tracked(A, 0)]);
    story.until(0, is_cut);
    story.tell(consistent());
    story.tell(Event::DiskResized(A, ByteCount(2 * SIZE.0)));
    story.tell(Event::CutPacked);
    let (_, disks) = story.commit(0);
    assert_eq!(disks[0].size, SIZE);
}

#[test]
fn what_was_sent_of_a_disk_that_then_fails_is_kept_in_a_checkpoint_and_left_out_of_the_point() {
    let one = ByteCount(BLOCK_SIZE as u64);
    let limits =
        Limits { cut_aim: one, cut_bytes: one, cut_policy: CutPolicy::Optimistic, ..Limits::default() };
    let mut story = Story::new(limits, vec![tracked(A, 0), tracked(B, 500)]);
    for _ in 0..3 {
        story.until(0, |action| matches!(action, Action::Copy(id, _) if *id == B));
        story.segment(B);
        let unread = BlockSet::of(BlockRange::new(7, 2));
        story.tell(Event::Copied(B, unread, Some(fault(FaultKind::DiskRead))));
    }
    let (kind, disks) = story.commit(0);
    assert_eq!(kind, CommitKind::Checkpoint);
    assert!(disks.iter().any(|disk| disk.id == B && !disk.missing && !disk.segments.is_empty()));
    story.tell(Event::CommitDone(Ok(())));
    let settled = |action: &&Action| matches!(action, Action::Settle(id, _) if *id == B);
    let left = story.asked.iter().find(settled).cloned();
    assert_eq!(left, Some(Action::Settle(B, BlockSet::of(BlockRange::new(7, 2)))), "the rest is still owed");
    let (kind, disks) = story.commit(0);
    assert!(matches!(kind, CommitKind::Fuzzy(..)), "{kind:?}");
    assert!(disks.iter().any(|disk| disk.id == B && disk.missing && disk.segments.is_empty()));
}

#[test]
fn a_disk_that_is_written_faster_than_it_is_sent_gets_fuzzy_points_and_not_checkpoints_for_ever() {
    let limits = Limits { checkpoint_bytes: ByteCount(100 * BLOCK_SIZE as u64), ..Limits::default() };
    let mut story = Story::new(limits, vec![tracked(A, 0)]);
    let mut checkpoints = 0;
    loop {
        let (kind, _) = story.commit(500);
        story.tell(Event::CommitDone(Ok(())));
        if let CommitKind::Fuzzy(_, reason) = kind {
            assert!(reason.contains("faster"), "{reason}");
            break;
        }
        checkpoints += 1;
        assert!(checkpoints < 50);
    }
}

#[test]
fn an_initial_replication_is_sent_once_and_not_compared_with_what_it_has_sent() {
    let limits = Limits { checkpoint_bytes: ByteCount(100 * BLOCK_SIZE as u64), ..Limits::default() };
    let known = Known::Nothing("first".to_owned());
    let mut story = Story::new(limits, vec![DiskStart { known, in_head: false, ..tracked(A, 0) }]);
    for _ in 0..10 {
        let (kind, _) = story.commit(0);
        assert_eq!(kind, CommitKind::Checkpoint);
        assert!(!story.asked.iter().any(|action| matches!(action, Action::Compare(..))));
        story.tell(Event::CommitDone(Ok(())));
    }
    let (kind, _) = story.commit(0);
    assert!(matches!(kind, CommitKind::Point(_)), "{kind:?}");
}

#[test]
fn a_new_generation_is_not_asked_of_a_storage_that_has_just_failed() {
    let limits = Limits { cut_bytes: ByteCount(BLOCK_SIZE as u64), ..Limits::default() };
    let mut story = Story::new(limits, vec![tracked(A, 500)]);
    let upload = story.until(0, |action| matches!(action, Action::Upload(_)));
    let Action::Upload(segment) = upload else { unreachable!("it is what was looked for") };
    story.tell(Event::Uploaded(segment, Err(fault(FaultKind::StorageFull))));
    let drain = story.until(0, |action| matches!(action, Action::Drain(_)));
    assert_eq!(drain, Action::Drain(A));
    let unknown = Some("passthrough".to_owned());
    story.tell(Event::Drained(A, Drained { unknown, ..Drained::default() }));
    assert!(
        !story.asked.iter().any(|action| matches!(action, Action::NewGeneration(_))),
        "{:?}",
        story.asked
    );
    story.until(0, |action| matches!(action, Action::NewGeneration(_)));
    assert!(story.now > Time(0));
}

/// The blocks of the next copy, and then its point.
fn copied_and_committed(story: &mut Story) -> BlockSet {
    let Action::Copy(_, blocks) = story.until(0, |action| matches!(action, Action::Copy(..))) else {
        unreachable!("that was looked for")
    };
    story.segment(A);
    story.tell(Event::Copied(A, BlockSet::new(), None));
    let commit = story.until(0, |action| matches!(action, Action::Commit { .. }));
    story.answer(commit, 0);
    blocks
}

#[test]
fn what_is_refused_after_its_commit_is_sent_again_and_what_was_taken_in_is_not() {
    let limits = Limits { cut_aim: ByteCount(0), ..Limits::default() };
    let mut story = Story::new(limits, vec![tracked(A, 10)]);
    assert_eq!(copied_and_committed(&mut story), BlockSet::of(BlockRange::new(0, 10)), "epoch 2");
    story.tell(Event::TakenIn(Epoch(2)));
    let drain = story.until(0, |action| matches!(action, Action::Drain(_)));
    story.answer(drain, 3);
    assert_eq!(copied_and_committed(&mut story), BlockSet::of(BlockRange::new(0, 3)), "epoch 3");
    let part = BlockSet::of(BlockRange::new(500, 2));
    story.tell(Event::Doubted(vec![(A, Some(part.clone()))], "epoch 3 is damaged".to_owned()));
    story.until(0, |action| matches!(action, Action::NewGeneration(_)));
    story.tell(Event::Generation(Ok(NewGeneration { generation: Generation(2), head: Epoch(2) })));
    let compare = story.until(0, |action| matches!(action, Action::Compare(..)));
    assert_eq!(compare, Action::Compare(A, part), "what the service doubts");
    story.tell(Event::Compared(A, Ok(BlockSet::new())));
    let copy = story.until(0, |action| matches!(action, Action::Copy(..)));
    assert_eq!(copy, Action::Copy(A, BlockSet::of(BlockRange::new(0, 3))), "what epoch 3 held");
    story.segment(A);
    story.tell(Event::Copied(A, BlockSet::new(), None));
    let commit = story.until(0, |action| matches!(action, Action::Commit { .. }));
    assert!(
        matches!(commit, Action::Commit { generation: Generation(2), epoch: Epoch(3), .. }),
        "{commit:?}"
    );
}

#[test]
fn while_replication_rests_only_a_point_that_is_asked_for_is_made() {
    let limits = Limits { paused: true, ..Limits::default() };
    let mut story = Story::new(limits, vec![tracked(A, 10)]);
    story.now = Time(3_600_000);
    story.tell(Event::Synced);
    assert_eq!((story.engine.wakeup(story.now), story.asked.len()), (None, 0));
    story.tell(Event::PointWanted(mobility_engine::Request { id: 1, application: false }));
    story.until(0, |action| matches!(action, Action::Commit { .. }));
}

#[test]
fn a_storage_that_wishes_to_be_left_alone_is_whatever_was_under_way() {
    let mut story = Story::new(Limits::default(), vec![tracked(A, 500)]);
    story.until(0, |action| matches!(action, Action::Copy(..)));
    story.segment(A);
    story.segment(A);
    let ids: Vec<_> = story.asked.iter().filter_map(upload_of).collect();
    assert_eq!(ids.len(), 2);
    story.asked.retain(|action| upload_of(action).is_none());
    let wish = Fault { wait: Some(Duration::from_secs(5)), ..fault(FaultKind::Storage) };
    story.tell(Event::Uploaded(ids[0], Err(wish)));
    story.tell(Event::Uploaded(ids[1], Ok(())));
    let asks_at = |story: &mut Story, millis| {
        story.now = Time(millis);
        story.engine.tick(story.now);
        story.poll();
        story.asked.iter().any(|action| upload_of(action).is_some())
    };
    assert!(!asks_at(&mut story, 4_900), "it asks while it is to leave the storage alone");
    assert!(asks_at(&mut story, 5_600), "it never asks again");
}

fn upload_of(action: &Action) -> Option<SegmentId> {
    match action {
        Action::Upload(id) => Some(*id),
        _ => None,
    }
}
