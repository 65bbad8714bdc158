//! `recovery-service` as people and scripts use it: what it prints, and its exit codes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use mobility_format::{BlockRange, Epoch, manifest::Consistency};
use mobility_tests::{
    binary::program,
    vault_maker::{Flavour, VaultMaker, time_of},
};
use serde_json::Value;

use crate::support::{listed, scratch, tree};

fn run(arguments: &[&str]) -> Output {
    let binary = program("recovery-service");
    Command::new(binary).args(arguments).env_remove("RUST_BACKTRACE").output().unwrap()
}

#[track_caller]
fn expect(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    assert_eq!(
        err.is_empty(),
        matches!(code, 0 | 4),
        "what went wrong is told on stderr, and nothing else: {err}"
    );
    out
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&expect(0, &[arguments, &["--json"]].concat())).unwrap()
}

/// Three points and a checkpoint; the newest point is fuzzy.
fn vault(dir: &Path) -> VaultMaker {
    let mut maker = VaultMaker::new(dir, 51);
    maker.add_disk("/dev/vda", (3 << 20) + 512);
    maker.add_disk("/var/lib/images/data.img", 1 << 20);
    for consistency in
        [Some(Consistency::Crash), None, Some(Consistency::FileSystem), Some(Consistency::Fuzzy)]
    {
        maker.write_at_random(0, 3);
        maker.write(1, BlockRange::new(3, 5), Flavour::Noise);
        maker.commit(consistency);
    }
    maker
}

