//! QEMU's command line for a machine.
//!
//! The machine has a new firmware identity and a new network card, made of the failover's id: by them its agent is told from the
//! one it was copied from. Deliberately not here: starting it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{
    super::{Failure, Outcome, Spec, images::failed},
    Acceleration, CONSOLE, PID, Qemu, TERMINAL,
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
pub(super) fn line(qemu: &Qemu, spec: &Spec, directory: &Path) -> Outcome<Command> {
    let path = |name: &str| directory.join(name);
    let mut command = Command::new(QEMU);
    command.args(["-name", &process_name(&spec.failover), "-uuid", &uuid(&spec.failover)]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]);
    command.arg("-pidfile").arg(path(PID));
    command.args(match qemu.acceleration {
        Acceleration::Kvm => ["-machine", "q35,accel=kvm", "-cpu", "host"],
        Acceleration::Tcg => ["-machine", "q35,accel=tcg", "-cpu", "max"],
    });
    command.args([
        "-smp",
        &qemu.processors_of(spec).to_string(),
        "-m",
        &format!("{}M", qemu.memory_of(spec)),
    ]);
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci"]);
    // Relative, for a socket's name may not be long.
    command.args(["-qmp", &format!("unix:{SOCKET},server=on,wait=off")]);
    // An administrator may log in there; what is said is kept.
    let console =
        format!("socket,id=console,path={TERMINAL},server=on,wait=off,logfile={CONSOLE},logappend=on");
    command.args(["-chardev", &console, "-serial", "chardev:console"]);
    let user = if spec.isolated { "user,id=net,restrict=on" } else { "user,id=net" };
    let card = format!("virtio-net-pci,netdev=net,romfile=,mac={}", mac(&spec.failover));
    command.args(["-netdev", user, "-device", &card]);
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
            json!({ "driver": "file", "filename": qemu.images.image_of(spec, disk), "discard": "unmap" });
        let block = json!({ "driver": qemu.images.format().name(), "node-name": node, "discard": "unmap", "file": file });
        let serial: String = disk.serial.iter().flat_map(|serial| serial.chars()).take(SERIAL).collect();
        let serial =
            if serial.is_empty() { String::new() } else { format!(",serial={}", serial.replace(',', ",,")) };
        let boot = if number == root { 0 } else { number + 1 };
        let device = format!("virtio-blk-pci,drive={node},bootindex={boot}{serial}");
        command.args(["-blockdev", &block.to_string(), "-device", &device]);
    }
    Ok(command)
}

/// A firmware identity of 16 bytes, of which the failover's id is a part.
fn uuid(failover: &str) -> String {
    let digits: String =
        failover.chars().filter(char::is_ascii_hexdigit).chain("f0".chars().cycle()).take(32).collect();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

/// The address of a network card, of those that everybody may use for virtual machines.
pub(super) fn mac(failover: &str) -> String {
    let digits: String =
        failover.chars().filter(char::is_ascii_hexdigit).chain("0".chars().cycle()).take(6).collect();
    format!("52:54:00:{}:{}:{}", &digits[..2], &digits[2..4], &digits[4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_failover() {
        assert_eq!(uuid("0123456789abcdef"), "01234567-89ab-cdef-f0f0-f0f0f0f0f0f0");
        assert_eq!(mac("0123456789abcdef"), "52:54:00:01:23:45");
        assert_ne!(uuid("0123456789abcdef"), uuid("0123456789abcdee"));
    }
}
