//! Restored disks are mended before a machine boots from them: by the real guestfish, on a small system that names devices as old ones
//! do, wherever the service is killed, and not where nothing may be changed.
//!
//! Deliberately not here: what is to be in which file, which tests beside the code show; and a machine that boots (`tests/vm`).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mobility_format::{BLOCK_SIZE, DiskId};
use mobility_tests::{
    appliance,
    requirement::Requirement,
    scratch::{eventually, run},
};
use serde_json::{Value, json};

use crate::{agent::Agent, commits::taken_in, rig::Rig};

/// How long an appliance may take, by emulation and on a busy host.
const SOON: Duration = Duration::from_secs(400);
/// Where the partition with the system begins, and how many KiB it has; swap follows.
const START: usize = 1 << 20;
const SYSTEM_KIB: usize = 16 << 10;
/// All of the disk, in blocks.
const BLOCKS: usize = (20 << 20) / BLOCK_SIZE;

const FSTAB: &str = "/dev/sda1 / ext4 errors=remount-ro 0 1
/dev/sda2 none swap sw 0 0
/dev/sdb1 /data ext4 defaults 0 2
";
const MENU: &str = "menuentry 'Debian' {
\tlinux /boot/vmlinuz root=/dev/sda1 ro quiet
\tinitrd /boot/initrd.img
}
";
const NETPLAN: &str = "network:
  ethernets:
    eth0:
      match: {macaddress: '00:0d:3a:00:00:01'}
    eth1:
      match: {macaddress: '00:0D:3A:00:00:02'}
";
/// What a system is known by, and what is to be mended in it.
const FILES: [(&str, &str); 9] = [
    ("etc/fstab", FSTAB),
    ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
    ("etc/debian_version", "12.1\n"),
    ("etc/hostname", "small\n"),
    ("etc/cloud/cloud.cfg", "users: [default]\n"),
    ("etc/netplan/50-cloud-init.yaml", NETPLAN),
    ("boot/grub/grub.cfg", MENU),
    ("bin/sh", "no program\n"),
    ("usr/lib/systemd/systemd-udevd", "no program\n"),
];

/// The content of a disk with a small system and swap.
fn disk(dir: &Path) -> Vec<u8> {
    let (tree, image, swap) = (dir.join("tree"), dir.join("system.img"), dir.join("swap"));
    for (path, text) in FILES {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for empty in ["var", "lib"] {
        fs::create_dir_all(tree.join(empty)).unwrap();
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    fs::File::create(&image).unwrap().set_len((BLOCKS * BLOCK_SIZE) as u64).unwrap();
    let table = format!("2048,{},L,*\n,,S\n", SYSTEM_KIB * 2);
    run("sh", &["-c", &format!("printf '{table}' | sfdisk -q --label dos '{}'", image.display())]);
    let offset = format!("offset={START}");
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", &text(&tree), "-E", &offset, &text(&image), &SYSTEM_KIB.to_string()],
    );
    fs::File::create(&swap).unwrap().set_len(1 << 20).unwrap();
    run("mkswap", &["-q", &text(&swap)]);
    let mut content = fs::read(&image).unwrap();
    let at = START + SYSTEM_KIB * 1024;
    content[at..at + (1 << 20)].copy_from_slice(&fs::read(&swap).unwrap());
    content
}

/// A service with places, and a machine whose disk holds that.
struct Scene {
    rig: Rig,
    agent: Agent,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(with_system: bool) -> Option<Scene> {
        Requirement::DiskTools.or_skip(appliance::found())?;
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, rest: &str| {
            format!("[failover.{name}]\ndirectory = '{}'\n{rest}\n", dir.path().join(name).display())
        };
        // It will not boot: there is nothing but files.
        let qemu = "kind = 'qemu'\nacceleration = 'tcg'\nboot-limit-s = 1\nmemory-mib = 64\nprocessors = 1";
        let places = [
            place("host", qemu),
            place("report", "kind = 'images'\nmend = 'report'"),
            place("shelf", "kind = 'images'\nmend = 'yes'"),
        ];
        let rig = Rig::with(|_| places.concat());
        let mut agent = Agent::enrol(&rig, 1);
        agent.try_session().unwrap();
        agent.new_generation();
        agent.add_disk("one", if with_system { BLOCKS } else { 64 });
        if with_system {
            agent.disks[0].content = disk(dir.path());
        }
        agent.commit();
        taken_in(&rig, &agent, 1);
        tells(&agent);
        Some(Scene { rig, agent, dir })
    }

    fn begin(&self, place: &str) -> String {
        let machine = self.agent.machine.to_string();
        let begun = self.rig.admin(&["failover", "start", &machine, "--kind", "test", "--to", place]);
        begun["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the steps of a failover are done.
    #[track_caller]
    fn rests(&self, id: &str, phase: &str) -> Value {
        let shown = eventually("the end of the steps", SOON, || {
            let shown = self.rig.try_admin(&["failover", "show", id]).ok()?;
            (shown["phase"] != "running" && shown["waiting"].is_null()).then_some(shown)
        });
        assert_eq!(shown["phase"], phase, "{shown:#}");
        shown
    }

    /// Where the disks of a failover are looked at.
    fn mending(&self, place: &str, id: &str) -> PathBuf {
        self.dir.path().join(place).join(id).join("mending")
    }

    /// The only image of a failover.
    fn image(&self, place: &str, id: &str) -> PathBuf {
        let name = format!("{}.img", self.agent.disks[0].id);
        self.dir.path().join(place).join(id).join(name)
    }

    /// Demands that nothing works below the directory of a place, and that nothing temporary is there.
    #[track_caller]
    fn nothing_is_left(&self, place: &str, id: &str) {
        assert!(!self.mending(place, id).exists());
        let left = working_below(&self.dir.path().join(place).join(id).join("mending"));
        assert!(left.is_empty(), "{left:?} works there");
    }
}

/// Has the machine tell which disk and network card it has.
fn tells(agent: &Agent) {
    let mut inventory = json!(crate::agent::inventory("hardware"));
    inventory["disks"] = json!([{
        "id": DiskId::derive("one"), "name": "/dev/sda", "size": BLOCKS * BLOCK_SIZE, "mounts": ["/"], "labels": [], "temporary": false,
    }]);
    inventory["shape"] = json!({
        "interfaces": [{
            "name": "eth0", "mac": "00:0d:3a:00:00:01", "addresses": [{ "address": "10.1.0.7", "prefix": 24 }],
            "gateway": "10.1.0.1", "default_route": true, "mtu": 1500,
        }, {
            "name": "eth1", "mac": "00:0d:3a:00:00:02", "addresses": [], "default_route": false, "mtu": 1500,
        }],
    });
    let began = json!({ "session": agent.session, "boot": "boot", "inventory": inventory, "claim": null });
    agent.post::<Value>("/v1/session", &began).unwrap();
}

/// The processes that work in a directory, also in one that is gone.
fn working_below(directory: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory)))
        .collect()
}

