//! Pruning keeps what the ladder says, bit for bit, and gives back what the rest took.

use jiff::{SignedDuration, Timestamp};
use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Catalog, ladder::Ladder, prune};
use mobility_tests::vault_maker::{Flavour, VaultMaker, received_at};

use crate::{
    model::history,
    support::{bytes_in, check_all_points, listed, scratch},
};

/// A random ladder for points that are 15 seconds apart.
pub(crate) fn random_ladder(maker: &mut VaultMaker) -> Ladder {
    let steps = ["1min:all", "3min:30s", "10min:1min", "20min:5min"];
    let first = maker.dice.below(4) as usize;
    let count = 1 + maker.dice.below((4 - first) as u64) as usize;
    steps[first..first + count].join(",").parse().unwrap()
}

pub(crate) fn now(maker: &VaultMaker) -> Timestamp {
    received_at(*maker.committed.last_key_value().unwrap().0) + SignedDuration::from_secs(1)
}

#[test]
fn every_kept_point_restores_to_what_the_disks_held() {
    for seed in 100..112 {
        let dir = scratch();
        let mut maker = VaultMaker::new(dir.path(), seed);
        history(&mut maker, 12);
        for _ in 0..4 {
            let ladder = random_ladder(&mut maker);
            let before = listed(&maker);
            let would = prune(&maker.vault, maker.machine, &ladder, now(&maker), true).unwrap();
            assert_eq!(listed(&maker), before, "a dry run changes nothing");
            let report = prune(&maker.vault, maker.machine, &ladder, now(&maker), false).unwrap();
            assert_eq!(
                (&would.kept, &would.removed),
                (&report.kept, &report.removed),
                "seed {seed}, {ladder}"
            );
            assert_eq!(listed(&maker), report.kept, "seed {seed}, {ladder}");
            assert_eq!(report.untouched, []);
            check_all_points(&maker);
            // The agent goes on as if nothing had happened, also where it starts anew and only knows what is stored.
            if maker.dice.below(2) == 0 {
                maker.restart();
            }
            let more = maker.dice.below(8);
            (0..=more).for_each(|_| {
                let disk = maker.dice.below(maker.disks.len() as u64) as usize;
                maker.write_at_random(disk, 3);
                maker.point();
            });
        }
        check_all_points(&maker);
    }
}

#[test]
fn what_was_overwritten_is_given_back() {
    let dir = scratch();
    let mut maker = VaultMaker::new(dir.path(), 5);
    maker.add_disk("/dev/vda", 4 << 20);
    for _ in 0..10 {
        maker.write(0, BlockRange::new(0, 512), Flavour::Noise);
        maker.point();
    }
    let before = bytes_in(dir.path());
    let ladder = "1s:all".parse().unwrap();
    let later = now(&maker) + SignedDuration::from_secs(3600);
    let would = prune(&maker.vault, maker.machine, &ladder, later, true).unwrap();
    let report = prune(&maker.vault, maker.machine, &ladder, later, false).unwrap();
    assert_eq!((report.kept.len(), report.removed.len(), report.merged), (1, 9, 1));
    let (freed, left) = (report.freed as u64, bytes_in(dir.path()));
    assert!(left < before / 9, "one tenth is left of {before}: {left}");
    assert!(freed.abs_diff(before - left) < before / 50, "{freed} of {}", before - left);
    assert!((would.freed as u64).abs_diff(freed) < before / 50, "{} was foreseen, {freed} came", would.freed);
    check_all_points(&maker);
    let again = prune(&maker.vault, maker.machine, &ladder, later, false).unwrap();
    assert_eq!((again.removed.len(), again.merged, again.freed), (0, 0, 0));
}

#[test]
fn what_is_newer_than_the_newest_point_stays() {
    let dir = scratch();
    let mut maker = VaultMaker::new(dir.path(), 6);
    maker.add_disk("/dev/vda", 1 << 20);
    for kind in [true, true, true, false, false] {
        maker.write_at_random(0, 2);
        if kind {
            maker.point()
        } else {
            maker.commit(None)
        };
    }
    let ladder = "1s:all".parse().unwrap();
    let later = now(&maker) + SignedDuration::from_secs(3600);
    prune(&maker.vault, maker.machine, &ladder, later, false).unwrap();
    maker.restart();
    let head = maker.intake.head().unwrap();
    assert_eq!(head.epoch, Epoch(5));
    maker.write_at_random(0, 2);
    maker.point();
    assert_eq!(check_all_points(&maker), 2);
}

#[test]
fn a_damaged_epoch_is_left_alone_and_the_others_are_still_thinned() {
    let dir = scratch();
    let mut maker = VaultMaker::new(dir.path(), 7);
    maker.add_disk("/dev/vda", 1 << 20);
    for _ in 0..12 {
        maker.write(0, BlockRange::new(0, 64), Flavour::Noise);
        maker.point();
    }
    // In its index, which a merge has to read.
    let catalog = Catalog::load(&maker.vault, maker.machine).unwrap();
    let named = catalog.manifest(Epoch(4)).unwrap().manifest.disks[0].segments[0];
    drop(catalog);
    let machine = maker.machine;
    let key = mobility_format::key::TargetKey::Segment {
        machine,
        epoch: Epoch(4),
        disk: maker.disks[0].id,
        session: named.session,
        part: named.part,
    };
    let path = maker.vault.path_of(&key);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 150] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ladder = "30min:1min".parse().unwrap();
    let report = prune(&maker.vault, machine, &ladder, now(&maker), false).unwrap();
    let [untouched] = &report.untouched[..] else { panic!("{report:?}") };
    assert!(
        (untouched.first..=untouched.last).contains(&Epoch(4)) && untouched.reason.contains(&key.to_string())
    );
    assert!(
        report.kept.iter().any(|point| point.epoch == Epoch(4)),
        "nobody but the operator gives up a damaged point"
    );
    assert!(!report.removed.is_empty());
}
