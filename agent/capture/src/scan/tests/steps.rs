//! A crash between any two steps of making a table leaves one that is right for whichever commit is the head, or none.

use super::*;
use crate::scan::{layout::HEADER_LEN, table::next_path};

/// What a crash leaves: the files as they are, opened by the agent's next start.
fn after_crash(bench: &Bench, head: Digest) -> Result<Vec<Expected>, Unusable> {
    let copy = tempfile::tempdir().unwrap();
    for path in [bench.table_path(), next_path(&bench.table_path())].iter().filter(|path| path.exists()) {
        fs::copy(path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(bench.table_path().file_name().unwrap());
    let found = DigestTable::open(&path, &bench.disk(), head)?;
    assert!(path.exists(), "what was found is in its place");
    Ok((0..2).map(|window| found.window(BlockIndex(256 * window)).unwrap()).collect())
}

#[test]
fn whichever_commit_is_the_head_its_table_is_found_or_none() {
    let bench = Bench::new(2 << 20);
    bench.fill(BlockRange::new(0, 300), 1);
    let (_, old) = bench.pass(None, head(1));
    let said_old = after_crash(&bench, head(1)).unwrap();
    let only_old = |step: &str| {
        assert_eq!(after_crash(&bench, head(1)).unwrap(), said_old, "{step}");
        assert!(after_crash(&bench, head(2)).is_err(), "{step}");
    };

    bench.fill(BlockRange::new(100, 1), 2);
    let mut next = NextTable::create(&bench.table_path(), &bench.disk(), Some(&old)).unwrap();
    only_old("begun");
    let outcome = Scan::new(&bench.reader()).against(&mut next).unwrap();
    only_old("scanned");
    bench.send(&outcome.differing, &mut next);
    only_old("recorded");
    let sealed = next.seal(head(2)).unwrap();
    assert_eq!(after_crash(&bench, head(1)).unwrap(), said_old, "the commit was not made");
    let said_new = after_crash(&bench, head(2)).unwrap();
    assert_ne!(said_new, said_old);
    assert_eq!(sealed.head(), head(2));
    sealed.adopt().unwrap();
    assert!(matches!(after_crash(&bench, head(1)), Err(Unusable::OtherHead { .. })));
    assert_eq!(after_crash(&bench, head(2)).unwrap(), said_new);
}

#[test]
fn the_first_table_is_found_before_and_after_it_is_adopted() {
    let bench = Bench::new(2 << 20);
    bench.fill(BlockRange::new(0, 1), 1);
    let mut next = NextTable::create(&bench.table_path(), &bench.disk(), None).unwrap();
    bench.send(&blocks(&[(0, 1)]), &mut next);
    let sealed = next.seal(head(1)).unwrap();
    let before = after_crash(&bench, head(1)).unwrap();
    sealed.adopt().unwrap();
    assert_eq!(after_crash(&bench, head(1)).unwrap(), before);
}

#[test]
fn a_header_that_is_durable_before_the_pages_is_not_believed() {
    let bench = Bench::new(2 << 20);
    bench.fill(BlockRange::new(0, 300), 1);
    let mut next = NextTable::create(&bench.table_path(), &bench.disk(), None).unwrap();
    bench.send(&blocks(&[(0, 300)]), &mut next);
    let _sealed = next.seal(head(1)).unwrap();
    let path = next_path(&bench.table_path());
    let whole = fs::read(&path).unwrap();
    for (what, lost) in [("sums", HEADER_LEN..2 * HEADER_LEN), ("all", HEADER_LEN..whole.len())] {
        let mut torn = whole.clone();
        torn[lost].fill(0);
        fs::write(&path, torn).unwrap();
        assert!(after_crash(&bench, head(1)).is_err(), "{what}");
    }
    for sectors in 0..8 {
        let mut torn = whole.clone();
        torn[sectors * 512..HEADER_LEN].fill(0);
        fs::write(&path, torn).unwrap();
        assert!(after_crash(&bench, head(1)).is_err(), "{sectors} sectors of the header");
    }
}

#[test]
fn an_abandoned_table_takes_only_its_own_file_along() {
    let bench = Bench::new(2 << 20);
    let create = || NextTable::create(&bench.table_path(), &bench.disk(), None).unwrap();
    let first = create();
    let second = create();
    drop(first);
    assert!(next_path(&bench.table_path()).exists());
    drop(second);
    assert!(!next_path(&bench.table_path()).exists());
    let _sealed = create().seal(head(1)).unwrap();
    assert!(next_path(&bench.table_path()).exists());
}

#[test]
fn a_record_past_the_end_is_refused() {
    let bench = Bench::new((2 << 20) - 4096);
    let mut next = NextTable::create(&bench.table_path(), &bench.disk(), None).unwrap();
    let digests = [BlockDigest::ZERO_BLOCK; 2];
    next.record(BlockIndex(509), &digests).unwrap();
    assert!(next.record(BlockIndex(510), &digests).is_err());
    assert!(next.record(BlockIndex(u64::MAX), &digests).is_err());
}
