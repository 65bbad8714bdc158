//! Guest agents repeat commands after restarts, time limits and power cuts: each command, twice and after it was killed half way.

use std::{fs, process::Command, thread, time::Duration};

use mobility_tests::{dice::Dice, requirement::Requirement};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::rig::Machine;

const SERVICE: &str = "https://recovery.example.org";

fn settings() -> Vec<u8> {
    Machine::plain(SERVICE, r#"{"token":"mobility-token-abc"}"#)
}

fn is_gone(machine: &Machine) {
    assert!(machine.package().is_none_or(|shown| shown.contains("not-installed")), "{:?}", machine.package());
    for path in [
        "var/lib/mobility-agent",
        "usr/bin/mobility-agent",
        "etc/systemd/system/mobility-agent-extension.timer",
    ] {
        assert!(!machine.path(path).exists(), "{path}");
    }
    assert!(!machine.scratch.path("state/active").exists(), "the unit runs");
}

#[test]
fn every_command_can_be_repeated() {
    let machine = Machine::new();
    machine.settings(0, &settings());
    assert!(machine.succeed("install").contains("was installed"));
    assert!(machine.succeed("install").contains("stays"));
    machine.succeed("enable");
    let enrolled = machine.calls().matches("agent enroll").count();
    machine.succeed("enable");
    assert_eq!((enrolled, machine.calls().matches("agent enroll").count()), (1, 1));
    assert_eq!(
        (machine.level(0).0.as_str(), machine.heartbeat()["status"].as_str()),
        ("success", Some("Ready"))
    );
    assert_eq!(fs::read_to_string(machine.base.join("mrseq")).unwrap(), "0");
    for name in ["heartbeat", "reset", "disable", "uninstall"] {
        machine.succeed(name);
        machine.succeed(name);
    }
    is_gone(&machine);
    // All over again.
    for name in ["install", "enable", "disable", "enable", "uninstall"] {
        machine.succeed(name);
    }
    is_gone(&machine);
}

#[test]
fn without_a_number_the_newest_settings_count() {
    let machine = Machine::installed();
    machine.settings(7, b"{}");
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(86400);
    fs::File::open(machine.base.join("config/7.settings")).unwrap().set_modified(yesterday).unwrap();
    machine.settings(3, &settings());
    let mut command = machine.command("enable", 0);
    command.env_remove("ConfigSequenceNumber");
    assert_eq!(machine.finish(command).code, Some(0));
    assert_eq!(machine.level(3).0, "success");
}

/// The heartbeat's run tells of the agent, and does not hide that the newest settings could not be followed.
#[test]
fn what_the_agent_does_is_told_every_minute() {
    let machine = Machine::enabled();
    let timer =
        fs::read_to_string(machine.path("etc/systemd/system/mobility-agent-extension.timer")).unwrap();
    assert!(timer.contains("OnUnitActiveSec=60"), "{timer}");
    let service =
        fs::read_to_string(machine.path("etc/systemd/system/mobility-agent-extension.service")).unwrap();
    assert!(
        service.contains(&format!("{} heartbeat", machine.base.join("bin/handler").display())),
        "{service}"
    );
    machine.settings(1, b"{}");
    assert_eq!(machine.run("enable", 1).code, Some(53));
    let told = |outage: &str| {
        let status = format!(
            "{{\"agents\":[{{\"vault\":null,\"machine\":\"0123\",\"outage\":{outage},\"disks\":[{{\"path\":\"/dev/sda\",\
             \"state\":\"resync\",\"size\":100,\"remaining\":63}}]}}]}}"
        );
        machine.switch("status.json", &status);
        machine.succeed("heartbeat");
        machine.status(0)
    };
    let status = told("null");
    assert_eq!(status["substatus"][0]["formattedMessage"]["message"], "resync, 37 %");
    assert_eq!(
        (status["status"].as_str(), machine.heartbeat()["status"].as_str()),
        (Some("success"), Some("Ready"))
    );
    told(r#"{"message":"no answer"}"#);
    assert_eq!(machine.heartbeat()["status"], "NotReady");
    assert_eq!(machine.level(1).0, "error", "the settings are still wrong");
    machine.unswitch("active");
    machine.succeed("heartbeat");
    assert_eq!(
        (machine.level(0).0.as_str(), machine.heartbeat()["status"].as_str()),
        ("error", Some("NotReady"))
    );
}

#[test]
fn systemd_has_nothing_to_say_about_the_units_of_the_heartbeat() {
    let machine = Machine::enabled();
    let units = ["timer", "service"]
        .map(|kind| machine.path(&format!("etc/systemd/system/mobility-agent-extension.{kind}")));
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output();
    let found = verified.map_err(|err| format!("systemd-analyze cannot be asked: {err}"));
    let Some(verified) = Requirement::Packaging.or_skip(found) else { return };
    let said = [verified.stdout, verified.stderr].concat();
    assert!(verified.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Another service in the settings is not followed in silence, and the agent goes on.
#[test]
fn another_service_in_new_settings_is_refused_and_nothing_else_changes() {
    let machine = Machine::enabled();
    machine.settings(1, &Machine::plain("https://other.example.org", r#"{"token":"mobility-token-def"}"#));
    let ended = machine.run("enable", 1);
    assert_eq!(ended.code, Some(53));
    let (level, _, message) = machine.level(1);
    assert_eq!(level, "error");
    assert!(
        message.contains("https://recovery.example.org") && message.contains("https://other.example.org"),
        "{message}"
    );
    assert!(message.contains("stays protected there"), "{message}");
    assert_eq!(machine.calls().matches("agent enroll").count(), 1);
    assert!(machine.scratch.path("state/active").exists());
    // The same service and an expired token: nothing has to be enrolled, so nobody looks at it.
    machine.settings(2, &Machine::plain("https://RECOVERY.example.org/", "no JSON at all"));
    assert_eq!(machine.run("enable", 2).code, Some(0));
}

#[test]
fn a_machine_that_was_enrolled_before_stays_what_it_is() {
    let machine = Machine::installed();
    let state = machine.path("var/lib/mobility-agent");
    fs::create_dir_all(&state).unwrap();
    for name in ["identity", "enrolled"] {
        fs::write(state.join(name), "").unwrap();
    }
    machine.settings(0, &settings());
    let said = machine.succeed("enable");
    assert!(said.contains("was enrolled before"), "{said}");
    assert!(state.join("identity").exists());
}

/// Killed as the guest agent kills, at moments drawn by chance, then called again.
#[test]
fn a_command_that_was_killed_can_be_repeated() {
    for name in ["install", "enable", "disable", "update", "uninstall"] {
        for seed in 0..5 {
            let mut machine = Machine::new();
            machine.settings(0, &settings());
            let before: &[&str] = match name {
                "install" => &[],
                "enable" => &["install"],
                _ => &["install", "enable"],
            };
            before.iter().for_each(|name| drop(machine.succeed(name)));
            machine.variables.push(("VERSION".to_owned(), "1.0.0.0".to_owned()));
            machine.switch("slow", "");
            let mut command = machine.command(name, 0);
            let mut child = machine.start(&mut command);
            // Not to wait for anything: to be at another place each time.
            thread::sleep(Duration::from_millis(Dice::new(seed * 7 + name.len() as u64).within(1, 350)));
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait().unwrap();
            machine.unswitch("slow");
            let ended = machine.run(name, 0);
            assert_eq!(ended.code, Some(0), "{name}, seed {seed}: {}\n{}", ended.said, machine.calls());
            match name {
                "install" => assert_eq!(machine.package().as_deref(), Some("install ok installed 0.1.0")),
                "enable" => assert_eq!(machine.level(0).0, "success", "seed {seed}"),
                "uninstall" => is_gone(&machine),
                _ => {}
            }
            let leftover = |dir: &str| {
                let entries = fs::read_dir(machine.base.join(dir)).unwrap().flatten();
                entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".new")).count()
            };
            assert_eq!(leftover("status") + leftover("."), 0, "{name}, seed {seed}");
        }
    }
}
