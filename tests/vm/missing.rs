//! What `mobility-agent check` says in a machine that lacks something: what it is, why it matters, and what to do.
//!
//! Each lack is made as it comes about: by a mount that hides something, a capability dropped, a parameter of the kernel. Deliberately not here: what
//! `check` says of vaults and disks that cannot be protected (`e2e`).

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use mobility_tests::scratch::Scratch;
use serde_json::Value;

use crate::{
    guest_disk::GuestDisk,
    installed::{can_package, install, put_packages, service},
    machine::{HOST, Machine, base},
};

/// Runs `check` with these flags, as part of a command if one is given, and finds what it says of `of`: the outcome and the message.
#[track_caller]
fn check(machine: &mut Machine, before: &str, flags: &str, of: &str) -> (String, String) {
    let answer = machine.ask(&format!("{before} mobility-agent check --json {flags}"));
    // What is missing is said on standard error as well.
    let json = answer.printed.rsplit_once('}').unwrap_or_else(|| panic!("{answer:?}")).0.to_owned() + "}";
    let said: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let findings = said["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == of);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {of}: {said}"));
    // Whoever reads only the exit code knows as well.
    let missing = findings.iter().any(|finding| finding["outcome"] == "missing");
    assert_eq!(answer.code, if missing { 8 } else { 0 }, "{said}");
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    (text("outcome"), text("message"))
}

/// Demands that `check` says all these words of `of`, with this outcome.
#[track_caller]
fn says(machine: &mut Machine, before: &str, flags: &str, of: &str, outcome: &str, words: &[&str]) {
    let (found, message) = check(machine, before, flags, of);
    assert_eq!(found, outcome, "{of}: {message}");
    for word in words {
        assert!(message.contains(word), "{of}: {message:?} does not say {word:?}");
    }
}

#[test]
fn root_vm_check_explains_what_is_missing() {
    let (Some(base), Some(())) = (base(), can_package()) else { return };
    let scratch = Scratch::new();
    let service = service(&scratch);
    let disk = GuestDisk::new(&base, scratch.path("root.img"));
    put_packages(&disk, &scratch);
    let mut machine = Machine::boot(&scratch.path("vm"), &disk.image);
    install(&mut machine);
    says(&mut machine, "", "", "tracker", "good", &[]);
    disks_are_in_use(&mut machine);
    the_tracker_lacks(&mut machine);
    let made = service.admin(&["token", "create"]);
    let fingerprint = made["ca_fingerprint"].as_str().unwrap();
    let flags = format!("--service {} --ca-fingerprint {fingerprint}", service.address());
    the_service_is_far(&mut machine, &flags);

    machine.run("echo 'set extra=lockdown=confidentiality' >/boot/grub/choice.cfg && sync");
    machine.reboot();
    says(&mut machine, "", "", "tracker", "limited", &["lockdown", "confidentiality", "scan"]);
}

/// A disk that somebody holds is protected as it is. What cannot be is not taken for a disk that lacks something else.
fn disks_are_in_use(machine: &mut Machine) {
    machine.run("truncate -s 8M /run/image && losetup /dev/loop0 /run/image");
    // The kernel refuses to give it to anybody else who wants it for himself alone.
    machine.run("mkswap /dev/loop0 && swapon /dev/loop0");
    says(machine, "", "--disk /dev/loop0", "disk", "good", &["/dev/loop0", "8.00 MiB"]);
    machine.run("swapoff /dev/loop0 && losetup --detach /dev/loop0");
    says(machine, "", "--disk /dev/vda", "disk", "good", &["mounted at /"]);
    says(machine, "", "--disk /dev/vda1", "disk", "missing", &["partition of /dev/vda", "name /dev/vda"]);
    says(machine, "", "--disk /dev/vda --disk /dev/vda", "disks", "missing", &["same disk", "name it once"]);
}

fn the_tracker_lacks(machine: &mut Machine) {
    machine.run("mkdir -p /run/empty && mount --bind /run/empty /sys/kernel/btf");
    says(machine, "", "", "tracker", "limited", &["BTF", "CONFIG_DEBUG_INFO_BTF", "scan"]);
    machine.run("umount /sys/kernel/btf");

    machine.run("umount /sys/fs/bpf");
    says(machine, "", "", "tracker", "limited", &["mount -t bpf bpf /sys/fs/bpf"]);
    machine.run("mount -t bpf bpf /sys/fs/bpf");

    let without = "setpriv --bounding-set=-sys_admin,-bpf,-perfmon";
    says(machine, without, "", "tracker", "limited", &["CAP_BPF", "CAP_PERFMON"]);
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    says(
        machine,
        nobody,
        "--disk /dev/vda",
        "disk",
        "missing",
        &["/dev/vda", "may not be read", "run it as root"],
    );
    says(machine, "", "", "tracker", "good", &[]);
}

fn the_service_is_far(machine: &mut Machine, flags: &str) {
    says(machine, "", flags, "service", "good", &[HOST]);
    says(machine, "", flags, "clock", "good", &[]);
    // A port that is free, as far as anybody knows.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let elsewhere = format!("--service https://{HOST}:{nobody}");
    says(machine, "", &elsewhere, "service", "missing", &["cannot be reached", "refused"]);
    let strange = flags.split_once("--ca").unwrap().0.to_owned() + "--ca-fingerprint " + &"0".repeat(64);
    says(machine, "", &strange, "service", "missing", &["cannot show that it is"]);

    machine.run("date --set '+90 seconds'");
    says(machine, "", flags, "clock", "limited", &["ahead of", "chrony"]);
    machine.run("date --set '-400 days'");
    says(machine, "", flags, "service", "missing", &["clock says", "set it"]);
    machine.run("date --set '+400 days'");
    machine.run("date --set '-90 seconds'");

    let through = format!("{flags} --proxy http://{HOST}:{}", refusing_proxy());
    says(machine, "", &through, "service", "missing", &["proxy", "does not let this machine through"]);
}

/// The port of a proxy that refuses whatever it is asked, as long as the test runs.
fn refusing_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = [0; 1024];
            // Whatever it was, and whether or not the answer is heard.
            let _ = client.read(&mut asked);
            let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        }
    });
    port
}
