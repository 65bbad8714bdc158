//! A machine as Fedora, RHEL, SUSE and their kin are made: dracut made its first file system for the hardware that it has, an NVMe disk, and
//! everything goes by the names of devices. As it is, it does not start from QEMU's disks; failed over, it is mended, and starts.
//!
//! The system is Debian with dracut instead of its own tools, since a test cannot have an image of those others. Deliberately not here: what
//! becomes of files (`mending`), and which text is in which file, which tests beside the code show.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mobility_format::{BLOCK_SIZE, DiskId};
use mobility_tests::{
    appliance,
    requirement::Requirement,
    scratch::{eventually, run, try_run},
};
use serde_json::{Value, json};

use crate::{agent::Agent, commits::taken_in, rig::Rig};

/// How long an emulated machine may take for something on a busy host.
const SOON: Duration = Duration::from_secs(600);
/// Where the one partition begins.
const START: u64 = 1 << 20;
/// What a machine of dracut's says that does not find its root, while it waits and at last.
const LOST: [&str; 2] = ["Job dev-nvme0n1p1.device/start running", "Entering emergency mode"];
/// The labels that SELinux would have given, had it been there.
const LABELS: [(&str, &str); 4] = [
    ("/etc", "system_u:object_r:etc_t:s0"),
    ("/etc/cloud", "system_u:object_r:cloud_t:s0"),
    ("/etc/fstab", "system_u:object_r:fstab_t:s0"),
    ("/boot/loader", "system_u:object_r:boot_t:s0"),
];

/// The disk image that `packaging/install-test-vm.sh` makes.
fn image() -> Result<PathBuf, String> {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm/dracut.img");
    let lacks = "there is no disk image of a machine to be mended (packaging/install-test-vm.sh)";
    if image.exists() { Ok(image) } else { Err(lacks.to_owned()) }
}

/// What `debugfs` says of the system on an image.
fn looked_up(image: &Path, request: &str) -> String {
    run("debugfs", &["-R", request, &format!("{}?offset={START}", image.display())])
}

/// The label of a file, as it is stored.
fn label(image: &Path, path: &str) -> String {
    looked_up(image, &format!("ea_get -V {path} security.selinux")).trim_end_matches('\0').to_owned()
}

/// A copy of the image whose files have labels.
fn labelled(from: &Path, dir: &Path) -> PathBuf {
    let (image, requests) = (dir.join("as-it-was.img"), dir.join("requests"));
    run("cp", &["--sparse=always", from.to_str().unwrap(), image.to_str().unwrap()]);
    let first = first_file_system(&image);
    let all = LABELS.into_iter().chain([(first.as_str(), "system_u:object_r:boot_t:s0")]);
    let lines: String =
        all.map(|(path, label)| format!("ea_set {path} security.selinux {label}\n")).collect();
    fs::write(&requests, lines).unwrap();
    let system = format!("{}?offset={START}", image.display());
    run("debugfs", &["-w", "-f", requests.to_str().unwrap(), &system]);
    image
}

/// The only first file system in an image.
fn first_file_system(image: &Path) -> String {
    let listed = looked_up(image, "ls -p /boot");
    let names: Vec<_> = listed.split('/').filter(|name| name.starts_with("initramfs-")).collect();
    assert_eq!(names.len(), 1, "{listed}");
    format!("/boot/{}", names[0])
}

/// A machine that QEMU runs from an image, of which nothing is changed.
struct Unmended {
    qemu: Child,
    console: PathBuf,
}

impl Unmended {
    fn start(image: &Path, dir: &Path) -> Unmended {
        let console = dir.join("unmended");
        // It ends with the test, even when that is killed.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-nodefaults",
            "-display",
            "none",
            "-snapshot",
        ]);
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512M"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-drive").arg(format!("if=virtio,format=raw,file={}", image.display()));
        let log = File::create(dir.join("unmended.log")).unwrap();
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Unmended { qemu, console }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Demands that it comes to nothing, once another one that was started later is up.
    #[track_caller]
    fn is_lost(&self) {
        let said = eventually("a machine that waits for its root", SOON, || {
            Some(self.said()).filter(|said| LOST.iter().any(|lost| said.contains(lost)))
        });
        assert!(!said.contains("login:") && !said.contains("FACTS"), "{said}");
    }
}

