//! The same agent on the kernels of several releases: which tracker it finds there, and that what it replicates is the disk.
//!
//! On a small disk beside the root: a scan of the root takes long here. `MOBILITY_LONG=1` also takes the image's own kernel, on which all other
//! tests run. Deliberately not here: what is the same on all kernels (`life`).

use std::{fs::File, path::Path, time::Instant};

use mobility_tests::scratch::{MIB, Scratch, compare, long};

use crate::{
    guest_disk::kernels,
    installed::{Installed, can_package, protected},
    machine::base,
};

/// How the version of Debian 12's own kernel begins.
const OWN: &str = "6.1.";
/// The first version on which the tracker runs.
const TRACKED_FROM: (u32, u32) = (5, 12);

#[test]
fn root_vm_every_kernel_has_a_tracker_or_says_why_it_scans() {
    let (Some(base), Some(())) = (base(), can_package()) else { return };
    let kernels = kernels(&base, &Scratch::new());
    assert!(kernels.len() >= 3, "{kernels:?}");
    for kernel in kernels.into_iter().filter(|kernel| long() || !kernel.starts_with(OWN)) {
        let begin = Instant::now();
        let mut guest = Installed::on(&base, Some(&kernel));
        assert_eq!(guest.machine.run("uname -r"), kernel);
        let image = guest.scratch.path("small.raw");
        plug(&mut guest, &image);
        let mut numbers = kernel.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        if version >= TRACKED_FROM {
            replicates(&mut guest, &image, "ebpf");
            goes_on_after_a_kill(&mut guest, &image);
            guest.machine.run("mount --bind /run/empty /sys/kernel/btf && systemctl restart mobility-agent");
            replicates(&mut guest, &image, "scan");
            assert!(guest.log().contains("has no BTF"), "{}", guest.log());
        } else {
            replicates(&mut guest, &image, "scan");
            assert!(guest.log().contains("too old"), "{}", guest.log());
        }
        eprintln!("{kernel}: {} s", begin.elapsed().as_secs());
    }
}

fn plug(guest: &mut Installed, image: &Path) {
    File::create(image).unwrap().set_len(64 * MIB).unwrap();
    guest.machine.plug("small", image);
    guest.machine.run("mkdir -p /run/empty; timeout 30 sh -c 'until [ -b /dev/vdb ]; do sleep 0.1; done'");
    guest.machine.run("mkfs.ext4 -q /dev/vdb");
    guest.protect("disks = ['/dev/vdb']\ncut = 'freeze'");
}

/// Writes, and demands that the tracker is this one, that what is written to is consistent, and that a point of the disk at rest is the disk.
#[track_caller]
fn replicates(guest: &mut Installed, image: &Path, tracker: &str) {
    let status =
        guest.wait_for("protection", |status| protected(status) && status["disks"][0]["capture"] == tracker);
    assert_eq!(status["disks"][0]["missed_blocks"], 0, "{status}");
    guest.machine.run(
        "mount /dev/vdb /mnt && head -c 3000000 /dev/urandom >/mnt/data && rm -f /mnt/old && cp /mnt/data /mnt/old && sync",
    );
    let point = guest.next_point();
    assert!(point.is_consistent(), "{point:?}");
    // Nothing but a tracker can tell what was written while it was frozen.
    assert!(tracker == "scan" || point.cut("method") == "freeze", "{point:?}");
    // A file system that goes on after a freeze, or is there at all, writes now and then.
    guest.machine.run("umount /mnt");
    let point = guest.next_point();
    assert!(point.is_consistent(), "{point:?}");
    let dir = guest.scratch.path("restored");
    let difference = compare(&guest.restore(&point, &dir), image);
    assert!(difference.is_ok(), "{difference:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

fn goes_on_after_a_kill(guest: &mut Installed, image: &Path) {
    let before = guest.wait_for("a state", protected);
    guest.machine.run("systemctl kill --kill-whom=main --signal=KILL mobility-agent");
    guest.wait_for("the next agent", |status| status["pid"] != before["pid"] && protected(status));
    replicates(guest, image, "ebpf");
    let after = guest.wait_for("a state", protected);
    assert_eq!(after["generation"], before["generation"], "it compared the disk: {after}");
}