/// Whether the appliance runs there.
fn appliance_runs(directory: &Path) -> bool {
    let is_qemu = |process: &PathBuf| {
        fs::read(process.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("qemu-system"))
    };
    working_below(directory).iter().any(is_qemu)
}

/// A file in an image's system; nothing where it is not there.
fn file(image: &Path, path: &str) -> String {
    let system = format!("{}?offset={START}", image.display());
    run("debugfs", &["-R", &format!("cat {path}"), &system])
}

/// Demands that the disk is as it is to be for a machine that QEMU runs.
#[track_caller]
fn is_mended(image: &Path, id: &str) {
    let identity = |offset: usize| {
        run("blkid", &["-p", "-O", &offset.to_string(), "-o", "value", "-s", "UUID", image.to_str().unwrap()])
    };
    let (root, swap) = (identity(START), identity(START + SYSTEM_KIB * 1024));
    let fstab = FSTAB
        .replace("/dev/sda1", &format!("UUID={root}"))
        .replace("/dev/sda2", &format!("UUID={swap}"))
        .replace("/data ext4 defaults", "/data ext4 defaults,nofail,x-systemd.device-timeout=30s");
    let first = u32::from_str_radix(&id[..6], 16).unwrap();
    let card = |number: u32| {
        let [_, high, middle, low] = (first + number).to_be_bytes();
        format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}")
    };
    let netplan = NETPLAN
        .replace("00:0d:3a:00:00:01", &card(0))
        .replace("00:0D:3A:00:00:02", &card(1).to_ascii_uppercase());
    for (path, was, now) in [
        ("/etc/fstab", FSTAB, fstab),
        ("/boot/grub/grub.cfg", MENU, MENU.replace("root=/dev/sda1", &format!("root=UUID={root}"))),
        ("/etc/netplan/50-cloud-init.yaml", NETPLAN, netplan),
    ] {
        assert_eq!(file(image, path), now.trim(), "{path}");
        assert_eq!(file(image, &format!("{path}.before-failover")), was.trim(), "{path} as it was");
    }
    for (number, name) in (0..).zip(["eth0", "eth1"]) {
        let link = file(image, &format!("/etc/systemd/network/10-mobility-{name}.link"));
        let mac = format!("MACAddress={}\n", card(number));
        assert!(link.contains(&mac) && link.contains(&format!("\nName={name}")), "{link}");
    }
    let cloud = file(image, "/etc/cloud/cloud.cfg.d/99-mobility-failover.cfg");
    assert!(cloud.contains("manual_cache_clean: true\npreserve_hostname: true\n"), "{cloud}");
    assert_eq!(file(image, "/etc/hostname"), "small");
    // Nothing of the way there is left: `debugfs` lists hidden files as well.
    let listed = run("debugfs", &["-R", "ls -p /etc", &format!("{}?offset={START}", image.display())]);
    assert!(!listed.contains("new-by-failover"), "{listed}");
}

