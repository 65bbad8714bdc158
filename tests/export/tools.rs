//! qemu-img, nbdkit and nbdcopy give the disk that was exported, to the byte.
//!
//! Deliberately not here: mounting (`mount`).

use std::fs;

use mobility_tests::{
    agent_process::program,
    scratch::{Scratch, run, try_run},
    vault_maker::VaultMaker,
};

use crate::rig::{Nbdkit, Serving, content, same, tools};

const SIZE: u64 = (7 << 20) + (300 << 10);

#[test]
fn qemu_img_copies_and_overlays_an_exported_disk() {
    let Some(()) = tools(&["nbdkit", "qemu-img", "qemu-io"]) else { return };
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 81);
    maker.add_disk("/dev/vda", SIZE);
    let held = content(&mut maker, 0);
    let serving = Serving::new(&scratch.path("vault"));
    let socket = scratch.path("nbd");
    let nbdkit = Nbdkit::new(&serving, &socket);
    let over_nbd = format!("nbd+unix:///?socket={}", socket.display());
    // QEMU takes no authority of its own for HTTPS: the runbook says what to do instead.
    let over_https = format!(
        r#"json:{{"driver":"raw","file":{{"driver":"https","url":"{}","sslverify":"off"}}}}"#,
        serving.address(0)
    );
    copies_and_overlays(&scratch, "nbd", &over_nbd, &held);
    // Its driver for HTTPS is a package of its own, which only fits the QEMU of the same distribution.
    match try_run("qemu-img", &["info", &over_https]) {
        Err(said) if said.contains("Unknown") => {
            eprintln!("QEMU has no driver for HTTPS here: not tried without nbdkit");
        }
        _ => copies_and_overlays(&scratch, "https", &over_https, &held),
    }
    drop(nbdkit);
    serving.stop();
}

/// Demands that `source` is copied as it was held, and that a machine can write over it and be made independent of it.
fn copies_and_overlays(scratch: &Scratch, name: &str, source: &str, held: &[u8]) {
    let path = |what: &str| scratch.path(&format!("{name}-{what}"));
    let text = |what: &str| path(what).to_str().unwrap().to_owned();
    let (copy, overlay) = (text("copy.qcow2"), text("overlay.qcow2"));
    // One request at a time: with several QEMU 7.2 stops now and then with its answers in hand, over HTTPS.
    run("qemu-img", &["convert", "-m", "1", "-O", "qcow2", source, &copy]);
    run("qemu-img", &["check", "-q", &copy]);
    run("qemu-img", &["convert", "-O", "raw", &copy, &text("raw")]);
    assert!(same(&path("raw"), held), "{name}");
    // What a machine would boot from: it writes into the overlay, and the point stays what it is.
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", &overlay]);
    run("qemu-io", &["-c", "write -P 0x5a 1M 64k", "-c", "read -P 0x5a 1M 64k", &overlay]);
    run("qemu-img", &["rebase", "-f", "qcow2", "-b", "", &overlay]);
    assert!(!run("qemu-img", &["info", &overlay]).contains("backing"));
    run("qemu-img", &["convert", "-O", "raw", &overlay, &text("own")]);
    let mut expected = held.to_owned();
    expected[1 << 20..(1 << 20) + (64 << 10)].fill(0x5a);
    assert!(same(&path("own"), &expected), "{name}");
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
