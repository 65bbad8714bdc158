//! The life of a protected machine, from the installation to its end and a second life elsewhere, in one boot after another.
//!
//! Deliberately not here: other kernels (`kernels`), and what is missing where it does not work (`missing`).

use std::{fs::File, path::PathBuf, time::Instant};

use mobility_tests::{
    agent_process::Point,
    scratch::{MIB, eventually},
};
use serde_json::Value;

use crate::{
    guest_disk::{GuestDisk, differing},
    installed::{Installed, SOON, can_package, protected},
    machine::{Machine, base},
};

/// How much is written while nobody tracks it.
const UNSEEN: u64 = 8 * MIB;

#[test]
fn root_vm_a_machine_is_protected_destroyed_and_lives_on_elsewhere() {
    let (Some(base), Some(())) = (base(), can_package()) else { return };
    let begin = Instant::now();
    let stage = |name: &str| eprintln!("{:4} s  {name}", begin.elapsed().as_secs());
    let mut guest = Installed::new(&base);
    stage("installed and enrolled");
    guest.wait_for("protection", protected);
    stage("root disk protected");
    a_killed_agent_is_started_again_and_compares_nothing(&mut guest);
    stage("killed");
    an_upgrade_compares_nothing(&mut guest);
    stage("upgraded");
    the_root_is_frozen_for_a_point(&mut guest);
    stage("frozen");
    a_disk_comes_grows_and_goes(&mut guest);
    stage("disk added, grown, removed");
    only_what_differs_is_sent_after(&mut guest, "a clean reboot", |guest| guest.machine.reboot());
    stage("rebooted");
    only_what_differs_is_sent_after(&mut guest, "a power cut", |guest| {
        guest.machine.cut_power();
        guest.boot();
    });
    stage("power cut");
    the_second_life(guest);
    stage("failed over");
}

/// What says that no disk was compared: the generation, and that no disk has a reason to be compared.
fn untouched(status: &Value) -> (Value, Vec<Value>) {
    let disks = status["disks"].as_array().unwrap();
    (status["generation"].clone(), disks.iter().map(|disk| disk["resync_reason"].clone()).collect())
}

fn a_killed_agent_is_started_again_and_compares_nothing(guest: &mut Installed) {
    let before = guest.wait_for("a point", protected);
    guest.machine.run("head -c 1000000 /dev/urandom >/srv/killed");
    guest.machine.run("systemctl kill --kill-whom=main --signal=KILL mobility-agent");
    let after = guest.wait_for("the next agent", |status| status["pid"] != before["pid"]);
    guest.next_point();
    let after = guest.wait_for("its protection", |status| status["pid"] == after["pid"] && protected(status));
    assert_eq!(untouched(&after), untouched(&before), "{after}");
}

fn an_upgrade_compares_nothing(guest: &mut Installed) {
    let before = guest.wait_for("a point", protected);
    guest.upgrade();
    guest.machine.run("head -c 1000000 /dev/urandom >/srv/upgraded");
    guest.wait_for("the agent of the new package", |status| status["pid"] != before["pid"]);
    guest.next_point();
    let after = guest.wait_for("its protection", protected);
    assert_eq!(untouched(&after), untouched(&before), "{after}");
}

fn the_root_is_frozen_for_a_point(guest: &mut Installed) {
    guest.configure("disks = ['/dev/vda']\ncut = 'freeze'");
    let point = eventually("a point of a frozen root", SOON, || {
        let point = guest.next_point();
        (point.cut("method") == "freeze").then_some(point)
    });
    assert_eq!(point.consistency, "file-system", "{point:?}");
    // Nobody waits in front of a file system that stayed frozen.
    guest.machine.run("date >/srv/thawed && sync");
    let restored = restored(guest, &point, "frozen");
    GuestDisk { image: restored }.is_whole_as_it_is();
    guest.configure("disks = ['/dev/vda']");
}

/// A point's root disk, as a file of this name.
fn restored(guest: &Installed, point: &Point, name: &str) -> PathBuf {
    let dir = guest.scratch.path(name);
    guest.restore(point, &dir)
}

/// What the status says of the disk at `path`.
fn disk(status: &Value, path: &str) -> Value {
    let disks = status["disks"].as_array().unwrap();
    disks.iter().find(|disk| disk["path"] == path).cloned().unwrap_or_default()
}

