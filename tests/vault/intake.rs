//! What intake refuses, and by which kind of error the agent knows what to do.

use std::fs;

use mobility_format::{Generation, PublicKey, key::CacheKey, manifest::Consistency};
use mobility_recovery::{Intake, IntakeError, IntakeErrorKind};
use mobility_tests::vault_maker::VaultMaker;

use crate::support::{check_all_points, scratch, tree};

/// A machine with one point in target storage and a second one in cache storage.
fn sent(dir: &std::path::Path) -> VaultMaker {
    let mut maker = VaultMaker::new(dir, 71);
    maker.add_disk("/dev/vda", 1 << 20);
    maker.write_at_random(0, 3);
    maker.point();
    maker.write_at_random(0, 3);
    maker.send(Some(Consistency::Crash));
    maker
}

/// Changes something and lets the second point be taken in, which must fail and leave nothing behind.
fn refuse(change: impl FnOnce(&mut VaultMaker), expected: IntakeErrorKind) -> IntakeError {
    let dir = scratch();
    let mut maker = sent(dir.path());
    change(&mut maker);
    let epoch = *maker.committed.last_key_value().unwrap().0;
    let err = maker.intake.admit(maker.generation, epoch).unwrap_err();
    assert_eq!(err.kind(), expected, "{err}");
    maker.restart();
    assert_eq!(maker.intake.head().unwrap().epoch.0, 1);
    assert_eq!(check_all_points(&maker), 1);
    err
}

fn cached(maker: &VaultMaker, end: &str) -> std::path::PathBuf {
    let name = tree(&maker.vault)
        .into_keys()
        .find(|name| name.starts_with("cache/") && name.ends_with(end))
        .unwrap();
    maker.vault.root().join(name)
}

#[test]
fn what_is_missing_or_damaged_has_to_be_sent_again() {
    let send_again = IntakeErrorKind::SendAgain;
    let missing =
        |end: &'static str| refuse(move |maker| fs::remove_file(cached(maker, end)).unwrap(), send_again);
    assert!(matches!(missing(".seg"), IntakeError::Missing { key: CacheKey::Segment { .. } }));
    assert!(matches!(missing("/point"), IntakeError::Missing { key: CacheKey::Manifest { .. } }));
    let flip = |end: &'static str, back: usize| {
        let change = move |maker: &mut VaultMaker| {
            let path = cached(maker, end);
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - back;
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        };
        refuse(change, send_again)
    };
    assert!(matches!(flip("/point", 40), IntakeError::DamagedManifest { .. }));
    assert!(
        [1, 100, 150, 4000].iter().all(|back| matches!(flip(".seg", *back), IntakeError::Damaged { .. }))
    );
}

#[test]
fn an_agent_that_was_overtaken_is_told_to_stop() {
    let overtaken = refuse(
        |maker| {
            maker.intake.new_generation().unwrap();
        },
        IntakeErrorKind::Stop,
    );
    assert!(matches!(overtaken, IntakeError::Stale { generation: Generation(1), .. }));
}

#[test]
fn a_machine_keeps_the_key_it_came_with() {
    let dir = scratch();
    let maker = sent(dir.path());
    let other = Intake::open(&maker.vault, maker.machine, PublicKey([9; 32])).unwrap_err();
    assert!(matches!(other, IntakeError::OtherKey { .. }) && other.kind() == IntakeErrorKind::Stop);
}

#[test]
fn a_manifest_in_the_machines_name_by_another_key_is_forged() {
    let change = |maker: &mut VaultMaker| {
        let path = cached(maker, "/point");
        let signed = mobility_format::manifest::SignedManifest::parse(&fs::read(&path).unwrap()).unwrap();
        let thief = mobility_format::envelope::SigningKey::from_bytes(&[66; 32]);
        fs::write(&path, signed.manifest.sign(&thief).unwrap()).unwrap();
    };
    assert!(matches!(refuse(change, IntakeErrorKind::Stop), IntakeError::Forged { .. }));
}

#[test]
fn taking_in_twice_is_taking_in_once_and_empties_cache_storage() {
    let dir = scratch();
    let mut maker = sent(dir.path());
    let epoch = *maker.committed.last_key_value().unwrap().0;
    maker.intake.admit(maker.generation, epoch).unwrap();
    maker.intake.admit(maker.generation, epoch).unwrap();
    assert!(tree(&maker.vault).keys().all(|name| name.starts_with("target/")));
    assert_eq!(check_all_points(&maker), 2);
}
