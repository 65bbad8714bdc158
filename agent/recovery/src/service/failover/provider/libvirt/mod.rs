//! Machines that libvirt runs on the host of the service's instance, as domains that its other tools see as well.
//!
//! A machine is a domain whose UUID is made of the failover's id, and a directory with its images, its console and what libvirt was
//! told. A test has a libvirt network of its own. Libvirt is asked by its program, as an administrator would ask it. Deliberately not
//! here: running that (`virsh`), and what a domain and a network are (`domain`).

mod domain;
mod virsh;
mod xml;

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use self::{domain::Link, virsh::Virsh};
use super::{
    Disk, Failure, Outcome, Provider, Seen, Spec,
    host::{Acceleration, CONSOLE, Host},
    identity::{self, uuid},
    images::failed,
    usable,
};
use crate::{Destination, target::NetworkName};

/// What libvirt was told. The first is written before it is told anything.
const DOMAIN: &str = "domain.xml";
const NETWORK: &str = "network.xml";
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

/// How libvirt has a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Off,
    On,
    /// It is on, and goes on no more; why.
    Halted(String),
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

    /// What a card is connected to for which this network is named.
    fn link(&self, isolated: bool, named: Option<&NetworkName>) -> Link {
        match (isolated, named.or(self.network.as_ref())) {
            (true, _) if self.is_of_user() => Link::Nothing,
            (true, _) => Link::Own,
            (false, Some(network)) => Link::Network(network.clone()),
            (false, None) => Link::User,
        }
    }

    /// The networks of libvirt's that the machine's cards get to.
    fn networks(&self, spec: &Spec) -> Vec<NetworkName> {
        let links = identity::cards(spec)
            .into_iter()
            .map(|(card, _)| self.link(spec.isolated, card.network.as_ref()));
        let mut networks: Vec<NetworkName> = links
            .filter_map(|link| match link {
                Link::Network(network) => Some(network),
                _ => None,
            })
            .collect();
        networks.sort();
        networks.dedup();
        networks
    }

    fn state(&self, failover: &str) -> Outcome<State> {
        let uuid = uuid(failover);
        let failure = match self.virsh.ask(&["domstate", &uuid, "--reason"]) {
            Ok(state) => return Ok(understood(state.trim())),
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

    fn networks_that_are(&self, how: &[&str]) -> Outcome<Vec<String>> {
        let words: Vec<&str> = ["net-list", "--name"].iter().chain(how).copied().collect();
        let listed = self.virsh.ask(&words)?;
        Ok(listed.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
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

    /// That the networks are there and active that the machine gets to.
    fn check_networks(&self, spec: &Spec) -> Outcome<String> {
        if spec.isolated && self.is_of_user() {
            return Ok("the test's network cards are connected to nothing".to_owned());
        }
        let (all, active) = (self.networks_that_are(&["--all"])?, self.networks_that_are(&[])?);
        let wanted = self.networks(spec);
        for network in &wanted {
            let name = network.network();
            if !all.iter().any(|known| known == name) {
                let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                return Err(Failure::new(
                    format!("libvirt has no network '{name}' at {}", self.virsh.uri),
                    format!(
                        "it has: {known}. Define it (virsh net-define), or name one of these (`machine target set`, `network map`, or the place's network); and resume"
                    ),
                ));
            }
            if !active.iter().any(|known| known == name) {
                return Err(Failure::new(
                    format!("libvirt's network '{name}' is not active"),
                    format!("virsh -c '{}' net-start {name}; and resume", self.virsh.uri),
                ));
            }
            self.check_group(network)?;
        }
        let names: Vec<&str> = wanted.iter().map(NetworkName::as_str).collect();
        Ok(match (spec.isolated, names.is_empty()) {
            (true, _) => "the test gets a network of its own".to_owned(),
            (false, true) => "the machine gets QEMU's own network".to_owned(),
            (false, false) => format!("on {}", names.join(", ")),
        })
    }

    /// Libvirt would take the network's default for a group of ports that it does not know.
    fn check_group(&self, network: &NetworkName) -> Outcome<()> {
        let Some(group) = network.subnet() else { return Ok(()) };
        let described = self.virsh.ask(&["net-dumpxml", network.network()])?;
        match ['\'', '"']
            .iter()
            .any(|quote| described.contains(&format!("<portgroup name={quote}{group}{quote}")))
        {
            true => Ok(()),
            false => Err(Failure::new(
                format!("libvirt's network '{}' has no group of ports '{group}'", network.network()),
                "define it (virsh net-edit), or name the network without what is behind the slash; and resume",
            )),
        }
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

    fn make_network(&self, failover: &str) -> Outcome<()> {
        let name = domain::network_name(failover);
        let path = self.write(failover, NETWORK, &domain::network(failover))?;
        if !self.networks_that_are(&["--all"])?.contains(&name) {
            self.virsh.ask(&["net-define", &path.display().to_string()])?;
        }
        if !self.networks_that_are(&[])?.contains(&name) {
            self.virsh.ask(&["net-start", &name])?;
        }
        Ok(())
    }

    /// Undefines the machine, with all that libvirt has of it.
    fn undefine(&self, failover: &str) -> Outcome<()> {
        let uuid = uuid(failover);
        let words: Vec<&str> = ["undefine", &uuid].into_iter().chain(WITH_ALL).collect();
        self.virsh.ask(&words).map(drop)
    }

    fn remove_network(&self, failover: &str) -> Outcome<()> {
        let name = domain::network_name(failover);
        if self.listed(failover, &["net-list", "--name"], &name)? {
            self.virsh.ask(&["net-destroy", &name])?;
        }
        // One that was never made to last is gone by now.
        if self.listed(failover, &["net-list", "--all", "--name"], &name)? {
            self.virsh.ask(&["net-undefine", &name])?;
        }
        Ok(())
    }
}

/// What a domain's state means, with its reason in parentheses.
fn understood(state: &str) -> State {
    let (state, reason) = state.split_once(" (").unwrap_or((state, ""));
    match (state, reason.trim_end_matches(')')) {
        ("shut off", _) => State::Off,
        // Others are about to go on, or somebody wanted it so.
        ("paused", reason @ ("I/O error" | "watchdog" | "crashed" | "post-copy failed")) => {
            State::Halted(format!("libvirt has paused it: {reason}"))
        }
        ("crashed", _) => State::Halted("libvirt says that it has crashed".to_owned()),
        _ => State::On,
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
    fn states_are_understood() {
        let halted = |why: &str| State::Halted(format!("libvirt has paused it: {why}"));
        let table = [
            ("running (booted)", State::On),
            ("in shutdown (unknown)", State::On),
            ("paused (user)", State::On),
            ("paused (starting up)", State::On),
            ("paused (I/O error)", halted("I/O error")),
            ("crashed (panicked)", State::Halted("libvirt says that it has crashed".to_owned())),
            ("shut off (destroyed)", State::Off),
            ("shut off (unknown)", State::Off),
        ];
        for (said, expected) in table {
            assert_eq!(understood(said), expected, "{said}");
        }
    }

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
