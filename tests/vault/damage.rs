//! Each region of each kind of object flipped, cut, made longer, removed, swapped with another of its kind: `verify` names
//! it, what does not need it still restores, and nothing wrong is ever restored.

use std::{collections::BTreeSet, fs, path::PathBuf};

use mobility_format::{BlockRange, Epoch, manifest::Consistency};
use mobility_recovery::{Catalog, PointId, RestoreError, prune, verify};
use mobility_tests::vault_maker::{Flavour, VaultMaker};

use crate::{
    prune::now,
    support::{listed, restore, restore_and_compare, scratch, tree},
};

/// A vault with every kind of object in it: merged runs of two disks, one of which came later, and single epochs.
fn vault(dir: &std::path::Path) -> VaultMaker {
    let mut maker = VaultMaker::new(dir, 31);
    maker.add_disk("/dev/vda", 3 << 19);
    for epoch in 0..14 {
        if epoch == 5 {
            maker.add_disk("/dev/vdb", 64 << 10);
        }
        maker.write_at_random(0, 2);
        if epoch >= 5 {
            maker.write(1, BlockRange::new(epoch - 5, 2), Flavour::Text);
        }
        // Every point has something of its own that nothing later replaces.
        maker.write(0, BlockRange::new(365 + epoch, 1), Flavour::Noise);
        maker.commit((epoch % 4 != 1).then_some(Consistency::Crash));
        if epoch == 9 {
            prune(&maker.vault, maker.machine, &"1h:45s".parse().unwrap(), now(&maker), false).unwrap();
        }
    }
    maker
}

struct Harm<'a> {
    maker: &'a VaultMaker,
    points: Vec<PointId>,
    output: tempfile::TempDir,
}

impl Harm<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.maker.vault.root().join(name)
    }

    /// With the files changed to `changed` (nothing: removed), `verify` must name all `names`. What it does not call
    /// affected must restore, the rest must be refused where the damage is `certain` to be met.
    fn check(&self, what: &str, changed: &[(&str, Option<Vec<u8>>)], certain: bool) {
        let before: Vec<_> =
            changed.iter().map(|(name, _)| (self.path(name), fs::read(self.path(name)).unwrap())).collect();
        for (name, bytes) in changed {
            match bytes {
                Some(bytes) => fs::write(self.path(name), bytes).unwrap(),
                None => fs::remove_file(self.path(name)).unwrap(),
            }
        }
        let catalog = Catalog::load(&self.maker.vault, self.maker.machine).unwrap();
        let report = verify(&catalog, None, |_| {}).unwrap();
        for (name, _) in changed {
            let found = report.damaged.iter().find(|object| object.key.to_string() == *name);
            assert!(found.is_some(), "{what} of {name} is not named, only {:?}", report.damaged);
        }
        let affected: BTreeSet<_> =
            report.damaged.iter().flat_map(|object| object.points.iter().copied()).collect();
        let lost = |point: &PointId| {
            changed.iter().any(|(name, _)| name.ends_with(&format!("{:020}.point", point.epoch.0)))
        };
        for point in self.points.iter().filter(|point| !lost(point)) {
            let names: Vec<_> = changed.iter().map(|(name, _)| *name).collect();
            let context = format!("{what} of {names:?}, point {point}");
            match restore(&catalog, point.epoch, self.output.path()) {
                Ok(_) => {
                    assert!(
                        !certain || !affected.contains(point),
                        "{context} restores, though it is affected"
                    );
                    restore_and_compare(self.maker, &catalog, point.epoch, self.output.path());
                }
                Err(RestoreError::Content(err)) if err.is_damage() => {
                    assert!(affected.contains(point), "{context}: {err}");
                    let one = verify(&catalog, Some(point.epoch), |_| {}).unwrap();
                    assert!(!one.damaged.is_empty(), "{context}: verifying the point alone finds nothing");
                }
                Err(other) => panic!("{context}: {other}"),
            }
        }
        before.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

/// Offsets in each part of an object of `length` bytes.
fn offsets(name: &str, length: usize) -> Vec<usize> {
    let mut at = vec![0, 8, 10, 12, length / 3, length / 2, length - 33, length - 1];
    if name.ends_with(".seg") {
        at.extend([16, 50, 75, 90, 121, 140]);
        at.extend([24, 60, 120].map(|back| length - back));
        at.extend([1, 20, 52].map(|back| length - 128 - back));
    }
    at.retain(|at| *at < length);
    at.sort_unstable();
    at.dedup();
    at
}

fn kind(name: &str) -> &str {
    let merged = name.contains("/merged/");
    match name.rsplit(['.', '/']).next().unwrap() {
        "seg" if merged => "merged segment",
        other => other,
    }
}

#[test]
fn damage_is_named_and_costs_only_what_needs_it() {
    let dir = scratch();
    let maker = vault(dir.path());
    let names: Vec<String> = tree(&maker.vault).into_keys().collect();
    let kinds: BTreeSet<_> = names.iter().map(|name| kind(name)).collect();
    assert_eq!(kinds, ["machine", "merge", "merged segment", "point", "received", "run", "seg"].into());
    let harm = Harm { maker: &maker, points: listed(&maker), output: scratch() };
    assert!(harm.points.len() >= 5, "{:?}", harm.points);
    harm.check("nothing", &[], true);
    for name in &names {
        let good = fs::read(harm.path(name)).unwrap();
        for at in offsets(name, good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            harm.check(&format!("byte {at}"), &[(name, Some(bad))], !name.ends_with(".seg"));
        }
        for length in [0, good.len() / 2, good.len() - 1] {
            harm.check(&format!("a cut to {length}"), &[(name, Some(good[..length].to_vec()))], true);
        }
        harm.check("a byte more", &[(name, Some([&good[..], &[0]].concat()))], true);
        // Of the newest manifest nothing is left that would tell of it; the agent, whose head it is, knows.
        if name.ends_with(&format!("{:020}.point", maker.committed.len())) {
            continue;
        }
        harm.check("removal", &[(name, None)], true);
    }
}

#[test]
fn objects_that_were_swapped_are_both_named() {
    let dir = scratch();
    let maker = vault(dir.path());
    let names: Vec<String> = tree(&maker.vault).into_keys().collect();
    let harm = Harm { maker: &maker, points: listed(&maker), output: scratch() };
    let mut swaps = 0;
    for (index, name) in names.iter().enumerate() {
        for other in names[index + 1..].iter().filter(|other| kind(other) == kind(name)).take(3) {
            let (a, b) = (fs::read(harm.path(name)).unwrap(), fs::read(harm.path(other)).unwrap());
            if a != b {
                harm.check("a swap", &[(name, Some(b)), (other, Some(a))], true);
                swaps += 1;
            }
        }
    }
    assert!(swaps > 20, "{swaps}");
}

#[test]
fn a_manifest_signed_by_somebody_else_is_not_believed() {
    let dir = scratch();
    let maker = vault(dir.path());
    let catalog = Catalog::load(&maker.vault, maker.machine).unwrap();
    let newest = Epoch(maker.committed.len() as u64);
    let manifest = &catalog.manifest(newest).unwrap().manifest;
    let thief = mobility_format::envelope::SigningKey::from_bytes(&[66; 32]);
    let harm = Harm { maker: &maker, points: listed(&maker), output: scratch() };
    let name = format!("target/{}/points/{:020}.point", maker.machine, newest.0);
    harm.check("a forgery", &[(&name, Some(manifest.sign(&thief).unwrap()))], true);
}
