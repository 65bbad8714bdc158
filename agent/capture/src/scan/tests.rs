//! Scans of plain files against tables: what differs is found, whatever happens to the table.

mod damage;
mod steps;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::Mutex,
};

use mobility_format::{Digest, WINDOW_SIZE};
use proptest::prelude::*;

use super::*;
use crate::{direct::AlignedBuf, disk::Disk};

/// A disk in a file, what has been stored of it, and the table of that.
struct Bench {
    dir: tempfile::TempDir,
    image: File,
}

impl Bench {
    fn new(size: u64) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let image =
            OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join("disk")).unwrap();
        image.set_len(size).unwrap();
        Bench { dir, image }
    }

    fn disk(&self) -> Disk {
        Disk::inspect(&self.dir.path().join("disk")).unwrap()
    }

    fn reader(&self) -> DirectReader {
        DirectReader::open(&self.disk()).unwrap()
    }

    fn table_path(&self) -> PathBuf {
        self.dir.path().join("digests")
    }

    /// Fills blocks with `byte`, as far as the disk goes.
    fn fill(&self, range: BlockRange, byte: u8) {
        let room = self.image.metadata().unwrap().len().saturating_sub(range.start.byte_offset());
        let len = range.bytes().0.min(room) as usize;
        self.image.write_all_at(&vec![byte; len], range.start.byte_offset()).unwrap();
    }

    /// Copies `blocks` as the daemon would: reads them now, records what was read.
    fn send(&self, blocks: &BlockSet, next: &mut NextTable) {
        let (reader, mut buf) = (self.reader(), AlignedBuf::for_window());
        for range in crate::direct::read_plan(blocks) {
            reader.read(range, &mut buf).unwrap();
            next.record(range.start, &block_digests(&buf).collect::<Vec<_>>()).unwrap();
        }
    }

    /// One whole pass: scan, send, seal, commit, adopt.
    fn pass(&self, base: Option<&DigestTable>, head: Digest) -> (ScanOutcome, DigestTable) {
        let mut next = NextTable::create(&self.table_path(), &self.disk(), base).unwrap();
        let outcome = Scan::new(&self.reader()).against(&mut next).unwrap();
        self.send(&outcome.differing, &mut next);
        (outcome, next.seal(head).unwrap().adopt().unwrap())
    }

    fn open(&self, head: Digest) -> Result<DigestTable, Unusable> {
        DigestTable::open(&self.table_path(), &self.disk(), head)
    }
}

fn head(number: u8) -> Digest {
    Digest([number; 32])
}

fn blocks(ranges: &[(u64, u64)]) -> BlockSet {
    ranges.iter().map(|&(start, count)| BlockRange::new(start, count)).collect()
}

type Writes = Vec<(u64, u64, u8)>;

fn writes() -> impl Strategy<Value = Writes> {
    prop::collection::vec((0u64..600, prop_oneof![Just(1), 1u64..300], 0u8..3), 0..6)
}

