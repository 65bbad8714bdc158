//! Packages as dpkg and rpm install, upgrade and remove them, on a copy of this machine's system that is thrown away: an overlay
//! in a mount namespace of its own. What the scripts do to trackers is done to files in the place of pins.
//!
//! Deliberately not here: what they do where a service manager runs.

use std::{fs, path::PathBuf, process::Command};

use mobility_tests::{binary::program, requirement::Requirement};
use rustix::process::geteuid;

use crate::made::{AGENT, NEWER, Product, SERVICE, can_make, package, package_of};

/// Runs `script` as root of the copy, in which the packages are at `/packages`, and gives back what it printed.
#[track_caller]
fn on_a_copy(script: &str, packages: &[PathBuf]) -> Option<String> {
    let found = if geteuid().is_root() { Ok(()) } else { Err("this is not root".to_owned()) };
    Requirement::Root.or_skip(found)?;
    let dir = tempfile::tempdir().unwrap();
    let brought = dir.path().join("brought");
    fs::create_dir(&brought).unwrap();
    for package in packages {
        fs::copy(package, brought.join(package.file_name().unwrap())).unwrap();
    }
    fs::write(dir.path().join("script"), script).unwrap();
    // Everything that is mounted here goes with the namespace.
    let outer = r#"set -e
        mount -t tmpfs upper "$1" -o size=1G
        cd "$1"
        mkdir upper work root
        mount -t overlay overlay root -o lowerdir=/,upperdir=upper,workdir=work
        mount -t tmpfs run root/run
        mount -t proc proc root/proc
        mount -t tmpfs sys root/sys
        mkdir -p root/sys/fs/bpf root/packages
        mount --bind /dev root/dev
        mount --bind "$2" root/packages
        exec chroot root /bin/bash -euo pipefail -c "$3" 2>&1"#;
    let mount = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--uts",
            "--ipc",
            "bash",
            "-c",
            outer,
            "bash",
        ])
        .args([mount.path(), &brought])
        .arg(script)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(said)
}

/// In the place of what an agent at work leaves: a tracker, an identity, the head of this boot.
const AT_WORK: &str = "
    mkdir -p /sys/fs/bpf/mobility-agent/m/o/d /run/mobility-agent
    touch /sys/fs/bpf/mobility-agent/m/o/d/{link_a,program_a,dirty} /run/mobility-agent/m.head
    echo key > /var/lib/mobility-agent/identity
";

#[test]
fn root_dpkg_installs_upgrades_removes_and_purges_the_agent() {
    if !can_make() {
        return;
    }
    let newer = package_of(NEWER, "deb", AGENT);
    let script = format!(
        r#"
        cd /packages
        dpkg -i --force-depends mobility-agent_0*.deb
        test -L /etc/systemd/system/multi-user.target.wants/mobility-agent.service
        test $(stat -c %a /var/lib/mobility-agent) = 700
        test -d /etc/mobility-agent/scripts.d
        mobility-agent --version
        # Nothing waits for an enrolment that did not come: the unit is skipped, and says so by itself.
        test ! -e /var/lib/mobility-agent/identity
        {AT_WORK}
        echo 'interval = "30s"' > /etc/mobility-agent/config.d/10-defaults.toml
        echo '# mine' > /etc/mobility-agent/config.d/50-mine.toml

        dpkg -i --force-depends mobility-agent_99*.deb
        dpkg-query -W -f '${{Version}}\n' mobility-agent | grep -qx 99.0.0-1
        test -e /sys/fs/bpf/mobility-agent/m/o/d/link_a || {{ echo 'the upgrade ended tracking'; exit 1; }}
        test -e /run/mobility-agent/m.head
        test -e /var/lib/mobility-agent/identity
        grep -q 30s /etc/mobility-agent/config.d/10-defaults.toml

        dpkg -r mobility-agent
        test ! -e /sys/fs/bpf/mobility-agent || {{ echo 'something is left pinned'; exit 1; }}
        test ! -e /run/mobility-agent
        test ! -e /usr/bin/mobility-agent
        test -e /var/lib/mobility-agent/identity
        test -e /etc/mobility-agent/config.d/10-defaults.toml

        dpkg -i --force-depends mobility-agent_99*.deb
        test -L /etc/systemd/system/multi-user.target.wants/mobility-agent.service
        dpkg -P mobility-agent
        test ! -e /var/lib/mobility-agent || {{ echo 'the identity is left'; exit 1; }}
        test ! -e /etc/mobility-agent
        test ! -e /etc/systemd/system/multi-user.target.wants/mobility-agent.service
        left=$(find /etc /usr /var/lib/mobility-agent /run -xdev -name '*mobility-agent*' 2>/dev/null || true)
        test -z "$left" || {{ echo "left: $left"; exit 1; }}
        echo 'all of it held'
    "#
    );
    let Some(said) = on_a_copy(&script, &[package("deb", AGENT), newer]) else { return };
    assert!(said.trim_end().ends_with("all of it held"), "{said}");
}

