//! A crash at any step of intake or of pruning: whatever is listed restores, and doing it again comes to the same end.

use mobility_format::manifest::Consistency;
use mobility_recovery::{FaultPlan, Intake, IntakeErrorKind, Vault, prune};
use mobility_tests::vault_maker::{VaultMaker, received_at};

use crate::{
    prune::now,
    support::{check_all_points, listed, scratch, tree},
};

fn small(dir: &std::path::Path, seed: u64) -> VaultMaker {
    let mut maker = VaultMaker::new(dir, seed);
    maker.add_disk("/dev/vda", 2 << 20);
    maker.add_disk("/dev/vdb", 1 << 20);
    for _ in 0..3 {
        maker.write_at_random(0, 3);
        maker.write_at_random(1, 2);
        maker.point();
    }
    maker
}

/// Runs `work` with a crash after 0, 1, 2, … steps until it comes through. `check` runs after each crash. What counts is
/// that the vault looks the same in the end as without any crash.
fn crash_everywhere(
    prepare: impl Fn(&std::path::Path) -> VaultMaker,
    work: impl Fn(&VaultMaker, &Vault) -> Result<(), String>,
    check: impl Fn(&mut VaultMaker),
) {
    let dir = scratch();
    let undisturbed = prepare(dir.path());
    work(&undisturbed, &undisturbed.vault).unwrap();
    let expected = tree(&undisturbed.vault);
    for steps in 0.. {
        assert!(steps < 2_000, "it never comes through");
        let dir = scratch();
        let mut maker = prepare(dir.path());
        let plan = FaultPlan::crash_after(steps);
        let first = work(&maker, &maker.vault.with_faults(plan.clone()));
        assert_eq!(first.is_err(), plan.has_struck(), "an error is never swallowed: step {steps}");
        check(&mut maker);
        work(&maker, &maker.vault).unwrap_or_else(|err| panic!("after a crash at step {steps}: {err}"));
        check(&mut maker);
        assert_eq!(tree(&maker.vault), expected, "after a crash at step {steps}");
        if first.is_ok() {
            assert!(steps > 10, "too few steps to be true: {steps}");
            return;
        }
    }
}

#[test]
fn intake_goes_on_where_it_was() {
    crash_everywhere(
        |dir| {
            let mut maker = small(dir, 21);
            // What an earlier session sent and never committed is in the way.
            maker.write_at_random(0, 3);
            let epoch = maker.send(Some(Consistency::Crash));
            let stale = maker.vault.path_of(&mobility_format::key::CacheKey::Manifest {
                machine: maker.machine,
                generation: maker.generation,
                epoch,
            });
            std::fs::remove_file(stale).unwrap();
            maker.committed.remove(&epoch);
            let heads: Vec<_> =
                maker.intake.head().unwrap().disks.iter().map(|disk| disk.last_segment).collect();
            maker.restart();
            maker.forget_sent(&heads);
            maker.write_at_random(0, 4);
            maker.write_at_random(1, 4);
            maker.rewrite_all();
            maker.send(Some(Consistency::Crash));
            maker
        },
        |maker, vault| {
            let epoch = *maker.committed.last_key_value().unwrap().0;
            let mut intake =
                Intake::open(vault, maker.machine, maker.public_key()).map_err(|err| err.to_string())?;
            match intake.admit_at(maker.generation, epoch, received_at(epoch)) {
                Ok(head) => assert_eq!(head.epoch, epoch),
                Err(err) => {
                    assert_eq!(err.kind(), IntakeErrorKind::Retry, "{err}");
                    return Err(err.to_string());
                }
            }
            Ok(())
        },
        |maker| {
            let points = check_all_points(maker);
            assert!((3..=4).contains(&points));
        },
    );
}

#[test]
fn pruning_goes_on_where_it_was() {
    for ladder in ["1s:all", "10min:30s"] {
        crash_everywhere(
            |dir| {
                let mut maker = small(dir, 22);
                // The inputs are single epochs and what an earlier merge made of others.
                let ladder = "10min:45s".parse().unwrap();
                prune(&maker.vault, maker.machine, &ladder, now(&maker), false).unwrap();
                for _ in 0..3 {
                    maker.write_at_random(0, 2);
                    maker.point();
                }
                maker
            },
            |maker, vault| {
                let report = prune(vault, maker.machine, &ladder.parse().unwrap(), now(maker), false);
                let report = report.map_err(|err| err.to_string())?;
                assert_eq!(report.untouched, []);
                Ok(())
            },
            |maker| {
                check_all_points(maker);
                assert!(!listed(maker).is_empty());
                maker.restart();
            },
        );
    }
}
