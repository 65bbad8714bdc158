//! An update, in the order in which the guest agent does it: the version that leaves must not take the machine's identity with it.

use std::{fs, process::Command};

use crate::rig::{Ended, Machine};

fn update(machine: &Machine, own: &str, from: &str, to: &str) -> Ended {
    let mut command: Command = machine.command("update", 1);
    command.env("VERSION", to).env("AZURE_GUEST_AGENT_UPDATING_FROM_VERSION", from);
    command.env("AZURE_GUEST_AGENT_EXTENSION_VERSION", own);
    machine.finish(command)
}

fn is_kept(machine: &Machine) -> bool {
    machine.path("var/lib/mobility-agent/identity").exists()
        && machine.package().is_some_and(|shown| shown.starts_with("install ok installed"))
}

/// A machine on which 1.0.0.0 was enabled and 1.1.0.0 has just been told to take over.
fn in_update() -> Machine {
    let mut machine = Machine::enabled();
    machine.succeed("disable");
    machine.unpack("1.1.0.0");
    assert_eq!(update(&machine, "1.1.0.0", "1.0.0.0", "1.1.0.0").code, Some(0));
    machine
}

#[test]
fn an_update_keeps_identity_and_protection() {
    let mut machine = in_update();
    machine.back_to("1.0.0.0");
    for _ in 0..2 {
        let said = machine.succeed("uninstall");
        assert!(said.contains("stay") && is_kept(&machine), "{said}");
    }
    machine.back_to("1.1.0.0");
    machine.settings(
        1,
        &fs::read(machine.scratch.path("lib/MobilityAgent.MobilityAgentLinux-1.0.0.0/config/0.settings"))
            .unwrap(),
    );
    assert!(machine.run("install", 1).said.contains("0.2.0"));
    assert_eq!(machine.run("enable", 1).code, Some(0));
    assert_eq!(machine.calls().matches("agent enroll").count(), 1, "it was not enrolled anew");
    assert_eq!(machine.package().as_deref(), Some("install ok installed 0.2.0"));
    let service =
        fs::read_to_string(machine.path("etc/systemd/system/mobility-agent-extension.service")).unwrap();
    assert!(service.contains("1.1.0.0"), "{service}");
    // The update is over: what is deleted now is deleted.
    machine.succeed("uninstall");
    assert!(!is_kept(&machine) && !machine.path("var/lib/mobility-agent").exists());
}

#[test]
fn an_update_that_fails_does_not_keep_the_machine_from_being_cleaned() {
    let machine = in_update();
    // Never enabled, and the customer deletes the extension.
    machine.succeed("uninstall");
    assert!(!machine.path("var/lib/mobility-agent").exists());
    assert!(machine.package().is_none_or(|shown| shown.contains("not-installed")));
}

#[test]
fn an_update_of_long_ago_counts_for_nothing() {
    let mut machine = in_update();
    let marker = machine.path("var/lib/mobility-agent/extension-update");
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    content["time"] = (content["time"].as_u64().unwrap() - 4000).into();
    fs::write(&marker, content.to_string()).unwrap();
    machine.back_to("1.0.0.0");
    machine.succeed("uninstall");
    assert!(!machine.path("var/lib/mobility-agent").exists());
}

/// Before a downgrade it is the version that leaves whose `update` is called, with the version to come in both variables.
#[test]
fn a_downgrade_keeps_the_identity_and_the_later_agent() {
    let mut machine = Machine::new();
    machine.unpack("1.1.0.0");
    machine.settings(0, &Machine::plain("https://recovery.example.org", r#"{"token":"mobility-token-abc"}"#));
    for name in ["install", "enable", "disable"] {
        machine.succeed(name);
    }
    assert_eq!(update(&machine, "1.1.0.0", "1.0.0.0", "1.0.0.0").code, Some(0));
    machine.succeed("uninstall");
    assert!(is_kept(&machine));
    machine.back_to("1.0.0.0");
    assert!(machine.succeed("install").contains("0.2.0 of the agent is installed, and stays"));
    machine.settings(0, b"");
    machine.succeed("enable");
}