#[test]
fn root_one_that_was_disabled_stays_so_over_an_upgrade() {
    if !can_make() {
        return;
    }
    let newer = package_of(NEWER, "deb", AGENT);
    let script = "
        cd /packages
        dpkg -i --force-depends mobility-agent_0*.deb
        systemctl --root=/ disable mobility-agent.service
        dpkg -i --force-depends mobility-agent_99*.deb
        test ! -e /etc/systemd/system/multi-user.target.wants/mobility-agent.service
    ";
    on_a_copy(script, &[package("deb", AGENT), newer]);
}

#[test]
fn root_dpkg_installs_and_purges_the_service_and_leaves_its_points() {
    if !can_make() {
        return;
    }
    let script = "
        cd /packages
        dpkg -i --force-depends recovery-service_0*.deb
        id recovery-service
        test $(stat -c %U:%G:%a /etc/recovery-service) = root:recovery-service:750
        test $(stat -c %U:%G:%a /etc/recovery-service/service.toml) = root:recovery-service:640
        test ! -e /etc/systemd/system/multi-user.target.wants/recovery-service.service || { echo 'it is enabled'; exit 1; }
        runuser -u recovery-service -- test -r /etc/recovery-service/service.toml
        mkdir -p /var/lib/recovery-service/storage
        dpkg -P recovery-service
        test ! -e /etc/recovery-service
        test -d /var/lib/recovery-service/storage || { echo 'the points are gone'; exit 1; }
    ";
    on_a_copy(script, &[package("deb", SERVICE)]);
}

fn rpm_names(product: Product) -> String {
    package("rpm", product).file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn root_rpm_installs_upgrades_and_removes_both() {
    if !can_make() {
        return;
    }
    let newer = package_of(NEWER, "rpm", AGENT);
    let (agent, service) = (rpm_names(AGENT), rpm_names(SERVICE));
    let script = format!(
        "
        cd /packages
        rpm --initdb
        rpm -i --nodeps {agent}
        test $(stat -c %a /var/lib/mobility-agent) = 700
        {AT_WORK}
        rpm -U --nodeps mobility-agent-99*.rpm
        rpm -q mobility-agent | grep -q 99.0.0
        test -e /sys/fs/bpf/mobility-agent/m/o/d/link_a || {{ echo 'the upgrade ended tracking'; exit 1; }}
        test -e /run/mobility-agent/m.head
        rpm -e --nodeps mobility-agent
        test ! -e /sys/fs/bpf/mobility-agent || {{ echo 'something is left pinned'; exit 1; }}
        test ! -e /run/mobility-agent
        test ! -e /usr/bin/mobility-agent
        test -e /var/lib/mobility-agent/identity

        rpm -i --nodeps {service}
        id recovery-service
        test $(stat -c %U:%G:%a /etc/recovery-service/service.toml) = root:recovery-service:640
        mkdir -p /var/lib/recovery-service/storage
        rpm -e --nodeps recovery-service
        test -d /var/lib/recovery-service/storage
        "
    );
    on_a_copy(&script, &[package("rpm", AGENT), package("rpm", SERVICE), newer]);
}

/// The agent's own word for what a unit's condition looks at.
#[test]
fn an_agent_that_is_not_enrolled_ends_with_the_code_that_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let ended = Command::new(program(AGENT.name))
        .args(["run", "--config-root"])
        .arg(dir.path())
        .arg("--state-dir")
        .arg(&state)
        .arg("--runtime-dir")
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(15), "{}", String::from_utf8_lossy(&ended.stderr));
}
