//! A damaged table is noticed: what is read from it is right, or "not known", or the table is refused whole.

use super::*;
use crate::scan::layout::{HEADER_LEN, Layout, PAGE_LEN};

const WINDOWS: u64 = 4;

/// A table of a disk of four windows, the second of which is zeros, and what it says.
fn intact() -> (Bench, Vec<u8>, Vec<Expected>) {
    let bench = Bench::new(WINDOWS << 20);
    for (block, byte) in [(0, 1), (3, 2), (600, 3), (900, 4), (1023, 5)] {
        bench.fill(BlockRange::new(block, 1), byte);
    }
    let (_, table) = bench.pass(None, head(1));
    let said = said(&table);
    assert_eq!(said[1], Expected::Zero);
    let bytes = fs::read(bench.table_path()).unwrap();
    assert_eq!(bytes.len() as u64, Layout::for_disk(bench.disk().size).file_len());
    (bench, bytes, said)
}

fn said(table: &DigestTable) -> Vec<Expected> {
    (0..WINDOWS).map(|window| table.window(BlockIndex(window * 256)).unwrap()).collect()
}

/// Whether the damage was noticed. Panics where a window was believed that is not what it was.
fn noticed(bench: &Bench, bytes: &[u8], said_before: &[Expected], what: &str) -> bool {
    fs::write(bench.table_path(), bytes).unwrap();
    noticed_in_file(bench, said_before, what)
}

fn noticed_in_file(bench: &Bench, said_before: &[Expected], what: &str) -> bool {
    let Ok(table) = bench.open(head(1)) else { return true };
    let now = said(&table);
    for (window, (now, before)) in now.iter().zip(said_before).enumerate() {
        assert!(now == before || *now == Expected::Unknown, "{what}: window {window} is believed");
    }
    now.contains(&Expected::Unknown)
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (bench, bytes, said) = intact();
    // In place: writing the whole file anew each time takes a minute.
    let file = OpenOptions::new().write(true).open(bench.table_path()).unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        file.write_all_at(&[byte ^ 1 << (at % 8)], at as u64).unwrap();
        assert!(noticed_in_file(&bench, &said, &format!("byte {at}")), "byte {at}");
        file.write_all_at(&[byte], at as u64).unwrap();
    }
    assert!(!noticed_in_file(&bench, &said, "intact"));
}

