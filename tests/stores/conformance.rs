//! What every storage must do, asked of each in the same words.

use std::io;

use mobility_recovery::{Objects, Reading, StorageErrorKind, is_unfinished};
use mobility_tests::dice::Dice;

use crate::support::{self, Storage, everything, keys};

macro_rules! of_every_storage {
    ($($rule:ident),* $(,)?) => {
        mod directory { $(#[test] fn $rule() { super::over(super::support::directory(), super::$rule) })* }
        mod s3 { $(#[test] fn $rule() { super::over(super::support::s3(), super::$rule) })* }
        mod azurite { $(#[test] fn $rule() { super::over(super::support::azurite(), super::$rule) })* }
    };
}

of_every_storage!(
    an_object_is_put_once_and_replaced_when_that_is_asked_for,
    of_many_who_create_one_object_one_succeeds,
    what_is_not_there_is_reported_as_that,
    any_range_is_read_and_none_beyond_the_end,
    lists_are_complete_and_keep_to_their_prefix,
    more_objects_than_a_page_are_listed_and_removed,
    many_are_read_in_order,
    a_draft_is_seen_when_it_is_published,
    objects_are_moved_or_said_to_need_copying,
    keys_of_the_format_are_kept_as_they_are,
);

fn over(storage: Option<Storage>, rule: impl Fn(&dyn Objects)) {
    if let Some(Storage { objects, held }) = storage {
        rule(&*objects);
        drop(held);
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, mobility_recovery::StorageError>) -> StorageErrorKind {
    result.expect_err("it should have failed").kind()
}

fn an_object_is_put_once_and_replaced_when_that_is_asked_for(storage: &dyn Objects) {
    storage.put_new("cache/a/one", b"first").unwrap();
    assert_eq!(kind(storage.put_new("cache/a/one", b"second")), StorageErrorKind::AlreadyThere);
    assert_eq!(storage.read("cache/a/one", 100).unwrap(), b"first");
    assert_eq!(storage.read("cache/a/one", 3).unwrap(), b"fir", "no more than was asked for");
    storage.replace("cache/a/one", b"third, and longer").unwrap();
    assert_eq!(storage.read("cache/a/one", 100).unwrap(), b"third, and longer");
    storage.replace("cache/a/two", b"new").unwrap();
    assert_eq!(storage.size("cache/a/two").unwrap(), Some(3));
    storage.remove(&["cache/a/one".to_owned()]).unwrap();
    storage.put_new("cache/a/one", b"").unwrap();
    assert_eq!(storage.size("cache/a/one").unwrap(), Some(0));
    let large = noise(1, (5 << 20) + 3);
    storage.put_new("cache/large", &large).unwrap();
    assert!(storage.read("cache/large", u64::MAX).unwrap() == large);
}

fn of_many_who_create_one_object_one_succeeds(storage: &dyn Objects) {
    const RIVALS: u64 = 8;
    for round in 0..5 {
        let key = format!("cache/race/{round}");
        let put = |rival: u64| storage.put_new(&key, &noise(rival, 100_000));
        let won: Vec<u64> = std::thread::scope(|scope| {
            let rivals: Vec<_> = (0..RIVALS).map(|rival| scope.spawn(move || (rival, put(rival)))).collect();
            let results = rivals.into_iter().map(|rival| rival.join().unwrap());
            let won = results.filter_map(|(rival, result)| match result {
                Ok(()) => Some(rival),
                Err(err) => {
                    assert_eq!(err.kind(), StorageErrorKind::AlreadyThere, "{err}");
                    None
                }
            });
            won.collect()
        });
        let [winner] = won[..] else { panic!("{} have created {key}", won.len()) };
        assert!(storage.read(&key, u64::MAX).unwrap() == noise(winner, 100_000));
    }
}

fn what_is_not_there_is_reported_as_that(storage: &dyn Objects) {
    assert_eq!(kind(storage.read("target/none", 10)), StorageErrorKind::NotFound);
    assert_eq!(storage.size("target/none").unwrap(), None);
    for reading in [Reading::Ranges, Reading::Whole] {
        let read = storage.open("target/none", reading);
        let found = read.map_err(|err| err.source).and_then(|object| object.length());
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(keys(storage, "target"), Vec::<String>::new());
    assert_eq!(storage.folders("target").unwrap(), Vec::<String>::new());
    storage.remove(&["target/none".to_owned(), "target/a/none".to_owned()]).unwrap();
    storage.remove(&[]).unwrap();
    storage.remove_below("target").unwrap();
    storage.put_new("target/none/some", b"x").unwrap();
    assert_eq!(keys(storage, "target/none/some"), Vec::<String>::new(), "an object is no prefix of itself");
}

fn any_range_is_read_and_none_beyond_the_end(storage: &dyn Objects) {
    let mut dice = Dice::new(7);
    for length in [0, 1, 100, 256 << 10, (9 << 20) + 17] {
        let (key, content) = (format!("target/of-{length}"), noise(length, length as usize));
        storage.put_new(&key, &content).unwrap();
        for reading in [Reading::Ranges, Reading::Whole] {
            let object = storage.open(&key, reading).unwrap();
            assert_eq!(object.length().unwrap(), length);
            let mut ranges = vec![(0, length), (0, length.min(1)), (length, 0)];
            ranges.extend((0..30).map(|_| {
                let (start, longest) = (dice.below(length + 1), 1 << dice.below(22));
                (start, (length - start).min(longest))
            }));
            for (start, count) in ranges {
                let mut read = vec![0xee; count as usize];
                object.read_at(start, &mut read).unwrap();
                assert!(
                    read == content[start as usize..][..count as usize],
                    "{count} from {start} of {length}"
                );
            }
            for (start, count) in [(length, 1), (0, length + 1), (length + 5, 1), (1 << 40, 1)] {
                let mut read = vec![0; count as usize];
                let refused = object.read_at(start, &mut read).expect_err("a range beyond the end");
                assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof, "{count} from {start} of {length}");
            }
        }
    }
}

fn lists_are_complete_and_keep_to_their_prefix(storage: &dyn Objects) {
    let names =
        ["t/a/1", "t/a/2/x", "t/a/2/y", "t/a/0000003-4/run", "t/ab/1", "t/a", "u/1"].map(|name| match name {
            "t/a" => "t/b".to_owned(),
            name => name.to_owned(),
        });
    for name in &names {
        storage.put_new(name, name.as_bytes()).unwrap();
    }
    assert_eq!(keys(storage, "t/a"), ["t/a/0000003-4/run", "t/a/1", "t/a/2/x", "t/a/2/y"]);
    assert_eq!(keys(storage, "t").len(), 6);
    assert_eq!(keys(storage, "").len(), 7);
    assert_eq!(storage.folders("t").unwrap(), ["a", "ab"]);
    assert_eq!(storage.folders("t/a").unwrap(), ["0000003-4", "2"]);
    assert_eq!(storage.folders("").unwrap(), ["t", "u"]);
    let before = jiff::Timestamp::now();
    storage
        .list("t", &mut |listed| {
            assert_eq!(listed.size, listed.key.len() as u64);
            let age = before.duration_since(listed.modified).as_secs().abs();
            assert!(age < 600, "{} was written {age} s ago", listed.key);
        })
        .unwrap();
    storage.remove_below("t/a").unwrap();
    assert_eq!(keys(storage, ""), ["t/ab/1", "t/b", "u/1"]);
}

fn more_objects_than_a_page_are_listed_and_removed(storage: &dyn Objects) {
    let name = |number: u64| format!("target/many/{number:06}");
    let put = |from: u64| (from..1_500).step_by(4).for_each(|n| storage.put_new(&name(n), b"x").unwrap());
    std::thread::scope(|scope| (0..4).for_each(|from| drop(scope.spawn(move || put(from)))));
    storage.put_new("target/many-more", b"y").unwrap();
    assert_eq!(keys(storage, "target/many"), (0..1_500).map(name).collect::<Vec<_>>());
    storage.remove(&(0..1_100).map(name).collect::<Vec<_>>()).unwrap();
    assert_eq!(keys(storage, "target/many").len(), 400);
    storage.remove_below("target/many").unwrap();
    assert_eq!(keys(storage, "target"), ["target/many-more"]);
}

fn many_are_read_in_order(storage: &dyn Objects) {
    let names: Vec<String> = (0..60).map(|number| format!("target/each/{number}")).collect();
    for (number, name) in names.iter().enumerate().filter(|(number, _)| number % 7 != 3) {
        storage.put_new(name, &noise(number as u64, number * 50)).unwrap();
    }
    let mut next = 0;
    storage.read_each(&names, 2_000, &mut |position, read| {
        assert_eq!(position, next);
        next += 1;
        match position % 7 {
            3 => assert_eq!(kind(read), StorageErrorKind::NotFound),
            _ => assert!(read.unwrap() == noise(position as u64, (position * 50).min(2_000))),
        }
        // Whoever gets it may use the storage meanwhile.
        assert_eq!(storage.size(&names[4]).unwrap(), Some(200));
    });
    assert_eq!(next, names.len());
}

fn a_draft_is_seen_when_it_is_published(storage: &dyn Objects) {
    let content = noise(9, (3 << 20) + 100);
    assert!(storage.draft_length() >= 4 << 20);
    let mut draft = storage.draft("target/drafts").unwrap();
    content.chunks(700_001).for_each(|chunk| draft.write_all(chunk).unwrap());
    assert_eq!(draft.length().unwrap(), content.len() as u64);
    let mut read = vec![0; 1000];
    draft.read_at(2_000_000, &mut read).unwrap();
    assert!(read == content[2_000_000..][..1000]);
    let seen = |storage: &dyn Objects| {
        let keys = keys(storage, "target/drafts");
        keys.into_iter().filter(|key| !is_unfinished(key)).collect::<Vec<_>>()
    };
    assert_eq!(seen(storage), Vec::<String>::new());
    draft.publish("target/drafts/one").unwrap();
    assert!(storage.read("target/drafts/one", u64::MAX).unwrap() == content);
    let mut second = storage.draft("target/drafts").unwrap();
    second.write_all(b"shorter").unwrap();
    second.publish("target/drafts/one").unwrap();
    let mut dropped = storage.draft("target/drafts").unwrap();
    dropped.write_all(b"never mind").unwrap();
    drop(dropped);
    assert_eq!(everything(storage), [("target/drafts/one".to_owned(), b"shorter".to_vec())].into());
}

fn objects_are_moved_or_said_to_need_copying(storage: &dyn Objects) {
    let other = support::directory().unwrap();
    other.objects.put_new("cache/x/1", b"one").unwrap();
    other.objects.put_new("cache/x/2", b"two").unwrap();
    storage.put_new("target/y/0", b"moved before").unwrap();
    let moves = [("cache/x/0", "target/y/0"), ("cache/x/1", "target/y/1"), ("cache/x/2", "target/z/2")];
    let moves = moves.map(|(from, to)| (from.to_owned(), to.to_owned()));
    let to_copy = storage.adopt(&*other.objects, &moves).unwrap();
    match storage.as_directory() {
        Some(_) => {
            assert_eq!(to_copy, Vec::<usize>::new());
            assert_eq!(keys(storage, ""), ["target/y/0", "target/y/1", "target/z/2"]);
            assert_eq!(storage.read("target/z/2", 10).unwrap(), b"two");
            assert_eq!(keys(&*other.objects, ""), Vec::<String>::new());
            let gone = [("cache/x/9".to_owned(), "target/y/9".to_owned())];
            assert_eq!(kind(storage.adopt(&*other.objects, &gone)), StorageErrorKind::NotFound);
        }
        None => {
            assert_eq!(to_copy, [0, 1, 2]);
            assert_eq!(keys(storage, ""), ["target/y/0"]);
            assert_eq!(keys(&*other.objects, "").len(), 2);
        }
    }
}

fn keys_of_the_format_are_kept_as_they_are(storage: &dyn Objects) {
    use mobility_format::{
        Digest, DiskId, Epoch, Generation, MachineId, SessionId,
        key::{CacheKey, TargetKey},
    };
    use mobility_recovery::ObjectKey;
    let (machine, disk, session) = (MachineId([0xa1; 16]), DiskId([0xb2; 16]), SessionId([0xc3; 8]));
    let (generation, epoch, first, last) = (Generation(4), Epoch(5), Epoch(1), Epoch(9));
    let mut names = vec![
        CacheKey::Segment { machine, generation, epoch, disk, session, part: 6 }.to_string(),
        CacheKey::Slot { machine, generation, slot: 7 }.to_string(),
        CacheKey::Manifest { machine, generation, epoch }.to_string(),
        TargetKey::Manifest { machine, epoch }.to_string(),
        TargetKey::Segment { machine, epoch, disk, session, part: 8 }.to_string(),
        TargetKey::Run { machine, disk, first, last }.to_string(),
        TargetKey::MergedSegment { machine, disk, first, last, digest: Digest([0xd4; 32]) }.to_string(),
        ObjectKey::Received { machine, epoch }.to_string(),
        ObjectKey::Merge { machine, first, last }.to_string(),
        ObjectKey::Machine { machine }.to_string(),
    ];
    names.iter().for_each(|name| storage.put_new(name, name.as_bytes()).unwrap());
    names.sort();
    assert_eq!(keys(storage, ""), names);
    assert!(names.iter().all(|name| storage.read(name, 1000).unwrap() == name.as_bytes()));
    assert_eq!(storage.folders("target").unwrap(), [machine.to_string()]);
}
