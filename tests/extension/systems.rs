//! Systems that live by rpm, and systems on which the agent does not run.

use std::fs;

use crate::rig::Machine;

/// A machine of this family, with a package for it in the archive.
fn machine(system: &str, package: &str) -> Machine {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("etc")).unwrap();
    fs::write(machine.path("etc/os-release"), system).unwrap();
    fs::write(machine.base.join("packages").join(package), "").unwrap();
    machine
}

#[test]
fn a_system_that_lives_by_rpm_gets_that_package() {
    if std::env::consts::ARCH != "x86_64" {
        return;
    }
    for system in [
        "ID=\"rhel\"\nID_LIKE=\"fedora\"\n",
        "NAME=x\nID=rocky\nID_LIKE=\"rhel centos fedora\"\n",
        "ID=sles\n",
        "ID=azurelinux\n",
    ] {
        let machine = machine(system, "mobility-agent-0.10.0-1.x86_64.rpm");
        machine.settings(
            0,
            &Machine::plain("https://recovery.example.org", r#"{"token":"mobility-token-abc"}"#),
        );
        assert!(machine.succeed("install").contains("0.10.0-1 of the agent was installed"), "{system}");
        assert!(machine.succeed("install").contains("stays"));
        machine.succeed("enable");
        machine.switch("rpm-package", "0.9.0-1\n");
        assert!(machine.succeed("install").contains("was installed"), "an older one is replaced");
        machine.switch("rpm-package", "0.11.0-1\n");
        assert!(machine.succeed("install").contains("0.11.0-1 of the agent is installed, and stays"));
        machine.succeed("uninstall");
        machine.succeed("uninstall");
        assert!(
            !machine.path("var/lib/mobility-agent").exists()
                && !machine.path("usr/bin/mobility-agent").exists()
        );
        machine.switch("locked", "");
        let mut command = machine.command("install", 0);
        command.env("MOBILITY_EXTENSION_LIMIT", "1");
        assert_eq!(machine.finish(command).code, Some(56), "{system}");
        assert!(!machine.calls().contains("dpkg"), "{}", machine.calls());
    }
}

#[test]
fn without_a_package_or_systemd_the_system_is_named_as_the_reason() {
    let without = machine("ID=fedora\n", "mobility-agent_0.1.0_other.deb");
    let ended = without.run("install", 0);
    assert!(ended.code == Some(51) && ended.said.contains("no rpm package"), "{ended:?}");
    assert_eq!(without.level(0).1, 51);
    let several = machine("ID=ubuntu\n", "mobility-agent_0.3.0_all.deb");
    assert_eq!(several.run("install", 0).code, Some(52));
    let broken = machine("ID=debian\n", "x");
    fs::write(broken.base.join("packages/mobility-agent_0.1.0_all.deb"), "no package").unwrap();
    assert_eq!(broken.run("install", 0).code, Some(52));
    // A PATH on which there is nothing but a shell's own tools.
    let bare = Machine::new();
    let bin = bare.scratch.path("state/bin");
    fs::create_dir(&bin).unwrap();
    for tool in ["sh", "dirname", "uname"] {
        std::os::unix::fs::symlink(format!("/bin/{tool}"), bin.join(tool)).unwrap();
    }
    let mut command = bare.command("install", 0);
    command.env("PATH", &bin);
    let ended = bare.finish(command);
    assert!(ended.code == Some(51) && ended.said.contains("systemd"), "{ended:?}");
}
