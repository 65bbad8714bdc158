//! A vault of a known disk, and `recovery-service export serve` over it.
//!
//! Deliberately not here: the tools that read it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mobility_format::BlockRange;
use mobility_tests::{
    agent_process::program,
    requirement::Requirement,
    scratch::{Scratch, eventually, try_run},
    vault_maker::{Flavour, VaultMaker},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether these programs are here; the test is skipped or fails where they are not.
#[track_caller]
pub(crate) fn tools(programs: &[&str]) -> Option<()> {
    let missing = programs.iter().find(|program| try_run("which", &[program]).is_err());
    let found = match missing {
        None => Ok(()),
        Some(program) => Err(format!("there is no {program} (packaging/install-disk-tools.sh)")),
    };
    Requirement::DiskTools.or_skip(found)
}

/// A vault whose machine has these disks, each with a few epochs of changes over what it is to hold.
pub(crate) fn vault(scratch: &Scratch, seed: u64, disks: &[(&str, &[u8])]) -> VaultMaker {
    let mut maker = VaultMaker::new(&scratch.path("vault"), seed);
    for (at, (name, image)) in disks.iter().enumerate() {
        maker.add_disk(name, image.len() as u64);
        maker.write_at_random(at, 4);
    }
    maker.point();
    for (at, (_, image)) in disks.iter().enumerate() {
        maker.fill(at, image);
    }
    maker.point();
    maker
}

/// Content that some of a disk could hold: zeros, text and noise.
pub(crate) fn content(maker: &mut VaultMaker, disk: usize) -> Vec<u8> {
    let blocks = maker.disks[disk].blocks();
    maker.write(disk, BlockRange::new(0, blocks / 3), Flavour::Noise);
    maker.write(disk, BlockRange::new(blocks / 2, blocks / 4), Flavour::Text);
    maker.write_at_random(disk, 8);
    maker.point();
    maker.disks[disk].content.clone()
}

/// A running `export serve`.
pub(crate) struct Serving {
    child: Child,
    pub(crate) shown: Value,
    pub(crate) authority: PathBuf,
}

impl Serving {
    pub(crate) fn new(vault: &Path) -> Serving {
        let mut command = Command::new(program("recovery-service"));
        command.args(["export", "serve", "--json", "--vault"]).arg(vault);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while serde_json::from_str::<Value>(&text).is_err() {
            text += &lines.next().expect("it ended at its start").unwrap();
        }
        let shown: Value = serde_json::from_str(&text).unwrap();
        let authority = shown["authority"].as_str().unwrap().into();
        Serving { child, shown, authority }
    }

    /// Where a disk is.
    pub(crate) fn address(&self, disk: usize) -> String {
        self.shown["disks"][disk]["address"].as_str().unwrap().to_owned()
    }

    /// Ends it as a person does.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = eventually("its end", PATIENCE, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(!self.authority.exists() && !self.authority.parent().unwrap().exists());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nbdkit, which shows a served disk to other programs at a socket until it is dropped.
pub(crate) struct Nbdkit(Child);

impl Nbdkit {
    /// Shows the first disk of `serving` at `socket`.
    pub(crate) fn new(serving: &Serving, socket: &Path) -> Nbdkit {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "-r", "-U"]).arg(socket);
        command.args(["curl", &format!("url={}", serving.address(0))]);
        command.arg(format!("cainfo={}", serving.authority.display()));
        let nbdkit = Nbdkit(command.spawn().unwrap());
        eventually("nbdkit", PATIENCE, || socket.exists().then_some(()));
        nbdkit
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether two files hold the same. Said without printing them.
pub(crate) fn same(a: &Path, b: &[u8]) -> bool {
    fs::read(a).unwrap() == b
}