impl Drop for Unmended {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The machine of a failover, which does not end with the service.
struct Over {
    directory: PathBuf,
}

impl Over {
    fn console(&self) -> String {
        let said = fs::read(self.directory.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Ends it as a power cut does.
    fn end(&self) {
        if let Ok(pid) = fs::read_to_string(self.directory.join("qemu.pid")) {
            // It may have ended by itself.
            let _ = try_run("kill", &["-KILL", pid.trim()]);
        }
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.end();
    }
}

/// Has the machine tell what it is made of.
fn tells(agent: &Agent) {
    let mut inventory = json!(crate::agent::inventory("hardware"));
    inventory["disks"] = json!([{
        "id": DiskId::derive("one"), "name": "/dev/nvme0n1", "size": agent.disks[0].content.len(), "mounts": ["/"],
        "labels": [], "temporary": false,
    }]);
    inventory["shape"] = json!({
        "interfaces": [{
            "name": "ens192", "mac": "00:50:56:ab:cd:ef", "addresses": [{ "address": "10.1.0.7", "prefix": 24 }],
            "gateway": "10.1.0.1", "default_route": true, "mtu": 1500,
        }],
    });
    let began = json!({ "session": agent.session, "boot": "boot", "inventory": inventory, "claim": null });
    agent.post::<Value>("/v1/session", &began).unwrap();
}

/// Demands that what was changed is what had to be, and is labelled as its neighbours are.
#[track_caller]
fn is_mended(shown: &Value, image: &Path) {
    let first = first_file_system(image);
    let entry = looked_up(image, "ls -p /boot/loader/entries");
    let entry = entry.split('/').find(|name| name.ends_with(".conf")).unwrap();
    let changes: Vec<&str> =
        shown["changes"].as_array().unwrap().iter().map(|change| change["file"].as_str().unwrap()).collect();
    let expected = [
        "/etc/fstab",
        "/etc/default/grub",
        "/boot/grub/grub.cfg",
        &format!("/boot/loader/entries/{entry}"),
        "/etc/lvm/devices/system.devices",
        "/etc/systemd/network/10-mobility-ens192.link",
        "/etc/cloud/cloud.cfg.d/99-mobility-failover.cfg",
        "/etc/dracut.conf.d/99-mobility-failover.conf",
        &first,
    ];
    assert_eq!(changes, expected, "{shown:#}");
    assert!(shown["findings"].is_null(), "{shown:#}");
    let devices = looked_up(image, "ls -p /etc/lvm/devices");
    assert!(
        devices.contains("/system.devices.before-failover/") && !devices.contains("/system.devices/"),
        "{devices}"
    );
    let link = looked_up(image, "stat /boot/grub/menu.lst");
    assert!(link.contains("Fast link dest: \"grub.cfg\""), "{link}");
    let beside = looked_up(image, "ls -p /boot");
    assert!(!beside.contains("new-by-failover"), "{beside}");
    for (path, kind) in [
        ("/etc/fstab", "fstab_t"),
        ("/etc/fstab.before-failover", "fstab_t"),
        ("/etc/systemd/network/10-mobility-ens192.link", "fstab_t"),
        ("/etc/cloud/cloud.cfg.d", "cloud_t"),
        ("/etc/dracut.conf.d/99-mobility-failover.conf", "fstab_t"),
        (&first, "boot_t"),
    ] {
        assert_eq!(label(image, path), format!("system_u:object_r:{kind}:s0"), "{path}");
    }
}

#[test]
fn a_machine_of_dracuts_starts_once_it_is_mended() {
    let Some(image) = Requirement::Vm.or_skip(image()) else { return };
    let Some(()) = Requirement::DiskTools.or_skip(appliance::found()) else { return };
    let (dir, begin) = (tempfile::tempdir().unwrap(), Instant::now());
    let stage = |name: &str| eprintln!("{:4} s  {name}", begin.elapsed().as_secs());
    let image = labelled(&image, dir.path());
    let home = dir.path().join("home");
    let rig = Rig::with(|_| {
        format!(
            "[failover.home]\nkind = 'qemu'\nacceleration = 'tcg'\nboot-limit-s = 600\nmemory-mib = 512\nprocessors = 1\nbooted = 'guest login:'\ndirectory = '{}'\n",
            home.display()
        )
    });
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    let content = fs::read(&image).unwrap();
    agent.add_disk("one", content.len() / BLOCK_SIZE);
    agent.disks[0].content = content;
    agent.commit();
    taken_in(&rig, &agent, 1);
    tells(&agent);
    stage("replicated");

    let unmended = Unmended::start(&image, dir.path());
    let begun =
        rig.admin(&["failover", "start", &agent.machine.to_string(), "--kind", "test", "--to", "home"]);
    let id = begun["id"].as_str().unwrap();
    let over = Over { directory: home.join(id) };
    let shown = eventually("the end of the steps", SOON, || {
        Some(rig.admin(&["failover", "show", id])).filter(|shown| shown["phase"] != "running")
    });
    for step in shown["steps"].as_array().unwrap() {
        stage(&format!("{}: {}", step["step"].as_str().unwrap(), step["result"].as_str().unwrap()));
    }
    let console = over.console();
    assert_eq!((&shown["phase"], &shown["booted"]), (&"ready".into(), &true.into()), "{shown:#}\n{console}");
    let facts = console.lines().find(|line| line.contains("FACTS")).unwrap_or_else(|| panic!("{console}"));
    for fact in ["/dev/vda1 ext4 ", " rw,", "root=UUID=", " ens192 "] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    unmended.is_lost();
    stage("as it was it has not started");
    over.end();
    is_mended(&shown, &over.directory.join(format!("{}.img", agent.disks[0].id)));
    rig.admin(&["failover", "cancel", id]);
    eventually("nothing to be left", SOON, || (fs::read_dir(&home).unwrap().count() == 0).then_some(()));
}
