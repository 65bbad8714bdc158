//! Restoring onto a real block device: every byte of the disk's length is written or zeroed, nothing behind it is, and a
//! device in use or too small is refused.

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Catalog, Destination, Format, RestoreError, restore_disk};
use mobility_tests::{
    requirement::Requirement,
    vault_maker::{Flavour, VaultMaker},
};

use crate::support::scratch;

/// A loop device on a file, detached when it goes.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Result<Loop, String> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let output = output.map_err(|err| format!("losetup: {err}"))?;
        if !output.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Loop(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.0).status().ok();
    }
}

#[test]
fn root_a_device_holds_the_disk_afterwards_and_nothing_else_changed() {
    let dir = scratch();
    let mut maker = VaultMaker::new(&dir.path().join("vault"), 61);
    maker.add_disk("/dev/vda", (3 << 20) + 512);
    maker.add_disk("/dev/vdb", 5 << 20);
    maker.write(0, BlockRange::new(3, 20), Flavour::Noise);
    maker.write(0, BlockRange::new(300, 2), Flavour::Text);
    maker.write(0, BlockRange::new(768, 1), Flavour::Noise);
    maker.point();
    let backing = dir.path().join("backing");
    fs::write(&backing, vec![0xAB; 4 << 20]).unwrap();
    let Some(device) = Requirement::Root.or_skip(Loop::attach(&backing)) else { return };
    let catalog = Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    let to = Destination::Device { path: device.0.clone(), format: Format::Raw };
    let restore = |disk: usize| {
        let id = maker.disks[disk].id;
        restore_disk(&catalog, Epoch(1), id, &to, true, |_| ControlFlow::Continue(()))
    };
    assert!(matches!(restore(1), Err(RestoreError::TooSmall { .. })));
    let exclusive = rustix::fs::OFlags::EXCL.bits() as i32;
    let held = fs::OpenOptions::new().read(true).custom_flags(exclusive).open(&device.0).unwrap();
    assert!(matches!(restore(0), Err(RestoreError::InUse(_))));
    assert!(
        fs::read(&device.0).unwrap().iter().all(|byte| *byte == 0xAB),
        "a refused restore writes nothing"
    );
    drop(held);
    restore(0).unwrap();
    let found = fs::read(&device.0).unwrap();
    let expected = &maker.disks[0].content;
    assert!(found[..expected.len()] == expected[..]);
    assert!(found[expected.len()..].iter().all(|byte| *byte == 0xAB), "what lies behind the disk stays");
}
