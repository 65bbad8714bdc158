//! What is refused, with which exit code, and in which words.
//!
//! Deliberately not here: refusals that need a device (`root/faults`).

use std::{fs, path::Path, process::Command};

use mobility_tests::{
    agent_process::{Setup, program, refusal},
    scratch::{MIB, Scratch},
};

use crate::scan::image;

#[track_caller]
fn refused(command: Command, scratch: &Scratch, code: i32, words: &[&str]) {
    let (found, said) = refusal(command, scratch);
    assert_eq!(found, code, "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "{word} is not in: {said}"));
}

fn of(scratch: &Scratch, disk: &Path) -> Setup {
    Setup::new(scratch, &[disk])
}

#[test]
fn a_disk_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let nothing = scratch.path("nothing");
    refused(of(&scratch, &nothing).command(), &scratch, 4, &["no such disk", "lsblk", "nothing"]);
    refused(of(&scratch, scratch.dir()).command(), &scratch, 4, &["whole block device"]);
    let empty = scratch.path("empty");
    fs::write(&empty, "").unwrap();
    refused(of(&scratch, &empty).command(), &scratch, 4, &["holds no bytes"]);
    assert!(!scratch.path("vault").exists(), "nothing is made for a disk that cannot be protected");
}

#[test]
fn a_vault_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let image = image(&scratch, MIB);
    let mut setup = of(&scratch, &image);
    setup.vault = scratch.path("foreign");
    fs::create_dir(&setup.vault).unwrap();
    fs::write(setup.vault.join("precious"), "text").unwrap();
    refused(setup.command(), &scratch, 5, &["neither a vault nor empty"]);
    assert_eq!(fs::read_dir(&setup.vault).unwrap().count(), 1);
    setup.vault = image.clone();
    refused(setup.command(), &scratch, 5, &["disk.img"]);
    // One of a later version.
    setup.vault = scratch.path("later");
    fs::create_dir(&setup.vault).unwrap();
    fs::write(setup.vault.join("VAULT"), "mobility-agent vault\nversion 99\n").unwrap();
    refused(setup.command(), &scratch, 5, &["upgrade"]);
}

#[test]
fn a_second_agent_on_the_same_vault_is_refused() {
    let scratch = Scratch::new();
    let image = image(&scratch, MIB);
    let setup = of(&scratch, &image);
    let mut agent = setup.start();
    agent.wait_until_protected();
    refused(setup.command(), &scratch, 5, &["another agent", "vault of its own"]);
    agent.wait_for_points(1);
    agent.terminate();
}

#[test]
fn an_image_has_no_tracker() {
    let scratch = Scratch::new();
    let image = image(&scratch, MIB);
    let setup = of(&scratch, &image).flags(&["--capture", "ebpf"]);
    refused(setup.command(), &scratch, 6, &["cannot be tracked", "--capture scan"]);
}

#[test]
fn a_configuration_that_is_not_valid_is_refused() {
    let scratch = Scratch::new();
    let image = image(&scratch, MIB);
    let with = |text: &str| {
        let setup = of(&scratch, &image);
        setup.configure(text);
        setup.command()
    };
    refused(with("interval = '10ms'"), &scratch, 3, &["interval", "between"]);
    refused(with("interval = 10"), &scratch, 3, &["50-test.toml", "line"]);
    refused(with("[limits]\nupload-rate = '1'"), &scratch, 3, &["50-test.toml", "512KiB"]);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(program("mobility-agent"));
        command.args(["run", "--config-root"]).arg(scratch.path("none")).args(arguments);
        command
    };
    let state = scratch.path("state");
    refused(run(&["--state-dir", state.to_str().unwrap()]), &scratch, 15, &["not enrolled", "enroll"]);
    refused(run(&["--vault", "/nowhere"]), &scratch, 3, &["--debug"]);
    refused(run(&["--debug"]), &scratch, 3, &["--vault"]);
    refused(run(&["--debug", "--vault", "/nowhere"]), &scratch, 3, &["--disk"]);
    refused(run(&["--interval", "15"]), &scratch, 2, &["15s"]);
    refused(Command::new(program("mobility-agent")), &scratch, 2, &["Usage"]);
}

#[test]
fn a_status_of_nobody_says_so() {
    let scratch = Scratch::new();
    let mut command = Command::new(program("mobility-agent"));
    command.args(["status", "--runtime-dir"]).arg(scratch.path("run"));
    refused(command, &scratch, 7, &["no agent is running"]);
}

#[test]
fn the_configuration_in_force_can_be_shown_and_read_again() {
    let scratch = Scratch::new();
    let setup = of(&scratch, &image(&scratch, MIB));
    setup.configure("interval = '90s'\n[limits]\nupload-rate = '4MiB'\n");
    let mut command = setup.command();
    let shown = command.arg("--print-config").output().unwrap();
    assert!(shown.status.success());
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("1m 30s") && shown.contains("upload-rate = \"4MiB\""), "{shown}");
    let mut again = setup.clone();
    again.config_root = scratch.path("again");
    again.configure(&shown);
    let output = again.command().arg("--print-config").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
}
