//! What `status` calls the backlog: nothing that is still to be sent is left out of it, wherever it is on its way.
#![allow(clippy::unwrap_used)]

use mobility_engine::{
    Action, DiskStart, Drained, Engine, Event, Fault, FaultKind, Known, Limits, NewGeneration, SegmentId,
    Start, Time, Tracking,
};
use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, ByteCount, DiskId, Epoch, Generation};

const DISK: DiskId = DiskId([1; 16]);
const SIZE: ByteCount = ByteCount(1000 * BLOCK_SIZE as u64);
const NOW: Time = Time(0);

fn blocks(count: u64) -> BlockSet {
    BlockSet::of(BlockRange::new(0, count))
}

fn engine(tracking: Tracking, in_head: bool, known: Known) -> Engine {
    // A pass before each cut, however little there is to send.
    let limits = Limits { cut_aim: ByteCount(0), ..Limits::default() };
    let head = in_head.then_some((Generation(1), Epoch(1)));
    let disks = vec![DiskStart { id: DISK, size: SIZE, tracking, known, in_head }];
    Engine::new(NOW, Start { limits, seed: 1, head, disks })
}

fn backlog(engine: &Engine) -> ByteCount {
    engine.status().disks[0].backlog
}

/// Asserts that the engine asks for something that is `wanted`, and leaves it unanswered.
#[track_caller]
fn asks(engine: &mut Engine, wanted: impl Fn(&Action) -> bool) {
    let asked: Vec<_> = std::iter::from_fn(|| engine.poll()).collect();
    assert!(asked.iter().any(wanted), "{asked:?}");
}

/// Copies, and leaves a segment of `length` that waits.
fn copied(engine: &mut Engine, length: u64) {
    engine.handle(NOW, Event::SegmentReady(SegmentId(1), DISK, ByteCount(length)));
    engine.handle(NOW, Event::Copied(DISK, BlockSet::new(), None));
    asks(engine, |action| *action == Action::Upload(SegmentId(1)));
}

#[test]
fn a_scanned_disk_that_is_new_is_all_to_send_until_it_was_scanned() {
    let mut engine = engine(Tracking::Polling, false, Known::Owed(BlockSet::new()));
    assert_eq!(backlog(&engine), SIZE);
    engine.handle(NOW, Event::Generation(Ok(NewGeneration { generation: Generation(1), head: Epoch(0) })));
    asks(&mut engine, |action| *action == Action::Scan(DISK));
    assert_eq!(backlog(&engine), SIZE, "while it is scanned");
    engine.handle(NOW, Event::Scanned(DISK, Ok(blocks(10))));
    asks(&mut engine, |action| matches!(action, Action::Copy(..)));
    assert_eq!(backlog(&engine), blocks(10).bytes(), "while it is copied");
    copied(&mut engine, 100);
    assert_eq!(backlog(&engine), ByteCount(100), "while it is uploaded");
    engine.handle(NOW, Event::Uploaded(SegmentId(1), Ok(())));
    assert_eq!(backlog(&engine), ByteCount(0));
}

#[test]
fn what_waits_in_an_outage_is_part_of_it() {
    let mut engine = engine(Tracking::Continuous, true, Known::Owed(blocks(10)));
    assert_eq!(backlog(&engine), blocks(10).bytes());
    asks(&mut engine, |action| *action == Action::Drain(DISK));
    engine.handle(NOW, Event::Drained(DISK, Drained { dirty: blocks(20), ..Drained::default() }));
    asks(&mut engine, |action| matches!(action, Action::Copy(..)));
    assert_eq!(backlog(&engine), blocks(20).bytes(), "while it is copied");
    copied(&mut engine, 100);
    let fault = Fault::new(FaultKind::StorageFull, "a test");
    engine.handle(NOW, Event::Uploaded(SegmentId(1), Err(fault)));
    assert_eq!(backlog(&engine), ByteCount(100));
}

#[test]
fn what_is_being_compared_is_part_of_it() {
    let mut engine = engine(Tracking::Continuous, true, Known::Nothing("a test".to_owned()));
    assert_eq!(backlog(&engine), SIZE);
    engine.handle(NOW, Event::Generation(Ok(NewGeneration { generation: Generation(2), head: Epoch(1) })));
    engine.handle(NOW, Event::Drained(DISK, Drained::default()));
    asks(&mut engine, |action| matches!(action, Action::Compare(..)));
    assert_eq!(backlog(&engine), SIZE);
    engine.handle(NOW, Event::Compared(DISK, Ok(blocks(3))));
    asks(&mut engine, |action| matches!(action, Action::Copy(..)));
    assert_eq!(backlog(&engine), blocks(3).bytes());
}
