//! QEMU's command line for a machine.
//!
//! Deliberately not here: starting it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{
    super::{
        Failure, Outcome, Spec,
        host::{Acceleration, CONSOLE, Host},
        identity::{cards, uuid},
        images::failed,
    },
    PID, TERMINAL,
    monitor::SOCKET,
};

/// The program.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// Where distributions put UEFI: the program and the variables to start with.
const FIRMWARE: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];
/// The machine's own variables of UEFI.
const VARIABLES: &str = "uefi-variables.fd";
/// What QEMU takes of a serial number.
const SERIAL: usize = 20;

/// UEFI as it is on this host.
pub(super) struct Firmware {
    program: &'static str,
    variables: &'static str,
}

/// The firmware that the machine needs beside QEMU's own.
///
/// # Errors
/// When it is not on this host.
pub(super) fn firmware(spec: &Spec) -> Outcome<Option<Firmware>> {
    if !spec.uefi {
        return Ok(None);
    }
    let there = FIRMWARE
        .iter()
        .find(|(program, variables)| Path::new(program).exists() && Path::new(variables).exists());
    match there {
        Some((program, variables)) => Ok(Some(Firmware { program, variables })),
        None => Err(Failure::new(
            "the machine boots by UEFI, and there is no UEFI for QEMU on this host",
            "install OVMF (Debian: ovmf, Fedora: edk2-ovmf), and resume",
        )),
    }
}

impl Firmware {
    /// Gives the machine variables of its own, unless it has some.
    pub(super) fn make_variables(&self, directory: &Path) -> Outcome<()> {
        let path = directory.join(VARIABLES);
        if !path.exists() {
            fs::copy(self.variables, &path).map_err(|err| failed("write", &path, &err))?;
        }
        Ok(())
    }
}

/// What the process calls itself.
pub(super) fn process_name(failover: &str) -> String {
    format!("failover-{failover}")
}

/// The command that starts the machine and returns when it runs.
pub(super) fn line(host: &Host, spec: &Spec, directory: &Path) -> Outcome<Command> {
    let path = |name: &str| directory.join(name);
    let mut command = Command::new(QEMU);
    command.args(["-name", &process_name(&spec.failover), "-uuid", &uuid(&spec.failover)]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]);
    command.arg("-pidfile").arg(path(PID));
    command.args(match host.acceleration {
        Acceleration::Kvm => ["-machine", "q35,accel=kvm", "-cpu", "host"],
        Acceleration::Tcg => ["-machine", "q35,accel=tcg", "-cpu", "max"],
    });
    command.args([
        "-smp",
        &host.processors_of(spec).to_string(),
        "-m",
        &format!("{}M", host.memory_of(spec)),
    ]);
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci"]);
    // Relative, for a socket's name may not be long.
    command.args(["-qmp", &format!("unix:{SOCKET},server=on,wait=off")]);
    // An administrator may log in there; what is said is kept.
    let console =
        format!("socket,id=console,path={TERMINAL},server=on,wait=off,logfile={CONSOLE},logappend=on");
    command.args(["-chardev", &console, "-serial", "chardev:console"]);
    command.args(networks(spec));
    if let Some(firmware) = firmware(spec)? {
        for (file, read_only) in [(PathBuf::from(firmware.program), "on"), (path(VARIABLES), "off")] {
            let file = file.display();
            command.args(["-drive", &format!("if=pflash,format=raw,readonly={read_only},file={file}")]);
        }
    }
    let root = spec.disks.iter().position(|disk| disk.is_root).unwrap_or(0);
    for (number, disk) in spec.disks.iter().enumerate() {
        let node = format!("disk{number}");
        let file =
            json!({ "driver": "file", "filename": host.images.image_of(spec, disk), "discard": "unmap" });
        let block = json!({ "driver": host.images.format().name(), "node-name": node, "discard": "unmap", "file": file });
        let serial: String = disk.serial.iter().flat_map(|serial| serial.chars()).take(SERIAL).collect();
        let serial =
            if serial.is_empty() { String::new() } else { format!(",serial={}", serial.replace(',', ",,")) };
        let boot = if number == root { 0 } else { number + 1 };
        let device = format!("virtio-blk-pci,drive={node},bootindex={boot}{serial}");
        command.args(["-blockdev", &block.to_string(), "-device", &device]);
    }
    Ok(command)
}

/// The cards, each with a network of its own: two in one range would not know which is meant.
fn networks(spec: &Spec) -> Vec<String> {
    let restrict = if spec.isolated { ",restrict=on" } else { "" };
    let of_card = |(number, (_, mac)): (usize, (_, String))| {
        let range = 2 + number;
        let user = format!("user,id=net{number},net=10.0.{range}.0/24{restrict}");
        let card = format!("virtio-net-pci,netdev=net{number},romfile=,mac={mac}");
        ["-netdev".to_owned(), user, "-device".to_owned(), card]
    };
    cards(spec).into_iter().enumerate().flat_map(of_card).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{Card, tests::spec},
        *,
    };

    #[test]
    fn each_card_has_a_network_of_its_own() {
        let mut spec = spec("0123456789abcdef");
        let card = |name: &str| Card { name: name.to_owned(), network: None };
        spec.cards = vec![card("eth1"), card("eth0")];
        spec.isolated = true;
        let expected = [
            "-netdev",
            "user,id=net0,net=10.0.2.0/24,restrict=on",
            "-device",
            "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:01:23:46",
            "-netdev",
            "user,id=net1,net=10.0.3.0/24,restrict=on",
            "-device",
            "virtio-net-pci,netdev=net1,romfile=,mac=52:54:00:01:23:45",
        ];
        assert_eq!(networks(&spec), expected);
        (spec.isolated, spec.cards) = (false, Vec::new());
        let only = "user,id=net0,net=10.0.2.0/24 virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:01:23:45";
        assert_eq!(networks(&spec).join(" ").replace("-netdev ", "").replace("-device ", ""), only);
    }
}
