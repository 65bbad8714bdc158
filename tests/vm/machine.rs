//! A virtual machine: QEMU by software emulation, since the host's own virtualisation may not be there to be had.
//!
//! It has one processor more than the agent needs, little memory, one root disk, and a network on which the host's
//! loopback is [`HOST`]. Whatever happens to the test, QEMU ends with it; when the test fails, the end of the console is
//! printed. Deliberately not here: what is installed in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mobility_tests::{requirement::Requirement, scratch::eventually};
use serde_json::json;

use crate::{
    qmp::Qmp,
    shell::{Answer, Shell},
};

/// Where a guest finds what listens on the host's loopback.
pub(crate) const HOST: &str = "10.0.2.2";
/// How long a boot may take, by emulation and on a busy host.
pub(crate) const BOOT: Duration = Duration::from_secs(300);
/// How long a command in the guest may take that ought to take a moment.
pub(crate) const MOMENT: Duration = Duration::from_secs(60);

/// The disk image that `packaging/install-test-vm.sh` makes; the test is skipped or fails where it is lacking.
#[track_caller]
pub(crate) fn base() -> Option<PathBuf> {
    image("base.img")
}

/// The one with PostgreSQL in it.
#[track_caller]
pub(crate) fn base_with_database() -> Option<PathBuf> {
    image("database.img")
}

#[track_caller]
fn image(name: &str) -> Option<PathBuf> {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm").join(name);
    let find = || {
        if !rustix::process::geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        match image.exists() {
            true => Ok(image),
            false => Err("there is no virtual machine for tests (packaging/install-test-vm.sh)".to_owned()),
        }
    };
    Requirement::Vm.or_skip(find())
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    qmp: Qmp,
    shell: Shell,
    console: PathBuf,
    boot_id: String,
}

impl Machine {
    /// Starts a machine with this root disk, with its sockets and its console's log in `dir`, and waits until it is up.
    pub(crate) fn boot(dir: &Path, root: &Path) -> Machine {
        fs::create_dir_all(dir).unwrap();
        let path = |name: &str| dir.join(name);
        let socket = |name: &str| format!("path={},server=on,wait=off", path(name).display());
        for old in ["qmp", "shell"] {
            let _ = fs::remove_file(path(old));
        }
        // It ends with the test, even when that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-display", "none", "-machine", "pc", "-accel", "tcg,thread=multi"]);
        command.args(["-cpu", "max", "-smp", "2", "-m", "1024", "-device", "virtio-rng-pci"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path("qmp").display()));
        command.arg("-chardev").arg(format!("file,id=console,append=on,path={}", path("console").display()));
        command.args(["-serial", "chardev:console", "-device", "virtio-serial"]);
        command.arg("-chardev").arg(format!("socket,id=shell,{}", socket("shell")));
        command.args(["-device", "virtserialport,chardev=shell,name=test.shell"]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        command
            .arg("-blockdev")
            .arg(format!("driver=raw,node-name=root,file.driver=file,file.filename={}", root.display()));
        command.args(["-device", "virtio-blk-pci,drive=root,id=root,serial=root,bootindex=0"]);
        let log = fs::File::create(path("qemu.log")).unwrap();
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let (qmp, shell) = (Qmp::connect(&path("qmp")), Shell::connect(&path("shell")));
        let mut machine = Machine { qemu, qmp, shell, console: path("console"), boot_id: String::new() };
        machine.wait_for_boot();
        machine
    }

    /// Waits until a boot is over that had not been seen.
    fn wait_for_boot(&mut self) {
        let begin = Instant::now();
        loop {
            let patience = Duration::from_secs(10);
            let asked = self.shell.ask_within("cat /proc/sys/kernel/random/boot_id", MOMENT, patience);
            if let Some(answer) = asked.filter(|answer| answer.code == 0 && answer.printed != self.boot_id) {
                self.boot_id = answer.printed;
                return;
            }
            assert!(begin.elapsed() < BOOT, "the guest does not come up");
            assert!(self.qemu.try_wait().unwrap().is_none(), "QEMU ended");
        }
    }

    /// Runs a command of the shell in the guest.
    pub(crate) fn ask(&mut self, command: &str) -> Answer {
        self.ask_for(command, MOMENT)
    }

    /// The same with a limit.
    #[track_caller]
    pub(crate) fn ask_for(&mut self, command: &str, limit: Duration) -> Answer {
        self.shell.ask(command, limit).unwrap_or_else(|| panic!("the guest does not answer: {command}"))
    }

    /// Runs a command that has to succeed; what it printed.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str) -> String {
        self.run_for(command, MOMENT)
    }

    /// The same with a limit.
    #[track_caller]
    pub(crate) fn run_for(&mut self, command: &str, limit: Duration) -> String {
        let answer = self.ask_for(command, limit);
        assert_eq!(answer.code, 0, "{command}\n{}", answer.printed);
        answer.printed.trim_end().to_owned()
    }

    /// Starts the system anew, as an administrator does.
    pub(crate) fn reboot(&mut self) {
        // Whether the answer is quicker than the reboot is not known.
        let _ = self.shell.ask_within("systemctl --no-block reboot", MOMENT, Duration::from_secs(5));
        self.wait_for_boot();
    }

    /// Ends it as a power cut does: what the guest had not written is gone.
    pub(crate) fn cut_power(&mut self) {
        self.qmp.tell("quit", &json!({}));
        eventually("the end of QEMU", MOMENT, || self.qemu.try_wait().unwrap());
    }

    /// Plugs a disk in.
    pub(crate) fn plug(&mut self, id: &str, image: &Path) {
        let file = json!({ "driver": "file", "filename": image });
        self.qmp.tell("blockdev-add", &json!({ "driver": "raw", "node-name": id, "file": file }));
        let device = json!({ "driver": "virtio-blk-pci", "id": id, "drive": id, "serial": id });
        self.qmp.tell("device_add", &device);
    }

    /// Takes a disk out.
    pub(crate) fn unplug(&mut self, id: &str) {
        self.qmp.tell("device_del", &json!({ "id": id }));
        self.qmp.wait_for("DEVICE_DELETED", id);
        self.qmp.tell("blockdev-del", &json!({ "node-name": id }));
    }

    /// Makes a disk larger.
    pub(crate) fn grow(&mut self, id: &str, size: u64) {
        self.qmp.tell("block_resize", &json!({ "node-name": id, "size": size }));
    }

    /// What it said on its console since the log was begun.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits for something on the console.
    #[track_caller]
    pub(crate) fn wait_for_console(&self, text: &str) {
        eventually(&format!("{text:?} on the console"), BOOT, || self.console().contains(text).then_some(()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let console = self.console();
            let lines: Vec<_> = console.lines().collect();
            eprintln!("the end of the console:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
