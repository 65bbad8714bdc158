//! Other programs that hang, hold a lock or fail: the handler ends before the guest agent would end it, and says what it waited for.

use std::time::Duration;

use crate::rig::{Ended, Machine};

const SERVICE: &str = "https://recovery.example.org";

/// Runs a command that may take `seconds`.
fn within(machine: &Machine, name: &str, seconds: &str) -> Ended {
    let mut command = machine.command(name, 0);
    command.env("MOBILITY_EXTENSION_LIMIT", seconds);
    let ended = machine.finish(command);
    assert!(ended.took < Duration::from_secs(30), "{ended:?}");
    ended
}

fn with_settings() -> Machine {
    let machine = Machine::installed();
    machine.settings(0, &Machine::plain(SERVICE, r#"{"token":"mobility-token-abc"}"#));
    machine
}

#[test]
fn an_enrolment_that_hangs_is_an_error_before_the_platform_loses_patience() {
    let machine = with_settings();
    machine.switch("hang-enroll", "");
    let ended = within(&machine, "enable", "2");
    assert_eq!(ended.code, Some(55), "{}", ended.said);
    let (level, code, message) = machine.level(0);
    assert_eq!((level.as_str(), code), ("error", 55));
    assert!(message.contains("did not end in time"), "{message}");
    assert_eq!(machine.heartbeat()["status"], "NotReady");
    // Nothing of it is left running, and the next try finds its way.
    machine.unswitch("hang-enroll");
    machine.succeed("enable");
    assert_eq!(machine.level(0).0, "success");
}

#[test]
fn systemd_that_hangs_and_an_agent_that_says_nothing_are_errors() {
    let machine = with_settings();
    machine.switch("hang-systemctl", "");
    let ended = within(&machine, "enable", "2");
    assert!(ended.code == Some(1) && ended.said.contains("systemctl enable --now"), "{ended:?}");
    machine.unswitch("hang-systemctl");
    machine.switch("hang-status", "");
    let ended = within(&machine, "enable", "2");
    assert!(ended.code == Some(1) && ended.said.contains("the agent does not run"), "{ended:?}");
    assert_eq!(machine.level(0).0, "error");
    machine.unswitch("hang-status");
    machine.switch("refuse-start", "");
    std::fs::remove_file(machine.scratch.path("state/active")).unwrap();
    let ended = within(&machine, "enable", "5");
    assert!(ended.code == Some(1) && ended.said.contains("journalctl -u mobility-agent"), "{ended:?}");
    machine.unswitch("refuse-start");
    machine.succeed("enable");
}

#[test]
fn a_lock_of_the_package_manager_is_waited_for() {
    let machine = Machine::new();
    machine.switch("locked", "");
    let ended = within(&machine, "install", "1");
    assert_eq!(ended.code, Some(56), "{}", ended.said);
    assert_eq!(machine.level(0).1, 56);
    assert!(machine.calls().matches("dpkg --force").count() >= 2, "{}", machine.calls());
    // Given back while the handler waits.
    let mut command = machine.command("install", 0);
    let mut child = machine.start(&mut command);
    let before = machine.calls().matches("dpkg --force").count();
    mobility_tests::scratch::eventually("another try", Duration::from_secs(20), || {
        (machine.calls().matches("dpkg --force").count() > before).then_some(())
    });
    machine.unswitch("locked");
    assert!(child.wait().unwrap().success());
    assert_eq!(machine.package().as_deref(), Some("install ok installed 0.1.0"));
    machine.switch("locked", "");
    assert_eq!(within(&machine, "uninstall", "1").code, Some(56));
}

#[test]
fn each_refusal_of_a_service_has_its_code() {
    let machine = with_settings();
    for (refusal, code) in [(11, 53), (3, 53), (13, 53), (12, 55), (16, 1), (1, 1)] {
        machine.switch("refuse-enroll", &refusal.to_string());
        let ended = machine.run("enable", 0);
        assert_eq!(ended.code, Some(code), "{refusal}: {}", ended.said);
        assert_eq!(machine.level(0).1, code as u64);
        assert!(!ended.said.contains("mobility-token"), "{}", ended.said);
    }
}

#[test]
fn a_service_that_is_away_does_not_keep_the_agent_on_the_machine() {
    let machine = Machine::enabled();
    machine.switch("refuse-unenroll", "");
    let said = machine.succeed("uninstall");
    assert!(said.contains("the service was not told"), "{said}");
    assert!(machine.package().is_none_or(|shown| shown.contains("not-installed")), "{:?}", machine.package());
    assert!(!machine.path("var/lib/mobility-agent").exists());
}
