//! What the units let the programs do, as systemd itself judges it.
//!
//! Deliberately not here: whether the programs can do their work so, which takes a service manager.

use std::{fs, path::Path, process::Command};

use mobility_tests::binary::program;

use crate::made::{AGENT, PRODUCTS, Product, SERVICE, can_make, root, text};

fn unit(product: Product) -> String {
    text(&format!("systemd/{}.service", product.name))
}

/// The values that a unit gives to a setting, comments left out.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

#[test]
fn units_expose_no_more_than_they_may() {
    if !can_make() {
        return;
    }
    for (product, most) in [(AGENT, 25), (SERVICE, 20)] {
        let judged = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")])
            .arg(root().join(format!("systemd/{}.service", product.name)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(said.contains("Overall exposure level"), "{said}{}", String::from_utf8_lossy(&judged.stderr));
        assert!(judged.status.success(), "more than {most} tenths:\n{said}");
    }
}

/// As installed, but for the place of the programs: this machine has none in /usr/bin.
#[test]
fn units_and_drop_ins_verify_without_a_word() {
    if !can_make() {
        return;
    }
    for product in PRODUCTS {
        let dir = tempfile::tempdir().unwrap();
        let programs = program(product.name).parent().unwrap().display().to_string();
        let placed = unit(product)
            .replace(&format!("/usr/bin/{}", product.name), &format!("{programs}/{}", product.name));
        let path = dir.path().join(format!("{}.service", product.name));
        fs::write(&path, placed).unwrap();
        verify(&path);
        let drop_ins = dir.path().join(format!("{}.service.d", product.name));
        fs::create_dir(&drop_ins).unwrap();
        for example in
            fs::read_dir(root().join("systemd/examples").join(product.name)).unwrap().map(Result::unwrap)
        {
            fs::copy(example.path(), drop_ins.join(example.file_name())).unwrap();
            verify(&path);
        }
        // Whoever looks for mistakes finds them: otherwise silence would prove nothing.
        fs::write(drop_ins.join("wrong.conf"), "[Service]\nMemoryMaximum=1G\n").unwrap();
        assert!(complaints(&path).contains("MemoryMaximum"));
    }
}

fn complaints(unit: &Path) -> String {
    // Manual pages are in the package, and looked for there.
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output().unwrap();
    let said = [verified.stdout, verified.stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), if verified.status.success() { "" } else { "refused" })
}

#[track_caller]
fn verify(unit: &Path) {
    assert_eq!(complaints(unit), "", "{}", unit.display());
}

/// What the guard of frozen file systems relies on, which nothing else would notice.
#[test]
fn nothing_that_ends_the_agent_ends_its_guard_before_it_has_thawed() {
    let unit = unit(AGENT);
    let protect = text("agent/capture/src/freeze/guard/protect.rs");
    // SIGTERM at a stop, and the watchdog's signal, go to all of the control group.
    assert_eq!(values(&unit, "KillMode"), ["control-group"]);
    let signal = values(&unit, "WatchdogSignal");
    assert_eq!(signal.len(), 1);
    for signal in ["SIGTERM", signal[0]] {
        assert!(protect.contains(&format!("libc::{signal},")), "the guard does not ignore {signal}");
    }
    // Outside the sandbox: to build that, the service manager makes mount points on the root file system.
    assert_eq!(values(&unit, "ExecStopPost"), ["+/usr/bin/mobility-agent thaw"]);
    for before in values(&unit, "ExecStartPre") {
        assert!(before.starts_with("-+") && !before.contains("mkdir -p"), "{before} waits for a frozen root");
    }
    // The record of what is frozen, and the head that trackers go on from.
    assert_eq!(values(&unit, "RuntimeDirectoryPreserve"), ["yes"]);
    // The service manager makes these before it runs anything, `thaw` as well, and would wait for a frozen file system.
    for directory in ["StateDirectory", "CacheDirectory", "LogsDirectory", "ConfigurationDirectory"] {
        assert!(values(&unit, directory).is_empty(), "{directory} is on a disk that may be frozen");
    }
}

#[test]
fn the_agent_can_neither_listen_nor_write_to_disks_nor_lose_sight_of_file_systems() {
    let unit = unit(AGENT);
    assert_eq!(values(&unit, "SocketBindDeny"), ["any"]);
    assert!(values(&unit, "SocketBindAllow").is_empty());
    assert!(
        values(&unit, "DeviceAllow").iter().all(|allowed| allowed.ends_with(" r")),
        "a device may be written"
    );
    assert_ne!(values(&unit, "ProtectHome"), ["yes"], "a file system at /home would not be frozen");
    assert!(values(&unit, "PrivateTmp").is_empty(), "a file system at /tmp would not be frozen");
    assert!(values(&unit, "PrivateDevices").is_empty());
    // Each capability has a reason in front of it.
    let lines: Vec<_> = unit.lines().collect();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("CapabilityBoundingSet=")) {
        assert!(lines[at - 1].starts_with("# "), "{}: no reason", lines[at]);
    }
}

/// Trying again is left to a person exactly where the documented code says that it is of no use.
#[test]
fn codes_that_are_not_tried_again_are_documented() {
    let documented = text("docs/EXIT_CODES.md");
    for code in values(&unit(AGENT), "RestartPreventExitStatus")[0].split(' ') {
        assert!(documented.contains(&format!("\n| {code} | ")), "{code} is not in docs/EXIT_CODES.md");
    }
}