#[test]
fn what_would_keep_a_machine_from_starting_is_mended() {
    let Some(scene) = Scene::new(true) else { return };
    let id = scene.begin("host");
    let shown = scene.rests(&id, "ready");
    is_mended(&scene.image("host", &id), &id);
    scene.nothing_is_left("host", &id);
    let files: Vec<&str> =
        shown["changes"].as_array().unwrap().iter().map(|change| change["file"].as_str().unwrap()).collect();
    let expected = [
        "/etc/fstab",
        "/boot/grub/grub.cfg",
        "/etc/netplan/50-cloud-init.yaml",
        "/etc/systemd/network/10-mobility-eth0.link",
        "/etc/systemd/network/10-mobility-eth1.link",
        "/etc/cloud/cloud.cfg.d/99-mobility-failover.cfg",
    ];
    assert_eq!(files, expected, "{shown:#}");
    assert!(shown["changes"][0]["was"].as_str().unwrap().contains("/dev/sda1 /"), "{shown:#}");
    let findings = shown["findings"].to_string();
    assert!(
        findings.contains("/data is on /dev/sdb1") && findings.contains("no kernel was found"),
        "{findings}"
    );
    let log = shown["log"].to_string();
    assert!(log.contains("/etc/fstab: '") && log.contains("found: /etc/fstab: /data"), "{log}");
    // The proof of what was restored is of before.
    assert_eq!(shown["disks"][0]["root"].as_str().unwrap().len(), 64);
    scene.rig.admin(&["failover", "cancel", &id]);
    scene.rests(&id, "cancelled");
    assert_eq!(fs::read_dir(scene.dir.path().join("host")).unwrap().count(), 0);
}

#[test]
fn killed_while_it_mends_it_mends_to_the_end() {
    let Some(mut scene) = Scene::new(true) else { return };
    let id = scene.begin("host");
    let (mending, image) = (scene.mending("host", &id), scene.image("host", &id));
    eventually("an appliance", SOON, || appliance_runs(&mending).then_some(()));
    scene.rig.kill();
    scene.rig.start();
    // The second time when the first file is being written.
    eventually("a file that is written", SOON, || {
        let mut names = fs::read_dir(&mending).ok()?.flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with("new-")).then_some(())
    });
    scene.rig.kill();
    scene.rig.start();
    scene.rests(&id, "ready");
    is_mended(&image, &id);
    scene.nothing_is_left("host", &id);
    scene.rig.admin(&["failover", "cancel", &id]);
    scene.rests(&id, "cancelled");
}

#[test]
fn where_nothing_may_be_changed_it_is_said_and_an_appliance_ends_when_it_is_told() {
    let Some(scene) = Scene::new(true) else { return };
    let id = scene.begin("report");
    let shown = scene.rests(&id, "ready");
    let files: Vec<&Value> =
        shown["changes"].as_array().unwrap().iter().map(|change| &change["file"]).collect();
    assert_eq!(files, ["/etc/fstab", "/boot/grub/grub.cfg"], "{shown:#}");
    assert!(
        fs::read(scene.image("report", &id)).unwrap() == scene.agent.disks[0].content,
        "something was changed"
    );
    scene.nothing_is_left("report", &id);
    scene.rig.admin(&["failover", "cancel", &id]);
    scene.rests(&id, "cancelled");

    let id = scene.begin("shelf");
    let mending = scene.mending("shelf", &id);
    eventually("an appliance", SOON, || appliance_runs(&mending).then_some(()));
    scene.rig.admin(&["failover", "cancel", &id]);
    scene.rests(&id, "cancelled");
    scene.nothing_is_left("shelf", &id);
    assert_eq!(fs::read_dir(scene.dir.path().join("shelf")).unwrap().count(), 0);
}

#[test]
fn disks_without_a_system_are_left_as_they_are() {
    let Some(mut scene) = Scene::new(false) else { return };
    scene.agent.write(30);
    scene.agent.commit();
    taken_in(&scene.rig, &scene.agent, 2);
    let id = scene.begin("shelf");
    let shown = scene.rests(&id, "ready");
    assert!(shown["changes"].is_null(), "{shown:#}");
    assert!(shown["findings"].to_string().contains("no system was found"), "{shown:#}");
    assert!(fs::read(scene.image("shelf", &id)).unwrap() == scene.agent.disks[0].content);
    scene.nothing_is_left("shelf", &id);
}