fn apply(bench: &Bench, model: &mut [u8], writes: &Writes) {
    for &(start, count, byte) in writes {
        let range = BlockRange::new(start, count).intersection(BlockRange::new(0, model.len() as u64));
        model[start as usize..][..range.count as usize].fill(byte);
        bench.fill(range, byte);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The model is one byte for each block: what the disk holds, and what was sent of it last.
    #[test]
    fn finds_exactly_what_differs_from_what_was_sent(
        rounds in prop::collection::vec((writes(), writes()), 1..5), tail in 0u64..2, in_flight in 1usize..5,
    ) {
        let bench = Bench::new(700 * BLOCK_SIZE as u64 - tail * 999);
        let (mut disk, mut sent) = ([0u8; 700], [0u8; 700]);
        let mut table: Option<DigestTable> = None;
        for (round, (before, between)) in rounds.iter().enumerate() {
            apply(&bench, &mut disk, before);
            let mut next = NextTable::create(&bench.table_path(), &bench.disk(), table.as_ref()).unwrap();
            let reader = bench.reader();
            let scan = Scan::new(&reader).reads_in_flight(in_flight);
            let outcome = scan.against(&mut next).unwrap();
            let expected: BlockSet = (0..700).filter(|&b| disk[b] != sent[b]).map(|b| BlockIndex(b as u64)).collect();
            prop_assert_eq!(&outcome.differing, &expected);
            prop_assert_eq!(outcome.compared, 700);
            prop_assert!(outcome.unknown.is_empty() && outcome.unreadable.is_empty());

            // Written after the scan saw them: sent as they are now if they are sent, found by the next scan if not.
            apply(&bench, &mut disk, between);
            bench.send(&outcome.differing, &mut next);
            (0..700).filter(|&b| outcome.differing.contains(BlockIndex(b as u64))).for_each(|b| sent[b] = disk[b]);
            let confirmed = scan.against(&mut next).unwrap().differing;
            let left: BlockSet = (0..700).filter(|&b| disk[b] != sent[b]).map(|b| BlockIndex(b as u64)).collect();
            prop_assert_eq!(confirmed, left);

            next.seal(head(round as u8)).unwrap().adopt().unwrap();
            table = Some(bench.open(head(round as u8)).unwrap());
        }
    }

    #[test]
    fn compares_only_what_it_is_asked_to(
        range in (0u64..800, 0u64..800), skip in prop::collection::vec((0u64..700, 1u64..400), 0..4),
        content in writes(), in_flight in 1usize..4,
    ) {
        let bench = Bench::new(700 * BLOCK_SIZE as u64);
        let mut disk = [0u8; 700];
        apply(&bench, &mut disk, &content);
        let (range, skip) = (BlockRange::new(range.0, range.1), blocks(&skip));
        let mut asked = Vec::new();
        let reader = bench.reader();
        let outcome = Scan::new(&reader).reads_in_flight(in_flight).compare(range, &skip, |window| {
            asked.push(window);
            // Every block ought to hold ones.
            Ok::<_, io::Error>(Expected::Digests(Box::new([BlockDigest::of(&[1; BLOCK_SIZE]); _])))
        }).unwrap();
        let looked_at = |b: &u64| range.start.0 <= *b && *b < range.end().0 && !skip.contains(BlockIndex(*b));
        let expected: BlockSet = (0..700).filter(looked_at).filter(|&b| disk[b as usize] != 1).map(BlockIndex).collect();
        prop_assert_eq!(outcome.differing, expected);
        prop_assert_eq!(outcome.compared, (0..700).filter(looked_at).count() as u64);
        let mut windows: Vec<_> = (0..700).filter(looked_at).map(|b| BlockIndex(b).window_start()).collect();
        windows.dedup();
        prop_assert_eq!(asked, windows, "in order, each once, none for nothing");
    }
}

#[test]
fn a_sparse_disk_is_neither_read_nor_stored() {
    let bench = Bench::new(64 << 30);
    let written = blocks(&[(0, 3), (1_000_000, 300), ((64 << 18) - 1, 1)]);
    written.runs().for_each(|run| bench.fill(run, 9));
    for _ in 0..2 {
        let (outcome, table) = bench.pass(None, head(1));
        assert_eq!(outcome.differing, written);
        assert_eq!(outcome.compared, 64 << 18);
        assert!(outcome.read.0 <= 5 * WINDOW_SIZE as u64, "read {}", outcome.read);
        let (again, table) = bench.pass(Some(&table), head(2));
        assert!(again.differing.is_empty());
        let stored = table.file.metadata().unwrap().blocks() * 512;
        assert!(stored < 1 << 20, "the table takes {stored} bytes");
    }
}

#[test]
fn blocks_that_became_zero_differ_and_are_forgotten() {
    let bench = Bench::new(8 << 20);
    bench.fill(BlockRange::new(10, 500), 1);
    let (_, table) = bench.pass(None, head(1));
    bench.fill(BlockRange::new(10, 500), 0);
    let (outcome, table) = bench.pass(Some(&table), head(2));
    assert_eq!(outcome.differing, blocks(&[(10, 500)]));
    for window in 0..8 {
        assert_eq!(table.window(BlockIndex(window * 256)).unwrap(), Expected::Zero);
    }
}

#[test]
fn a_disk_that_grew_is_compared_with_zeros_where_it_is_new() {
    let bench = Bench::new(700 * BLOCK_SIZE as u64 + 5);
    bench.fill(BlockRange::new(0, 701), 4);
    let (_, table) = bench.pass(None, head(1));
    bench.image.set_len(200 << 20).unwrap();
    bench.fill(BlockRange::new(3_000, 2), 4);
    let table_again = bench.open(head(1)).unwrap();
    for table in [table, table_again] {
        let (outcome, grown) = bench.pass(Some(&table), head(2));
        // The block that the disk ended in was stored with zeros behind its end, and holds them now.
        assert_eq!(outcome.differing, blocks(&[(3_000, 2)]));
        assert_eq!(grown.window(BlockIndex(0)).unwrap(), table.window(BlockIndex(0)).unwrap());
    }
    bench.image.set_len(4 << 20).unwrap();
    assert!(matches!(bench.open(head(2)), Err(Unusable::LongerDisk { .. })));
}

#[test]
fn ends_when_told_to_and_reports_how_far_it_is() {
    let bench = Bench::new(16 << 20);
    bench.fill(BlockRange::new(0, 4096), 1);
    let (cancel, progress, paced) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(0));
    let pace = |bytes: ByteCount| *paced.lock().unwrap() += bytes.0;
    let reader = bench.reader();
    for in_flight in [1, 3] {
        cancel.store(false, Ordering::Relaxed);
        let scan = Scan::new(&reader)
            .reads_in_flight(in_flight)
            .cancelled_by(&cancel)
            .reporting_to(&progress)
            .paced_by(&pace);
        let all = BlockRange::new(0, 4096);
        let mut left = 16;
        let expected = |_: BlockIndex| {
            left -= 1;
            cancel.store(left == 0, Ordering::Relaxed);
            Ok::<_, io::Error>(Expected::Zero)
        };
        assert_eq!(scan.compare(all, &BlockSet::new(), expected).unwrap().differing.len(), 4096);
        assert!(matches!(
            scan.compare(all, &BlockSet::new(), |_| Ok::<_, io::Error>(Expected::Zero)),
            Err(ScanError::Cancelled)
        ));
    }
    assert_eq!(progress.into_inner(), 2 * (16 << 20));
    assert!(paced.into_inner().unwrap() >= 2 * (16 << 20));
}

#[test]
fn digests_that_cannot_be_had_end_the_scan() {
    let bench = Bench::new(8 << 20);
    bench.fill(BlockRange::new(0, 2048), 1);
    let reader = bench.reader();
    let outcome =
        Scan::new(&reader).compare(BlockRange::new(0, 2048), &BlockSet::new(), |window| match window.0 {
            512 => Err("the vault is away"),
            _ => Ok(Expected::Zero),
        });
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("block 512") && text.contains("the vault is away"), "{text}");
}
