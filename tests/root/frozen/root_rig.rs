//! An agent whose own root file system is on the disk that it protects, and is frozen for every cut: its programs, its
//! libraries, its configuration and its log are on there. The vault, the runtime directory and what the kernel shows are not.
//!
//! The root is mounted twice: in the agent's own namespace, and for the test, which writes there and can always thaw.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use mobility_capture::freeze::raise_priority;
use mobility_tests::{
    agent_process::{Agent, Setup, program},
    pulse::Pulse,
    scratch::{LoopDevice, MIB, Mounted, Scratch, root_with, run},
};

/// Makes a root of a directory, in a mount namespace of its own, and becomes the program named. Nothing of the old root is
/// left.
const ENTER: &str = r#"set -e
top=$1 vault=$2 runtime=$3
shift 3
for dir in proc sys dev; do mount --rbind "/$dir" "$top/$dir"; done
mount --bind "$runtime" "$top/run"
mount --bind "$vault" "$top/vault"
cd "$top"
pivot_root . old
umount -l /old
exec "$@"
"#;

/// What the namespace is left by; everything else that runs in there is the agent.
const TOOLS: [&str; 2] = ["sh", "umount"];

pub(crate) struct RootRig {
    // In this order: the agent's mounts are gone with it, the writer ends, the file system is unmounted, its device goes.
    pub(crate) pulse: Pulse,
    pub(crate) top: Mounted,
    runtime: Mounted,
    pub(crate) disk: LoopDevice,
    pub(crate) setup: Setup,
    pub(crate) scratch: Scratch,
}

impl RootRig {
    pub(crate) fn new() -> Option<RootRig> {
        root_with(&["mkfs.ext4", "fsfreeze", "unshare", "pivot_root", "ldd", "bash", "e2fsck"])?;
        let scratch = Scratch::new();
        let disk = LoopDevice::new(scratch.path("disk.img"), 256 * MIB);
        let top = Mounted::fresh(scratch.path("top"), &disk.device, "ext4");
        let runtime = Mounted::in_memory(scratch.path("run"), 16 * MIB);
        let mut setup = Setup::new(&scratch, &[&disk.device]);
        for dir in ["proc", "sys", "dev", "run", "vault", "old", "tmp", "etc", "var/log", "bin"] {
            fs::create_dir_all(top.point().join(dir)).unwrap();
        }
        fs::create_dir_all(&setup.vault).unwrap();
        setup.runtime = runtime.point().join("agent");
        setup.config_root = top.point().to_owned();
        setup.log = top.point().join("var/log/agent.log");
        setup.configure("interval = '1s'\n[limits]\nretry-wait = '1s'\n");
        for tool in TOOLS {
            install(&find(tool), top.point(), tool);
        }
        install(&program("mobility-agent"), top.point(), "mobility-agent");
        let pulse = Pulse::start(top.point(), raise_priority);
        Some(RootRig { pulse, top, runtime, disk, setup, scratch })
    }

    /// Starts the agent in there. Its log is on the root, too.
    pub(crate) fn start(&self, flags: &[&str]) -> Agent {
        self.start_with(flags, self.setup.open_log())
    }

    /// Starts it with a log that was opened before: opening it waits while the root is frozen.
    pub(crate) fn start_with(&self, flags: &[&str], log: File) -> Agent {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "enter"]);
        command.arg(self.top.point()).arg(&self.setup.vault).arg(self.runtime.point());
        command.args(["/bin/mobility-agent", "run", "--debug", "--vault", "/vault", "--runtime-dir"]);
        command.arg("/run/agent");
        command.arg("--disk").arg(&self.disk.device).args(flags);
        command.env_remove("NOTIFY_SOCKET").env_remove("RUNTIME_DIRECTORY").env("MOBILITY_LOG", "debug");
        self.setup.start_as(command, log)
    }
}

fn find(tool: &str) -> PathBuf {
    let dirs = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new);
    dirs.iter().map(|dir| dir.join(tool)).find(|path| path.exists()).unwrap()
}

/// Copies a program into the root's `/bin`, and what it links where it looks for that.
fn install(program: &Path, top: &Path, name: &str) {
    fs::copy(program, top.join("bin").join(name)).unwrap();
    let linked = run("ldd", &[program.to_str().unwrap()]);
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = top.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}