fn a_disk_comes_grows_and_goes(guest: &mut Installed) {
    let image = guest.scratch.path("extra.raw");
    File::create(&image).unwrap().set_len(32 * MIB).unwrap();
    guest.machine.plug("extra", &image);
    guest.machine.run("timeout 30 sh -c 'until [ -b /dev/vdb ]; do sleep 0.1; done'");
    guest.machine.run("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo 1 >/mnt/one && sync");
    guest.configure("disks = ['/dev/vda', '/dev/vdb']");
    guest.machine.run("systemctl restart mobility-agent");
    guest.wait_for("both disks", |status| {
        protected(status) && disk(status, "/dev/vdb")["state"] == "protected"
    });

    guest.machine.grow("extra", 64 * MIB);
    let size = |status: &Value| disk(status, "/dev/vdb")["size"] == 64 * MIB && protected(status);
    let status = guest.wait_for("its new size", size);
    assert!(disk(&status, "/dev/vdb")["resync_reason"].is_null(), "{status}");
    guest.machine.run("resize2fs /dev/vdb && echo 2 >/mnt/two && sync");
    guest.next_point();

    guest.machine.run("umount /mnt");
    guest.machine.unplug("extra");
    guest.wait_for("its end", |status| disk(status, "/dev/vdb")["state"] == "gone");
    guest.configure("disks = ['/dev/vda']");
    guest.machine.run("systemctl restart mobility-agent");
    let status = guest
        .wait_for("the root disk alone", |status| protected(status) && disk(status, "/dev/vdb").is_null());
    assert!(disk(&status, "/dev/vda")["resync_reason"].is_null(), "{status}");
}

/// Writes while no agent runs, then takes the machine down in some way and up again.
fn only_what_differs_is_sent_after(guest: &mut Installed, what: &str, down_and_up: fn(&mut Installed)) {
    let before = guest.next_point();
    let generation = guest.wait_for("a state", |_| true)["generation"].clone();
    guest
        .machine
        .run(&format!("systemctl stop mobility-agent; head -c {UNSEEN} /dev/urandom >/srv/unseen; sync"));
    down_and_up(guest);
    let status = guest.wait_for("protection again", protected);
    assert_ne!(status["generation"], generation, "nothing was compared: {status}");
    let after = guest.next_point();
    let sent = guest.wait_for("a state", |_| true)["uploaded"].as_u64().unwrap();
    let changed = differing(&restored(guest, &before, "before"), &restored(guest, &after, "after"));
    eprintln!("after {what}: {sent} bytes were sent, blocks of {changed} bytes differ");
    for name in ["before", "after"] {
        std::fs::remove_dir_all(guest.scratch.path(name)).unwrap();
    }
    assert!(changed >= UNSEEN && sent >= UNSEEN, "what was written unseen is missing");
    // Blocks that changed again until the second point are sent again; nothing else may be.
    assert!(sent < 2 * changed, "{sent} bytes were sent for {changed}");
}

/// Failover: the machine destroyed, its disk restored from a point, and a new machine booted from it.
fn the_second_life(mut guest: Installed) {
    guest.machine.run(
        "mkdir -p /srv/data && cd /srv/data && for n in 1 2 3 4; do head -c 1000000 /dev/urandom >$n; done; \
         sha256sum * >../sums && sync",
    );
    let sums = guest.machine.run("cat /srv/sums");
    let point = guest.next_point();
    assert!(point.is_consistent(), "{point:?}");
    let restored = restored(&guest, &point, "restored");
    let Installed { mut machine, service, scratch, .. } = guest;
    machine.cut_power();
    drop((machine, service));

    GuestDisk::new(&restored, scratch.path("looked-at.img")).is_whole_after_replay();
    let mut second = Machine::boot(&scratch.path("second"), &restored);
    second.wait_for_console("guest login:");
    assert_eq!(second.run("cat /srv/sums"), sums);
    second.run("cd /srv/data && sha256sum --quiet --check ../sums");
    // The kernel would have made it read-only over an error, and said so.
    assert_eq!(second.run("findmnt --noheadings --output OPTIONS / | grep -o '^rw'"), "rw");
    assert_eq!(second.ask("dmesg | grep -i 'EXT4-fs.*error'").printed, "");
}
