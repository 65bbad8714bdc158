//! What libvirt is told of a machine and of the network of its own that a test has, as XML.
//!
//! By <https://libvirt.org/formatdomain.html> and <https://libvirt.org/formatnetwork.html>; all of it is known to libvirt from 7.2.0 on.
//! Deliberately not here: telling it.

use super::{
    super::{
        Disk, Spec,
        host::{Acceleration, CONSOLE, Host},
        identity::{cards, uuid},
    },
    xml::escaped,
};
use crate::target::NetworkName;

/// What names the part of a domain's description that is the service's own.
const NAMESPACE: &str = "urn:recovery-service:failover:1";
/// How much of a machine's name is in its domain's.
const MOST_NAME: usize = 40;
/// What QEMU takes of a serial number, and libvirt of its characters.
const SERIAL: usize = 20;
const OF_SERIAL: &str = "-_ .+";

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// A network of libvirt's; what is behind a slash is a group of ports in it.
    Network(NetworkName),
    /// The network of its own that a test has.
    Own,
    /// QEMU's own network: it reaches what the host's user reaches, and is not reached.
    User,
    /// Nothing: as if its cable was pulled.
    Nothing,
}

/// What the machine is called on the host.
pub(super) fn name(spec: &Spec) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = spec.name.chars().map(plain).take(MOST_NAME).collect();
    let name = name.trim_matches(['-', '.']);
    let name = if name.is_empty() { "machine" } else { name };
    let kind = if spec.isolated { "test" } else { "failover" };
    format!("{name}-{kind}-{}", spec.failover)
}

/// What a test's own network is called.
pub(super) fn network_name(failover: &str) -> String {
    format!("failover-{failover}")
}

/// A network without addresses, of which nothing is forwarded: the host has no part in it. Libvirt chooses the bridge's name.
pub(super) fn network(failover: &str) -> String {
    format!(
        "<network>
  <name>{}</name>
  <uuid>{}</uuid>
  <bridge stp='off' delay='0'/>
</network>
",
        escaped(&network_name(failover)),
        uuid(failover)
    )
}

/// The serial number of a disk, by which the machine's agent knows it again; nothing where libvirt would refuse it.
pub(super) fn serial(disk: &Disk) -> Option<String> {
    let serial: String = disk.serial.as_ref()?.chars().take(SERIAL).collect();
    let takes = |c: char| c.is_ascii_alphanumeric() || OF_SERIAL.contains(c);
    (!serial.is_empty() && serial.chars().all(takes)).then_some(serial)
}

/// The machine, whose cards are connected so. Cards are in the order of the machine's own.
pub(super) fn domain(host: &Host, spec: &Spec, link: impl Fn(&Option<NetworkName>) -> Link) -> String {
    let (kind, cpu) = match host.acceleration {
        // Not the very processor of this host, so that it can be moved to others while it runs.
        Acceleration::Kvm => ("kvm", "host-model"),
        Acceleration::Tcg => ("qemu", "maximum"),
    };
    let (firmware, features) = match spec.uefi {
        true => (" firmware='efi'", FIRMWARE),
        false => ("", ""),
    };
    let (failover, purpose) = (escaped(&spec.failover), if spec.isolated { "test" } else { "failover" });
    let told: String = spec.name.chars().filter(|c| !c.is_control()).collect();
    let console = escaped(&host.file(&spec.failover, CONSOLE).display().to_string());
    let devices: Vec<String> = disks(host, spec)
        .into_iter()
        .chain(cards(spec).iter().map(|(card, mac)| self::card(&link(&card.network), mac, spec)))
        .collect();
    format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <title>{told} ({purpose} {failover})</title>
  <description>Made by the recovery service, and removed by it: recovery-service failover show {failover}</description>
  <metadata><made:by xmlns:made='{NAMESPACE}' {purpose}='{failover}' machine='{told}'/></metadata>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{processors}</vcpu>
  <os{firmware}><type arch='x86_64' machine='q35'>hvm</type>{features}</os>
  <features><acpi/><apic/></features>
  <cpu mode='{cpu}'/>
  <clock offset='utc'/>
  <devices>
{devices}    <serial type='pty'><log file='{console}' append='on'/><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
    <graphics type='vnc'><listen type='none'/></graphics>
    <video><model type='vga'/></video>
  </devices>
</domain>
",
        name = escaped(&name(spec)),
        uuid = uuid(&spec.failover),
        told = escaped(&told),
        memory = host.memory_of(spec),
        processors = host.processors_of(spec),
        devices = devices.concat(),
    )
}

