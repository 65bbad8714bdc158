//! A machine that runs from a point before it is restored: QEMU boots from an overlay over nbdkit, and copies its disk meanwhile.
//!
//! The machine is a boot sector: it says that it runs, and keeps its processor. Deliberately not here: an operating system, which
//! `tests/vm` has.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use mobility_tests::{
    boot_sector,
    scratch::{Scratch, eventually, run},
    vault_maker::VaultMaker,
};
use serde_json::{Value, json};

use crate::rig::{Nbdkit, PATIENCE, Serving, content, same, tools};

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Talks to QEMU.
struct Monitor {
    stream: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Monitor {
    fn new(path: &Path) -> Monitor {
        let stream = eventually("QEMU's monitor", PATIENCE, || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut monitor = Monitor { stream, lines };
        monitor.until(|said| said.get("QMP").is_some());
        monitor.tell(&json!({ "execute": "qmp_capabilities" }));
        monitor
    }

    fn tell(&mut self, what: &Value) -> Value {
        writeln!(self.stream, "{what}").unwrap();
        let answer = self.until(|said| said.get("return").is_some() || said.get("error").is_some());
        assert!(answer.get("error").is_none(), "{answer}");
        answer["return"].clone()
    }

    fn until(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        let mut said = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        said.find(is).expect("QEMU has ended")
    }
}

#[test]
fn a_machine_boots_from_an_export_while_its_disk_is_copied() {
    let Some(()) = tools(&["nbdkit", "qemu-img", "qemu-system-x86_64"]) else { return };
    let scratch = Scratch::new();
    let mut maker = VaultMaker::new(&scratch.path("vault"), 85);
    maker.add_disk("/dev/vda", 24 << 20);
    let mut held = content(&mut maker, 0);
    boot_sector::put(&mut held);
    maker.fill(0, &held);
    maker.point();

    let serving = Serving::new(&scratch.path("vault"));
    let path = |name: &str| scratch.path(name).to_str().unwrap().to_owned();
    let (socket, overlay, serial) = (path("nbd"), path("overlay.qcow2"), path("serial"));
    let nbdkit = Nbdkit::new(&serving, Path::new(&socket));
    let backing = format!("nbd+unix:///?socket={socket}");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &backing, "-F", "raw", &overlay]);
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-display", "none", "-machine", "pc", "-accel", "tcg", "-m", "64"]);
    qemu.args(["-drive", &format!("file={overlay},if=ide,id=disk,format=qcow2")]);
    qemu.args(["-serial", &format!("file:{serial}")]);
    qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
    let mut qemu = Running(qemu.stdin(Stdio::null()).spawn().unwrap());
    eventually("a machine that runs", PATIENCE, || {
        fs::read_to_string(&serial).ok().filter(|said| said.contains("RUNS"))
    });

    let mut monitor = Monitor::new(&scratch.path("qmp"));
    let job = json!({ "device": "disk", "job-id": "copy" });
    monitor.tell(&json!({ "execute": "block-stream", "arguments": job }));
    let ended = monitor.until(|said| said["event"] == "BLOCK_JOB_COMPLETED");
    assert!(ended["data"].get("error").is_none(), "{ended}");
    // It needs neither from here on.
    drop(nbdkit);
    serving.stop();
    assert_eq!(monitor.tell(&json!({ "execute": "query-status" }))["status"], "running");
    monitor.tell(&json!({ "execute": "quit" }));
    let status = eventually("the end of QEMU", PATIENCE, || qemu.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    run("qemu-img", &["convert", "-O", "raw", &overlay, &path("raw")]);
    assert!(same(&scratch.path("raw"), &held));
}
