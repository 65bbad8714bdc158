//! qemu-img, nbdkit and nbdcopy give the disk that was exported, to the byte.
//!
//! Deliberately not here: mounting (`mount`).

use std::fs;

use mobility_tests::{
    agent_process::program,
    scratch::{Scratch, run, try_run},
    vault_maker::VaultMaker,
};

use crate::rig::{Serving, content, same, tools};

const SIZE: u64 = (7 << 20) + (300 << 10);

#[test]
fn qemu_img_copies_and_overlays_an_exported_disk() {
    let Some(()) = tools(&["qemu-img"]) else { return };
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 81);
    maker.add_disk("/dev/vda", SIZE);
    let held = content(&mut maker, 0);
    let serving = Serving::new(&scratch.path("vault"));
    // QEMU takes no authority of its own for HTTPS: the runbook says what to do instead.
    let source = format!(
        r#"json:{{"driver":"raw","file":{{"driver":"https","url":"{}","sslverify":"off"}}}}"#,
        serving.address(0)
    );
    let copy = scratch.path("copy.qcow2");
    // One request at a time: with several QEMU 7.2 stops now and then with its answers in hand.
    let copied = try_run("qemu-img", &["convert", "-m", "1", "-O", "qcow2", &source, copy.to_str().unwrap()]);
    if let Err(said) = &copied
        && said.contains("Unknown")
    {
        panic!("QEMU lacks its driver for https (qemu-block-extra): {said}");
    }
    copied.unwrap();
    run("qemu-img", &["check", "-q", copy.to_str().unwrap()]);
    run("qemu-img", &["convert", "-O", "raw", copy.to_str().unwrap(), scratch.path("raw").to_str().unwrap()]);
    assert!(same(&scratch.path("raw"), &held));
    // What a machine would boot from: it writes into the overlay, and the point stays what it is.
    let overlay = scratch.path("overlay.qcow2");
    let backing = source.as_str();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", overlay.to_str().unwrap()]);
    let wrote = ["-c", "write -P 0x5a 1M 64k", "-c", "read -P 0x5a 1M 64k", overlay.to_str().unwrap()];
    run("qemu-io", &wrote);
    run("qemu-img", &["rebase", "-f", "qcow2", "-b", "", overlay.to_str().unwrap()]);
    serving.stop();
    run(
        "qemu-img",
        &["convert", "-O", "raw", overlay.to_str().unwrap(), scratch.path("own").to_str().unwrap()],
    );
    let mut expected = held;
    expected[1 << 20..(1 << 20) + (64 << 10)].fill(0x5a);
    assert!(same(&scratch.path("own"), &expected));
}

#[test]
fn nbdkit_reads_with_the_authority_and_a_key_from_a_file() {
    let Some(()) = tools(&["nbdkit", "nbdcopy", "qemu-img"]) else { return };
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 82);
    maker.add_disk("/dev/vda", SIZE);
    let held = content(&mut maker, 0);
    let serving = Serving::new(&scratch.path("vault"));
    let address = serving.address(0);
    let key = address.split('/').nth(5).unwrap();
    fs::write(scratch.path("key"), key).unwrap();
    let nbdkit = |url: &str, authority: &str, copy: &str| {
        let (url, authority) = (format!("url={url}"), format!("cainfo={authority}"));
        let copied = scratch.path("copy");
        let script = format!("{copy} \"$uri\" {}", copied.display());
        let password = format!("password=+{}", scratch.path("key").display());
        let arguments =
            ["-r", "-U", "-", "curl", &url, &authority, "user=export", &password, "--run", &script];
        try_run("nbdkit", &arguments).map(|_| copied)
    };
    let authority = serving.authority.to_str().unwrap();
    let by_id = address.replace(key, "export");
    assert!(same(&nbdkit(&by_id, authority, "nbdcopy").unwrap(), &held));
    assert!(same(&nbdkit(&by_id, authority, "qemu-img convert -O raw").unwrap(), &held));
    let size = try_run(
        "nbdkit",
        &[
            "-r",
            "-U",
            "-",
            "curl",
            &format!("url={address}"),
            &format!("cainfo={authority}"),
            "--run",
            "nbdinfo --size \"$uri\"",
        ],
    );
    assert_eq!(size.unwrap(), SIZE.to_string());
    // Neither another authority nor another key.
    assert!(nbdkit(&by_id, "/etc/ssl/certs/ca-certificates.crt", "nbdcopy").is_err());
    fs::write(scratch.path("key"), key.replace(&key[..1], if key.starts_with('0') { "1" } else { "0" }))
        .unwrap();
    assert!(nbdkit(&by_id, authority, "nbdcopy").is_err());
    serving.stop();
}

/// An eighth of a file.
fn large_step(path: &str) -> usize {
    fs::metadata(path).unwrap().len() as usize / 8
}

#[test]
fn a_damaged_segment_ends_a_copy_with_an_error() {
    let Some(()) = tools(&["nbdkit", "nbdcopy", "qemu-img"]) else { return };
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 83);
    maker.add_disk("/dev/vda", SIZE);
    content(&mut maker, 0);
    let segments = scratch.path("vault").join(format!("target/{}/segments", maker.machine));
    let large = run("find", &[segments.to_str().unwrap(), "-name", "*.seg", "-size", "+64k"]);
    for path in large.lines() {
        let mut bytes = fs::read(path).unwrap();
        (1..8).for_each(|eighth| bytes[eighth * large_step(path)] ^= 1);
        fs::write(path, bytes).unwrap();
    }
    let serving = Serving::new(&scratch.path("vault"));
    let (url, authority) =
        (format!("url={}", serving.address(0)), format!("cainfo={}", serving.authority.display()));
    let script = format!("nbdcopy \"$uri\" {}", scratch.path("copy").display());
    try_run("nbdkit", &["-r", "-U", "-", "curl", &url, &authority, "--run", &script]).unwrap_err();
    serving.stop();
}

#[test]
fn what_cannot_be_exported_is_said() {
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 84);
    maker.add_disk("/dev/vda", 1 << 20);
    let vault = scratch.path("vault");
    let recovery = program("recovery-service");
    let (recovery, vault) = (recovery.to_str().unwrap(), vault.to_str().unwrap());
    let said = try_run(recovery, &["export", "serve", "--vault", vault]).unwrap_err();
    assert!(said.contains("no recovery points"), "{said}");
    maker.point();
    let said = try_run(recovery, &["export", "serve", "--vault", vault, "--point", "99"]).unwrap_err();
    assert!(said.contains("99"), "{said}");
    let said =
        try_run(recovery, &["export", "serve", "--vault", vault, "--listen", "192.0.2.1:1"]).unwrap_err();
    assert!(said.contains("192.0.2.1:1"), "{said}");
}