/// What is wanted of UEFI: one that starts what is not signed, too.
const FIRMWARE: &str = "<firmware><feature enabled='no' name='enrolled-keys'/><feature enabled='no' name='secure-boot'/></firmware>";

fn disks(host: &Host, spec: &Spec) -> Vec<String> {
    let root = spec.disks.iter().position(|disk| disk.is_root).unwrap_or(0);
    let of_disk = |(number, disk): (usize, &Disk)| {
        let boot = if number == root { 1 } else { number + 2 };
        let serial =
            serial(disk).map(|serial| format!("<serial>{}</serial>", escaped(&serial))).unwrap_or_default();
        format!(
            "    <disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/><source file='{file}'/><target dev='{target}' bus='virtio'/>{serial}<boot order='{boot}'/></disk>\n",
            format = host.images.format().name(),
            file = escaped(&host.images.image_of(spec, disk).display().to_string()),
            target = target(number),
        )
    };
    spec.disks.iter().enumerate().map(of_disk).collect()
}

/// What a disk is called: `vda` to `vdz`, then `vdaa`.
fn target(number: usize) -> String {
    let letter = |number: usize| char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    match number / 26 {
        0 => format!("vd{}", letter(number)),
        more => format!("vd{}{}", letter(more - 1), letter(number)),
    }
}

