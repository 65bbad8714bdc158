//! Application-consistent points with the real server and the ready-made script, end to end; and one whose script fails.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use mobility_tests::{
    agent_process::Point,
    load_postgresql::{Writers, replayed},
};

use crate::{
    rig::{Rig, ready_made},
    tell,
};

/// What is written between the checkpoint and the cut is less than this, by far.
const SHORT: u64 = 16 << 20;

#[test]
fn root_postgresql_is_told_of_a_point_and_a_script_that_fails_is_not_hidden() {
    // Points come on request only.
    let Some(mut rig) = Rig::new("ext4", None, &["--interval", "1h"]) else { return };
    let scripts = rig.scratch.path("scripts");
    fs::create_dir(&scripts).unwrap();
    let config = rig.scratch.path("postgresql.conf");
    fs::write(&config, format!("POSTGRESQL_SOCKETS={}\n", rig.server().socket().display())).unwrap();
    // The ready-made script, told where this server is by the variable that is there for that.
    let script = ready_made("50-postgresql");
    let calls = format!("MOBILITY_POSTGRESQL_CONFIG={} exec {} \"$@\"", config.display(), script.display());
    put(&scripts.join("50-postgresql"), &calls);
    rig.setup = rig.setup.clone().flags(&["--scripts", scripts.to_str().unwrap()]);
    let agent = rig.start();
    let writers = Writers::start(rig.server(), 2, Duration::from_millis(10));
    let bench = rig.server().bench(Some(40));

    let (code, said) = rig.setup.ask_for_point(&["--app-consistent", "--timeout", "60s"]);
    assert_eq!(code, Some(0), "{said}\n{}", rig.setup.log_tail());
    let told = rig.setup.points().pop().unwrap();
    assert_eq!(
        (told.consistency.as_str(), told.cut("method").as_str()),
        ("application", Some("freeze")),
        "{told:?}"
    );
    assert!(names(&said, &told), "{said}\n{told:?}");
    let told_of = checkpoint_said(&rig.setup.log);

    // Those before it are told that it is over, and the point is made.
    put(&scripts.join("90-fails"), "echo $1 >>\"${0%/*}/../failing-was-told\"; [ $1 = post ]");
    let (code, said) = rig.setup.ask_for_point(&["--app-consistent", "--timeout", "60s"]);
    assert_eq!(code, Some(9), "{said}\n{}", rig.setup.log_tail());
    let failed = rig.setup.points().pop().unwrap();
    assert_ne!(failed.id, told.id);
    assert!(["crash", "file-system"].contains(&failed.consistency.as_str()), "{failed:?}");
    let reason = failed.cut("reason").as_str().unwrap_or_default();
    assert!(reason.contains("90-fails"), "{failed:?}");
    assert!(said.contains(reason) && names(&said, &failed), "{said}");
    let calls = fs::read_to_string(rig.scratch.path("failing-was-told")).unwrap();
    assert_eq!(calls.split_whitespace().collect::<Vec<_>>(), ["pre", "post"]);

    drop(bench);
    let ledger = writers.stop();
    rig.stop_server();
    agent.terminate();
    rig.unmount();
    let restored = rig.restore(&told);
    let found = rig.programs.control(&restored.data(), "Latest checkpoint location");
    assert_eq!(found, told_of, "the point does not begin with the checkpoint that was made for it");
    let server = rig.recover(&restored, &told);
    server.check().unwrap();
    server.stop();
    drop(restored);
    let replayed = replayed(&rig.recovery_log());
    tell(&format!(
        "application-consistent: checkpoint at {told_of}, recovery replayed {replayed} bytes; held {} us; then: {said}",
        told.cut("held_us")
    ));
    assert!(replayed < SHORT, "{replayed} bytes were replayed after a checkpoint");
    for point in [&told, &failed] {
        let _ = rig.check(point, &ledger, &[]);
    }
}

/// Whether the answer names the point, by its epoch and its digest.
fn names(said: &str, point: &Point) -> bool {
    let (epoch, digest) = point.id.split_once('-').unwrap();
    said.contains(&format!("epoch {epoch},")) && said.contains(digest)
}

fn put(path: &Path, commands: &str) {
    fs::write(path, format!("#!/bin/sh\n{commands}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The last checkpoint that the script's output in the agent's log speaks of.
fn checkpoint_said(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap();
    let line =
        log.lines().rfind(|line| line.contains("checkpoint at")).expect("the script's output is logged");
    line.split_whitespace().last().unwrap().to_owned()
}
