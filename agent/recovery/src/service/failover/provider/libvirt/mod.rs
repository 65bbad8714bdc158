//! Machines that libvirt runs on the host of the service's instance, as domains that its other tools see as well.
//!
//! A machine is a domain whose UUID is made of the failover's id, and a directory with its images, its console and what libvirt was
//! told. A test has a libvirt network of its own. Libvirt is asked by its program, as an administrator would ask it. Deliberately not
//! here: running that (`virsh`), what a domain and a network are (`domain`), which networks a machine gets to (`network`).

mod domain;
mod network;
mod state;
mod virsh;
mod xml;

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use self::{domain::Link, state::State, virsh::Virsh};
use super::{
    Disk, Failure, Outcome, Provider, Seen, Spec,
    host::{Acceleration, CONSOLE, Host},
    identity::{self, uuid},
    images::failed,
    usable,
};
use crate::{Destination, target::NetworkName};

/// What libvirt was told of the machine, written before it is told anything.
const DOMAIN: &str = "domain.xml";
/// Who may get at what in a machine's directory: QEMU's user passes through it to the images that libvirt gives to it.
const PASSABLE: u32 = 0o711;
/// The console's: libvirt's log daemon writes it as root.
const READABLE: u32 = 0o640;
/// All that is libvirt's of a domain goes with it.
const WITH_ALL: [&str; 4] = ["--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"];

/// A host that runs libvirt.
#[derive(Clone, Debug)]
pub(crate) struct Libvirt {
    host: Host,
    virsh: Virsh,
    /// Where cards get to for which nothing else is said; nothing for QEMU's own network.
    network: Option<NetworkName>,
    /// Whether a machine that is no test starts with the host.
    autostart: bool,
}

impl Libvirt {
    /// A host whose libvirt is reached by `uri`.
    pub(crate) fn new(host: Host, uri: String, network: Option<NetworkName>, autostart: bool) -> Libvirt {
        Libvirt { host, virsh: Virsh { uri }, network, autostart }
    }

    /// Whether a connection is to an ordinary user's own libvirt, who can make no bridge.
    pub(crate) fn is_session(uri: &str) -> bool {
        uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"))
    }

    fn is_of_user(&self) -> bool {
        Libvirt::is_session(&self.virsh.uri)
    }

    fn state(&self, failover: &str) -> Outcome<State> {
        let uuid = uuid(failover);
        let failure = match self.virsh.ask(&["domstate", &uuid, "--reason"]) {
            Ok(state) => return Ok(State::understood(state.trim())),
            Err(failure) => failure,
        };
        match self.listed(failover, &["list", "--all", "--uuid"], &uuid)? {
            true => Err(failure),
            false => Ok(State::Absent),
        }
    }

