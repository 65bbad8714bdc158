//! A libvirt of a test's own: its daemons, bridges, firewall rules and machines are in namespaces that end with the test, and its files
//! below the test's directory or in memory.
//!
//! QEMU is another user there than the test, as it is on hosts. Deliberately not here: what is asked of libvirt.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mobility_tests::scratch::{eventually, run, try_run};
use rustix::fs::Mode;

use crate::rig::PATIENCE;

/// The first process of the namespaces: it waits for whoever ends.
const INIT: &str = r#"set -e
umask 022
for place in /run /etc/libvirt /var/lib /var/cache /var/log; do mount -t tmpfs none "$place"; done
mkdir /var/log/libvirt
cp "$1/qemu.conf" /etc/libvirt
# Libvirt asks for the users that its packages for services make.
for file in passwd group; do
    cp "/etc/$file" "$1/$file"
    for name in libvirt-qemu qemu kvm; do
        grep -q "^$name:" "$1/$file" || echo "$name:x:64055:64055::/:/bin/false" >>"$1/$file"
    done
    mount --bind "$1/$file" "/etc/$file"
done
# It looks at all that QEMU is able to again and again where KVM can be opened and does not work.
touch "$1/none"
[ ! -e /dev/kvm ] || mount --bind "$1/none" /dev/kvm
ip link set lo up
virtlogd --daemon
libvirtd --daemon --config "$1/libvirtd.conf" --pid-file "$1/libvirtd.pid"
touch "$1/ready"
while :; do sleep 1; done"#;
/// What libvirt has of a machine besides what it lists: variables of its firmware, what was saved of it, sockets; and its process.
const LEFT: &str = "cd /var/lib/libvirt/qemu && ls -d nvram/* save/* domain-* channel/target/* 2>/dev/null; pgrep -a qemu-system; \
    ip -brief link | grep -E '^(virbr|vnet)'; true";
/// Where distributions put daemons.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Daemons that run.
pub(crate) struct Libvirtd {
    init: Child,
    dir: PathBuf,
}

/// Whether they can be had here.
///
/// # Errors
/// What is missing.
pub(crate) fn found() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this is not root".to_owned());
    }
    let programs = ["libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "ip", "iptables", "nsenter"];
    let missing = |program: &&&str| !PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
    match programs.iter().find(missing) {
        None => Ok(()),
        Some(program) => Err(format!("there is no {program} (packaging/install-disk-tools.sh)")),
    }
}

impl Libvirtd {
    /// Starts them, for a test whose directory this is.
    pub(crate) fn start(test: &Path) -> Libvirtd {
        // As the service's unit has it; and QEMU's user gets as far as the place.
        rustix::process::umask(Mode::from_raw_mode(0o077));
        fs::set_permissions(test, fs::Permissions::from_mode(0o711)).unwrap();
        let dir = test.join("libvirt");
        fs::create_dir(&dir).unwrap();
        fs::create_dir(crate::rig::place(test)).unwrap();
        fs::set_permissions(crate::rig::place(test), fs::Permissions::from_mode(0o711)).unwrap();
        let here = dir.display();
        let daemon = format!(
            "unix_sock_dir = \"{here}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs = \"2:file:{here}/log\"\n"
        );
        // Who runs the tests has the control groups.
        let qemu = "user = \"+65534\"\ngroup = \"+65534\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n";
        fs::write(dir.join("libvirtd.conf"), daemon).unwrap();
        fs::write(dir.join("qemu.conf"), qemu).unwrap();
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command.args(["--mount-proc", "sh", "-c", INIT, "sh"]).arg(&dir).env("PATH", PATH);
        let log = fs::File::create(dir.join("init.log")).unwrap();
        let init = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut libvirt = Libvirtd { init, dir };
        eventually("libvirt", PATIENCE, || {
            let ended = libvirt.init.try_wait().unwrap();
            assert!(ended.is_none(), "{}", libvirt.said());
            libvirt.dir.join("ready").exists().then_some(())
        });
        libvirt
    }

    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let log = read("log");
        // It complains of much that does not matter.
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("Ethtool")).collect();
        read("init.log") + &lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// By which it is reached, also from outside.
    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}/libvirt-sock", self.dir.display())
    }

    /// Asks it something, as an administrator does.
    #[track_caller]
    pub(crate) fn virsh(&self, words: &[&str]) -> String {
        run("virsh", &[&["--quiet", "--connect", &self.uri()], words].concat())
    }

    /// Defines a network as an administrator does.
    pub(crate) fn define_network(&self, name: &str, more: &str) {
        let path = self.dir.join("network.xml");
        fs::write(&path, format!("<network><name>{name}</name><bridge/>{more}</network>")).unwrap();
        self.virsh(&["net-define", path.to_str().unwrap()]);
    }

    /// Runs a command of the shell where the daemons are; what it printed.
    #[track_caller]
    pub(crate) fn within(&self, command: &str) -> String {
        let parent = self.init.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let init = children.split_whitespace().next().expect("no first process");
        let words = ["--target", init, "--mount", "--net", "--pid", "sh", "-c", command];
        try_run("nsenter", &words).unwrap_or_else(|problem| panic!("{problem}\n{}", self.said()))
    }

    /// Ends libvirt's daemon, and no machine.
    pub(crate) fn end(&self) {
        let pid = self.dir.join("libvirtd.pid").display().to_string();
        self.within(&format!("kill $(cat {pid}); while [ -e {pid} ]; do sleep 0.05; done"));
    }

    /// Starts it again.
    pub(crate) fn go_on(&self) {
        let here = self.dir.display();
        self.within(&format!(
            "umask 022; PATH={PATH} libvirtd --daemon --config {here}/libvirtd.conf --pid-file {here}/libvirtd.pid"
        ));
    }

    /// All that it has.
    pub(crate) fn left(&self) -> Vec<String> {
        let domains = self.virsh(&["list", "--all", "--name"]);
        let networks = self.virsh(&["net-list", "--all", "--name"]);
        let left = [domains, networks, self.within(LEFT)].concat();
        left.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("libvirt said:\n{}", self.said());
        }
        // All that is in the namespaces ends with their first process.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}