#[test]
fn points_are_listed_oldest_first_and_without_checkpoints() {
    let dir = scratch();
    let maker = vault(dir.path());
    let vault = dir.path().to_str().unwrap();
    let list = json(&["points", "--vault", vault]);
    let points = list["points"].as_array().unwrap();
    let column = |name: &str| points.iter().map(|point| point[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("epoch"), [1, 3, 4]);
    assert_eq!(column("consistency"), ["crash", "file-system", "fuzzy"]);
    assert_eq!(column("id"), listed(&maker).iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(column("time"), [1, 3, 4].map(|epoch| time_of(Epoch(epoch)).to_string()));
    assert_eq!(points[0]["machine"], maker.machine.to_string());
    assert_eq!(points[0]["disks"][0]["size"], (3 << 20) + 512);
    assert_eq!(points[0]["cut"]["method"], "optimistic");
    assert!(points[0]["stored_bytes"].as_u64() > points[0]["changed_blocks"].as_u64());
    let table = expect(0, &["points", "--vault", vault]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(2).unwrap().contains("2023-11-14T22:14:05Z  file-system"), "{table}");
}

#[test]
fn points_are_chosen_by_id_time_epoch_and_latest() {
    let dir = scratch();
    let maker = vault(dir.path());
    let vault = dir.path().to_str().unwrap();
    let output = scratch();
    let out = output.path().to_str().unwrap();
    let ids = listed(&maker).iter().map(ToString::to_string).collect::<Vec<_>>();
    let restore = |point: &str, more: &[&str]| {
        let arguments =
            [&["restore", "--vault", vault, "--output", out, "--force", "--point", point], more].concat();
        let report = json(&arguments);
        let epoch = Epoch(report["point"].as_str().unwrap().split('-').next().unwrap().parse().unwrap());
        for (disk, name) in [(0, "vda.img"), (1, "data.img")] {
            let restored = fs::read(output.path().join(name)).unwrap();
            assert!(restored == maker.committed[&epoch].disks[disk].1, "{name} of point {point}");
        }
        epoch.0
    };
    assert_eq!(restore("latest", &[]), 3, "a fuzzy point is not chosen");
    assert_eq!(restore("latest", &["--allow-fuzzy"]), 4);
    assert_eq!(restore(&ids[2], &[]), 4, "but when named");
    assert_eq!(restore(&ids[1][..4], &[]), 3);
    assert_eq!(restore("1", &[]), 1);
    assert_eq!(
        restore(&time_of(Epoch(2)).to_string(), &[]),
        1,
        "the newest at or before, checkpoints are none"
    );
    assert_eq!(restore(&time_of(Epoch(3)).to_string(), &[]), 3);
    assert_eq!(restore("2100-01-01T00:00:00Z", &[]), 3);
    let expect_missing = |point: &str| {
        expect(3, &["restore", "--vault", vault, "--output", out, "--force", "--point", point]);
    };
    ["2", "99", "1-00000000", "", "2001-01-01T00:00:00Z", "yesterday"].into_iter().for_each(expect_missing);
}

#[test]
fn exit_codes_tell_scripts_what_went_wrong() {
    let dir = scratch();
    let maker = vault(dir.path());
    let vault = dir.path().to_str().unwrap();
    let output = scratch();
    let out = output.path().join("new/dir").to_str().unwrap().to_owned();
    let base = ["restore", "--vault", vault, "--point", "1"];
    let restore = |more: &[&'static str]| {
        [&base[..], &["--output", &out], more].concat().iter().map(|s| s.to_string()).collect::<Vec<_>>()
    };
    let code = |code, arguments: Vec<String>| {
        expect(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    code(0, restore(&[]));
    code(5, restore(&[]));
    code(0, restore(&["--force", "--disk", "vda"]));
    code(3, restore(&["--force", "--disk", "vdz"]));
    code(3, restore(&["--force", "--machine", "0123456789"]));
    code(2, restore(&["--to-device", "/dev/null"]));
    expect(2, &base);
    expect(2, &["prune", "--vault", vault, "--keep", "often"]);
    expect(5, &[&base[..], &["--disk", "vda", "--to-device", "/dev/null"]].concat());
    expect(3, &[&base[..], &["--to-device", "/dev/null"]].concat());
    expect(6, &[&base[..], &["--disk", "vda", "--to-device", "/dev/no-such-device"]].concat());
    expect(6, &[&base[..], &["--output", "/proc/no/such"]].concat());
    expect(3, &["points", "--vault", "/nonexistent"]);
    expect(3, &["points", "--vault", output.path().to_str().unwrap()]);
    expect(0, &["verify", "--vault", vault]);
    expect(0, &["verify", "--vault", vault, "--point", "latest"]);
    // Damage: found by verify, refused by restore, and the other points are as before.
    let (name, _) = tree(&maker.vault)
        .into_iter()
        .find(|(name, _)| name.contains(&format!("segments/{:020}", 3)))
        .unwrap();
    let path = dir.path().join(&name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[50] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(expect(4, &["verify", "--vault", vault]).contains(&name));
    let report: Value = serde_json::from_str(&expect(4, &["verify", "--vault", vault, "--json"])).unwrap();
    assert_eq!(report["machines"][0]["damaged"][0]["key"], name);
    let refused = run(&["restore", "--vault", vault, "--point", "latest", "--output", &out, "--force"]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8(refused.stderr).unwrap().contains(&name));
    expect(0, &["verify", "--vault", vault, "--point", "1"]);
    code(0, restore(&["--force"]));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn prune_tells_what_it_would_do_and_does_it() {
    let dir = scratch();
    let maker = vault(dir.path());
    let vault = dir.path().to_str().unwrap();
    let prune = |more: &[&str]| json(&[&["prune", "--vault", vault, "--keep", "1s:all"], more].concat());
    let would = prune(&["--dry-run"]);
    assert_eq!(would["machines"][0]["removed"].as_array().unwrap().len(), 1);
    assert_eq!(listed(&maker).len(), 3);
    let done = prune(&[]);
    assert_eq!(done["machines"][0]["removed"], would["machines"][0]["removed"]);
    assert_eq!(listed(&maker).len(), 2, "the newest stays, and the newest that is not fuzzy");
    expect(0, &["verify", "--vault", vault]);
}
