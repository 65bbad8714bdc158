//! What a newcomer sees first works, on whatever the machine allows, and leaves nothing behind.
//!
//! Deliberately not here: the figures that it prints, which are measured anew each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, process::Command};

use mobility_tests::{binary::program, requirement::Requirement};

fn demo() -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(program("mobility-agent"))
        .args(["demo", "--size", "64", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("200 of 200 documents are back"), "{said}");
    assert!(said.contains("byte for byte"), "{said}");
    assert!(said.lines().count() <= 13, "a dozen lines:\n{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "all of it is thrown away");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "nothing stays mounted");
    said.into_owned()
}

#[test]
fn the_demo_keeps_its_word() {
    demo();
}

#[test]
fn root_the_demo_shows_the_tracker() {
    let able = mobility_capture::ebpf::Tracker::supported().map_err(|err| err.to_string());
    if Requirement::Root.or_skip(able).is_none() {
        return;
    }
    let said = demo();
    assert!(said.contains("eBPF") && said.contains("ext4") && said.contains("cut window"), "{said}");
}