#[test]
fn lost_swapped_and_cut_parts_are_noticed() {
    let (bench, bytes, said) = intact();
    for at in (0..bytes.len()).step_by(512) {
        let mut lost = bytes.clone();
        lost[at..at + 512].fill(0);
        assert!(lost == bytes || noticed(&bench, &lost, &said, &format!("sector at {at}")), "sector at {at}");
        assert!(noticed(&bench, &bytes[..at], &said, &format!("cut at {at}")));
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(noticed(&bench, &longer, &said, "longer"));
    let layout = Layout::for_disk(bench.disk().size);
    let page = |window| layout.page_at(window) as usize;
    let sum = |window| Layout::sum_at(window) as usize;
    for (a, b) in [(0, 1), (0, 2), (2, 3)] {
        let mut swapped = bytes.clone();
        (0..PAGE_LEN).for_each(|i| swapped.swap(page(a) + i, page(b) + i));
        assert!(noticed(&bench, &swapped, &said, "swapped pages"));
        (0..8).for_each(|i| swapped.swap(sum(a) + i, sum(b) + i));
        assert!(noticed(&bench, &swapped, &said, "swapped pages and sums"));
    }
}

#[test]
fn a_page_left_over_from_an_earlier_table_is_noticed() {
    let (bench, earlier, _) = intact();
    bench.fill(BlockRange::new(3, 1), 77);
    let (_, table) = bench.pass(Some(&bench.open(head(1)).unwrap()), head(2));
    assert_eq!(table.head(), head(2));
    let mut bytes = fs::read(bench.table_path()).unwrap();
    // The writes of one page and of its sum were both lost, so the two agree.
    let (sum, page) = (Layout::sum_at(0) as usize, Layout::for_disk(bench.disk().size).page_at(0) as usize);
    for part in [sum..sum + 8, page..page + PAGE_LEN] {
        assert_ne!(bytes[part.clone()], earlier[part.clone()]);
        bytes[part.clone()].copy_from_slice(&earlier[part]);
    }
    fs::write(bench.table_path(), bytes).unwrap();
    assert!(matches!(bench.open(head(2)), Err(Unusable::Damaged { .. })));
}

#[test]
fn pages_that_change_places_after_the_table_was_opened_are_noticed() {
    let (bench, bytes, _) = intact();
    let table = bench.open(head(1)).unwrap();
    let layout = Layout::for_disk(bench.disk().size);
    let file = OpenOptions::new().write(true).open(bench.table_path()).unwrap();
    for (from, to) in [(0, 2), (2, 0)] {
        let (page, sum) = (layout.page_at(from) as usize, Layout::sum_at(from) as usize);
        file.write_all_at(&bytes[page..page + PAGE_LEN], layout.page_at(to)).unwrap();
        file.write_all_at(&bytes[sum..sum + 8], Layout::sum_at(to)).unwrap();
    }
    assert_eq!(table.window(BlockIndex(0)).unwrap(), Expected::Unknown);
    assert_eq!(table.window(BlockIndex(512)).unwrap(), Expected::Unknown);
}

#[test]
fn damage_is_healed_by_the_pass_that_meets_it() {
    let (bench, mut bytes, said_before) = intact();
    let page = Layout::for_disk(bench.disk().size).page_at(2) as usize;
    bytes[page + 100] ^= 1;
    fs::write(bench.table_path(), bytes).unwrap();
    let table = bench.open(head(1)).unwrap();
    let (outcome, table) = bench.pass(Some(&table), head(2));
    assert_eq!(outcome.unknown, blocks(&[(512, 256)]));
    assert_eq!(outcome.differing, outcome.unknown);
    assert_eq!(said(&table), said_before);
    assert!(bench.pass(Some(&table), head(3)).0.differing.is_empty());
}

#[test]
fn damage_that_is_not_met_stays_known_as_damage() {
    let (bench, mut bytes, _) = intact();
    let page = Layout::for_disk(bench.disk().size).page_at(2) as usize;
    bytes[page + 100] ^= 1;
    fs::write(bench.table_path(), bytes).unwrap();
    let table = bench.open(head(1)).unwrap();
    let mut next = NextTable::create(&bench.table_path(), &bench.disk(), Some(&table)).unwrap();
    let digest = BlockDigest::of(&[6; BLOCK_SIZE]);
    next.record(BlockIndex(700), &[digest]).unwrap();
    let table = next.seal(head(2)).unwrap().adopt().unwrap();
    let Expected::Digests(digests) = table.window(BlockIndex(512)).unwrap() else {
        panic!("one block is known")
    };
    assert_eq!(digests[700 - 512], digest);
    bench.fill(BlockRange::new(700, 1), 6);
    let (outcome, _) = bench.pass(Some(&table), head(3));
    assert_eq!(outcome.unknown, blocks(&[(512, 188), (701, 67)]));
    assert_eq!(outcome.differing, outcome.unknown);
}

#[test]
fn a_table_of_something_else_is_refused_by_name() {
    let (bench, ..) = intact();
    assert!(matches!(bench.open(head(9)), Err(Unusable::OtherHead { found, .. }) if found == head(1)));
    let mut other = bench.disk();
    other.id = mobility_format::DiskId([7; 16]);
    let refused = DigestTable::open(&bench.table_path(), &other, head(1));
    assert!(matches!(refused, Err(Unusable::OtherDisk { .. })));
    fs::write(bench.table_path(), vec![b'x'; HEADER_LEN * 4]).unwrap();
    assert!(matches!(bench.open(head(1)), Err(Unusable::Damaged { .. })));
    fs::remove_file(bench.table_path()).unwrap();
    assert!(matches!(bench.open(head(1)), Err(Unusable::Missing { .. })));
}
