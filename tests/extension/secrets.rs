//! Where secrets go: nowhere. Every file that exists after each command is looked through.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::rig::{CERTIFICATE, Machine};

const TOKEN: &str = "mobility-token-4f9Q2xsecretsecret";
const PASSWORD: &str = "Pr0xyPassw0rd";

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Nothing secret is in any file of the machine, and none is in a place that a test does not see.
fn no_secret(machine: &Machine, when: &str) {
    let mut found = Vec::new();
    files(machine.scratch.dir(), &mut found);
    assert!(found.len() > 10);
    let sealed = |path: &Path| path.extension().is_some_and(|suffix| suffix == "settings");
    for path in &found {
        let content = fs::read(path).unwrap();
        let has = |secret: &str| content.windows(secret.len()).any(|window| window == secret.as_bytes());
        for secret in [TOKEN, PASSWORD] {
            assert!(!has(secret), "{when}: {}", path.display());
        }
        if !sealed(path) {
            assert!(!has(&CERTIFICATE.thumbprint), "{when}: {}", path.display());
        }
    }
}

fn settings(proxy: &str) -> Vec<u8> {
    let mut content: Value = serde_json::from_slice(&Machine::plain(
        "https://recovery.example.org",
        &json!({"token": TOKEN, "proxy": proxy}).to_string(),
    ))
    .unwrap();
    content["runtimeSettings"][0]["handlerSettings"]["publicSettings"]["caFingerprint"] =
        json!("ab".repeat(32));
    content.to_string().into_bytes()
}

#[test]
fn no_secret_is_in_any_file_or_command_line() {
    let machine = Machine::installed();
    machine.settings(0, &settings(&format!("http://me:{PASSWORD}@proxy.example:3128")));
    // A service that refuses, and an agent that says the token when it does.
    machine.switch("refuse-enroll", "11");
    let ended = machine.run("enable", 0);
    assert!(ended.code == Some(53) && ended.said.contains("(hidden)"), "{ended:?}");
    no_secret(&machine, "refused");
    // One that hangs, and is killed with the token in its pipe.
    machine.unswitch("refuse-enroll");
    machine.switch("hang-enroll", "");
    let mut command = machine.command("enable", 0);
    command.env("MOBILITY_EXTENSION_LIMIT", "1.5");
    assert_eq!(machine.finish(command).code, Some(55));
    no_secret(&machine, "late");
    machine.unswitch("hang-enroll");
    machine.succeed("enable");
    no_secret(&machine, "enrolled");
    // It did get there, the token alone.
    let told = fs::read_to_string(machine.scratch.path("state/tokens")).unwrap();
    let sum = mobility_tests::scratch::run("sh", &["-c", &format!("printf %s {TOKEN} | sha256sum")]);
    assert_eq!(told.trim(), sum);
    let calls = machine.calls();
    assert!(
        calls.contains("--token-file=/dev/stdin") && calls.contains("--proxy-env=MOBILITY_PROXY"),
        "{calls}"
    );
    for name in ["heartbeat", "disable", "uninstall"] {
        machine.succeed(name);
        no_secret(&machine, name);
    }
}

/// What the handler's log is for, and that it does not grow for ever.
#[test]
fn the_log_says_what_was_done() {
    let machine = Machine::enabled();
    let log = machine.scratch.path("log/handler.log");
    let said = fs::read_to_string(&log).unwrap();
    for line in [" install [", "0.1.0 of the agent was installed", " enable [", "sequence number 0"] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    fs::write(&log, vec![b'x'; 2 << 20]).unwrap();
    machine.succeed("enable");
    assert!(fs::metadata(&log).unwrap().len() < 4096);
    assert_eq!(fs::metadata(machine.scratch.path("log/handler.log.1")).unwrap().len(), 2 << 20);
}