    /// Whether something is in a list of libvirt's. Where it was never told of the failover and does not answer, it is not.
    fn listed(&self, failover: &str, list: &[&str], what: &str) -> Outcome<bool> {
        match self.virsh.ask(list) {
            Ok(listed) => Ok(listed.lines().any(|line| line.trim() == what)),
            Err(_) if !self.host.file(failover, DOMAIN).exists() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// What libvirt and QEMU there are.
    fn versions(&self) -> Outcome<String> {
        let said = self.virsh.ask(&["version", "--daemon"])?;
        let of = |sign: &str| said.lines().find_map(|line| line.strip_prefix(sign)).map(str::trim);
        let daemon = of("Running against daemon:").unwrap_or("of an unknown version");
        Ok(format!("libvirt {daemon}, {}", of("Running hypervisor:").unwrap_or("an unknown hypervisor")))
    }

    /// That the processors and the firmware are to be had.
    fn check_machine(&self, spec: &Spec) -> Outcome<()> {
        let kind = match self.host.acceleration {
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "qemu",
        };
        let words = ["domcapabilities", "--virttype", kind, "--arch", "x86_64", "--machine", "q35"];
        let able = self.virsh.ask(&words)?;
        if spec.uefi && !has_uefi(&able) {
            return Err(Failure::new(
                "the machine boots by UEFI, and libvirt has no UEFI on this host",
                "install OVMF (Debian: ovmf, Fedora: edk2-ovmf), and resume",
            ));
        }
        Ok(())
    }

    fn write(&self, failover: &str, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.host.file(failover, name);
        fs::write(&path, text).map_err(|err| failed("write", &path, &err))?;
        Ok(path)
    }

    /// Makes the machine's directory such that QEMU's user gets at what is in it.
    fn make_directory(&self, failover: &str) -> Outcome<PathBuf> {
        let directory = self.host.images.make_directory(failover)?;
        let passable = fs::set_permissions(&directory, Permissions::from_mode(PASSABLE));
        passable.map_err(|err| failed("change who may pass through", &directory, &err))?;
        Ok(directory)
    }

    /// The console is the service's before libvirt writes to it: else nobody but root could read it.
    fn make_console(&self, failover: &str) -> Outcome<()> {
        let path = self.host.file(failover, CONSOLE);
        match OpenOptions::new().write(true).create_new(true).mode(READABLE).open(&path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(failed("write", &path, &err)),
            _ => Ok(()),
        }
    }

    /// Undefines the machine, with all that libvirt has of it.
    fn undefine(&self, failover: &str) -> Outcome<()> {
        let uuid = uuid(failover);
        let words: Vec<&str> = ["undefine", &uuid].into_iter().chain(WITH_ALL).collect();
        self.virsh.ask(&words).map(drop)
    }
}

/// Whether what libvirt says that it is able to names UEFI among firmwares.
fn has_uefi(able: &str) -> bool {
    let quotes = able.replace('"', "'");
    let firmwares =
        quotes.split_once("<enum name='firmware'>").and_then(|(_, rest)| rest.split_once("</enum>"));
    firmwares.is_some_and(|(firmwares, _)| firmwares.contains("<value>efi</value>"))
}

/// A directory above which others than its owner may not pass through, QEMU's user among them as far as can be seen from here.
fn closed(directory: &Path) -> Option<&Path> {
    let keeps_out = |directory: &&Path| {
        fs::metadata(directory).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    };
    directory.ancestors().skip(1).find(keeps_out)
}

impl Provider for Libvirt {
    fn check(&self, spec: &Spec) -> Outcome<String> {
        usable(&spec.target.as_ref().map(super::Target::blocking).unwrap_or_default())?;
        let versions = self.versions()?;
        self.check_machine(spec)?;
        let networks = self.check_networks(spec)?;
        let room = self.host.images.check(spec)?;
        let directory = self.host.images.of(&spec.failover);
        let closed = closed(&directory).filter(|_| !self.is_of_user()).map_or(String::new(), |closed| {
            format!("; {} lets nobody else through, which QEMU's user may have to be", closed.display())
        });
        Ok(format!("{versions}; {networks}; {room}{closed}"))
    }

    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination> {
        self.host.images.image(spec, disk)
    }

    fn cards(&self, spec: &Spec) -> Option<Vec<String>> {
        Some(identity::addresses(spec))
    }

    fn make(&self, spec: &Spec) -> Outcome<String> {
        self.host.images.are_there(spec)?;
        let (failover, name) = (spec.failover.as_str(), domain::name(spec));
        self.make_directory(failover)?;
        self.make_console(failover)?;
        let text = domain::domain(&self.host, spec, |named| self.link(spec.isolated, named.as_ref()));
        let path = self.write(failover, DOMAIN, &text)?;
        if self.link(spec.isolated, None) == Link::Own {
            self.make_network(failover)?;
        }
        // One of an earlier try may have another name, which libvirt would not change.
        if self.state(failover)? != State::Absent
            && self.virsh.ask(&["domname", &uuid(failover)])?.trim() != name
        {
            self.undefine(failover)?;
        }
        self.virsh.ask(&["define", &path.display().to_string()])?;
        if self.autostart && !spec.isolated {
            self.virsh.ask(&["autostart", &uuid(failover)])?;
        }
        let (memory, processors) = (self.host.memory_of(spec), self.host.processors_of(spec));
        let (disks, cards) = (spec.disks.len(), spec.cards.len().max(1));
        let refused = |disk: &&Disk| disk.serial.is_some() && domain::serial(disk).is_none();
        let serials =
            match spec.disks.iter().filter(refused).map(|disk| disk.name.as_str()).collect::<Vec<_>>() {
                none if none.is_empty() => String::new(),
                some => format!("; libvirt takes no serial number such as that of {}", some.join(", ")),
            };
        Ok(format!(
            "domain {name}: {disks} disks, {memory} MiB, {processors} processors, {cards} network cards{serials}"
        ))
    }

    fn start(&self, failover: &str) -> Outcome<String> {
        let uuid = uuid(failover);
        match self.state(failover)? {
            State::Absent => {
                let problem = format!("libvirt has no domain {uuid} for failover {failover}");
                return Err(Failure::new(problem, "make it anew: `failover change-point`"));
            }
            State::On | State::Halted(_) => return Ok(format!("domain {uuid} is on already")),
            State::Off => {}
        }
        self.virsh.ask(&["start", &uuid])?;
        Ok(format!("domain {uuid} is on"))
    }

    fn look(&self, failover: &str) -> Outcome<Seen> {
        // First: what it says before its end was said while it was on.
        match self.state(failover)? {
            State::Halted(why) => Ok(Seen::Stuck(why)),
            state => self.host.look(failover, state == State::On),
        }
    }

    fn boot_limit(&self) -> Duration {
        self.host.boot_limit
    }

    fn stop(&self, failover: &str) -> Outcome<String> {
        if matches!(self.state(failover)?, State::Absent | State::Off) {
            return Ok("it was not on".to_owned());
        }
        let destroyed = self.virsh.ask(&["destroy", &uuid(failover)]);
        match self.state(failover)? {
            // Ended meanwhile is as good.
            State::Absent | State::Off => Ok("it is off".to_owned()),
            State::On | State::Halted(_) => Err(destroyed.err().unwrap_or_else(|| {
                let problem = format!("domain {} is on again", uuid(failover));
                Failure::new(problem, "see who starts it (virsh event --all), and resume")
            })),
        }
    }

    fn remove(&self, failover: &str) -> Outcome<String> {
        self.stop(failover)?;
        if self.state(failover)? != State::Absent {
            self.undefine(failover)?;
        }
        self.remove_network(failover)?;
        self.host.images.remove(failover)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libvirt_is_able_to_is_understood() {
        let able = |firmwares: &str| {
            format!(
                "<os supported='yes'>\n<enum name='firmware'>\n{firmwares}</enum>\n<loader><value>efi</value></loader></os>"
            )
        };
        assert!(has_uefi(&able("<value>bios</value>\n<value>efi</value>\n")));
        assert!(has_uefi(&able("<value>efi</value>").replace('\'', "\"")));
        assert!(!has_uefi(&able("<value>bios</value>")) && !has_uefi(""));
    }

    #[test]
    fn a_user_s_own_libvirt_is_known() {
        let is_session = Libvirt::is_session;
        assert!(is_session("qemu:///session") && is_session("qemu+unix:///session?socket=/run/x"));
        assert!(!is_session("qemu:///system") && !is_session("qemu+unix:///system?socket=/run/session"));
    }
}