fn card(link: &Link, mac: &str, spec: &Spec) -> String {
    let (kind, source) = match link {
        Link::Network(network) => {
            let group = network.subnet().map(|group| format!(" portgroup='{}'", escaped(group)));
            let (name, group) = (escaped(network.network()), group.unwrap_or_default());
            ("network", format!("<source network='{name}'{group}/>"))
        }
        Link::Own => ("network", format!("<source network='{}'/>", escaped(&network_name(&spec.failover)))),
        Link::User => ("user", String::new()),
        Link::Nothing => ("user", "<link state='down'/>".to_owned()),
    };
    format!(
        "    <interface type='{kind}'><mac address='{mac}'/>{source}<model type='virtio'/><rom enabled='no'/></interface>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::super::{Card, Images, tests::spec},
        *,
    };
    use crate::Format;

    fn host(acceleration: Acceleration) -> Host {
        Host {
            images: Images::new("/srv/fail & over".into(), Format::Qcow2),
            acceleration,
            memory_mib: 2048,
            processors: 2,
            booted: "login:".to_owned(),
            boot_limit: Duration::from_secs(1),
        }
    }

    fn network(name: &Option<NetworkName>) -> Link {
        Link::Network(name.clone().unwrap_or_else(|| "default".parse().unwrap()))
    }

    /// Demands that each of these is in a text, in this order.
    #[track_caller]
    fn has(text: &str, parts: &[&str]) {
        let mut rest = text;
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("no {part} in its place in\n{text}"));
            rest = &rest[at + part.len()..];
        }
    }

    #[test]
    fn a_machine_has_its_disks_cards_and_identity() {
        let mut spec = spec("0123456789abcdef");
        let card = |name: &str, network: Option<&str>| Card {
            name: name.to_owned(),
            network: network.map(|network| network.parse().unwrap()),
        };
        spec.cards = vec![card("eth1", Some("dr/vlan7")), card("eth0", None)];
        (spec.memory, spec.processors) = (Some(mobility_format::ByteCount(4 << 30)), Some(3));
        let text = domain(&host(Acceleration::Kvm), &spec, network);
        let [second, first] = [&spec.disks[0], &spec.disks[1]].map(|disk| disk.id.to_string());
        has(
            &text,
            &[
                "<domain type='kvm'>",
                "<name>web1-failover-0123456789abcdef</name>",
                "<uuid>01234567-89ab-cdef-f0f0-f0f0f0f0f0f0</uuid>",
                "<title>web1 (failover 0123456789abcdef)</title>",
                "<memory unit='MiB'>4096</memory>",
                "<vcpu>3</vcpu>",
                "<os><type arch='x86_64' machine='q35'>hvm</type></os>",
                "<cpu mode='host-model'/>",
                &format!(
                    "<driver name='qemu' type='qcow2' discard='unmap'/><source file='/srv/fail &amp; over/0123456789abcdef/{second}.qcow2'/><target dev='vda' bus='virtio'/><boot order='2'/>"
                ),
                &format!(
                    "{first}.qcow2'/><target dev='vdb' bus='virtio'/><serial>disk-1</serial><boot order='1'/>"
                ),
                "<interface type='network'><mac address='52:54:00:01:23:46'/><source network='default'/><model type='virtio'/>",
                "<interface type='network'><mac address='52:54:00:01:23:45'/><source network='dr' portgroup='vlan7'/>",
                "<log file='/srv/fail &amp; over/0123456789abcdef/console.log' append='on'/>",
                "name='org.qemu.guest_agent.0'",
                "<rng model='virtio'>",
                "<memballoon model='virtio'/>",
            ],
        );
    }

    #[test]
    fn a_test_is_isolated_and_uefi_starts_what_is_not_signed() {
        let mut spec = spec("0123456789abcdef");
        (spec.isolated, spec.uefi) = (true, true);
        let own = domain(&host(Acceleration::Tcg), &spec, |_| Link::Own);
        has(
            &own,
            &[
                "<domain type='qemu'>",
                "<name>web1-test-0123456789abcdef</name>",
                "<os firmware='efi'>",
                "<feature enabled='no' name='secure-boot'/>",
                "<cpu mode='maximum'/>",
                "<interface type='network'><mac address='52:54:00:01:23:45'/><source network='failover-0123456789abcdef'/>",
            ],
        );
        assert_eq!(own.matches("<interface").count(), 1);
        let nothing = domain(&host(Acceleration::Tcg), &spec, |_| Link::Nothing);
        has(&nothing, &["<interface type='user'>", "<link state='down'/>", "</interface>"]);
        let user = domain(&host(Acceleration::Tcg), &spec, |_| Link::User);
        assert_eq!(user, nothing.replace("<link state='down'/>", ""));
        let network = super::network("0123456789abcdef");
        has(&network, &["<name>failover-0123456789abcdef</name>", "<bridge stp='off'"]);
        assert!(!network.contains("<ip") && !network.contains("<forward"), "{network}");
    }

    #[test]
    fn a_hostile_name_is_a_name() {
        for (hostile, expected) in [
            ("a/b\nc", "a-b-c-failover-0123456789abcdef"),
            ("</name><x y='", "name--x-y-failover-0123456789abcdef"),
            ("../..", "machine-failover-0123456789abcdef"),
            ("機械", "machine-failover-0123456789abcdef"),
            ("", "machine-failover-0123456789abcdef"),
        ] {
            let spec = Spec { name: hostile.to_owned(), ..spec("0123456789abcdef") };
            assert_eq!(name(&spec), expected);
            let text = domain(&host(Acceleration::Kvm), &spec, network);
            assert_eq!((text.matches("<name>").count(), text.matches("</title>").count()), (1, 1), "{text}");
            let usual = domain(&host(Acceleration::Kvm), &plain(), network);
            assert_eq!(text.lines().count(), usual.lines().count(), "{text}");
            assert!(!text.contains("<x y"), "{text}");
        }
        let long = Spec { name: "n".repeat(300), ..spec("0123456789abcdef") };
        assert_eq!(name(&long), format!("{}-failover-0123456789abcdef", "n".repeat(MOST_NAME)));
    }

    fn plain() -> Spec {
        spec("0123456789abcdef")
    }

    #[test]
    fn a_serial_number_that_libvirt_refuses_is_left_out() {
        let with = |text: &str| serial(&Disk { serial: Some(text.to_owned()), ..plain().disks[0].clone() });
        assert_eq!(with("6000c29 a_b-c.d+e").as_deref(), Some("6000c29 a_b-c.d+e"));
        assert_eq!(with("0123456789012345678901234").as_deref(), Some("01234567890123456789"));
        assert_eq!((with("a,b"), with("a<b"), with("")), (None, None, None));
    }

    #[test]
    fn disks_have_names_however_many_there_are() {
        assert_eq!([0, 25, 26, 51, 52, 701].map(target), ["vda", "vdz", "vdaa", "vdaz", "vdba", "vdzz"]);
    }
}
