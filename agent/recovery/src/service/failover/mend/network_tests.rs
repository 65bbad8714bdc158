//! Networks as distributions and clouds configure them.

use super::*;

const NEW: &str = "52:54:00:01:23:45";

fn card() -> Card {
    Card {
        name: "ens192".to_owned(),
        mac: "00:50:56:ab:cd:ef".to_owned(),
        there: Some(NEW.to_owned()),
        addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        wanted: None,
    }
}

fn mended(path: &str, text: &str, cards: &[Card]) -> (String, Vec<String>) {
    let mut found = Findings::default();
    let new = file(path, text, cards, &mut found);
    assert_eq!(file(path, &new, cards, &mut Findings::default()), new, "done twice");
    (new, found.all().to_vec())
}

#[test]
fn a_card_keeps_its_name() {
    let gone = Card { name: "ens224".to_owned(), there: None, ..card() };
    let strange = Card { name: "a/../b".to_owned(), ..card() };
    let mut found = Findings::default();
    let files = names(&[card(), gone, strange], &mut found);
    let text = format!("{MARK}\n[Match]\nMACAddress={NEW}\n\n[Link]\nName=ens192\n");
    assert_eq!(files, [("/etc/systemd/network/10-mobility-ens192.link".to_owned(), text)]);
    assert_eq!(found.all(), ["ens224 (00:50:56:ab:cd:ef) has no network card at the target"]);
}

#[test]
fn netplan_finds_the_new_card() {
    let text = r#"# 00:50:56:ab:cd:ef was here
network:
    ethernets:
        eth0:
            dhcp4: true
            match:
                driver: hv_netvsc
                macaddress: "00:50:56:ab:cd:ef"
            set-name: eth0
    version: 2
"#;
    let (new, found) = mended("/etc/netplan/50-cloud-init.yaml", text, &[card()]);
    let expected = text
        .replace("driver: hv_netvsc", "driver: virtio_net")
        .replace("\"00:50:56:ab:cd:ef\"", &format!("\"{NEW}\""));
    assert_eq!((new, found), (expected, Vec::new()));
}

#[test]
fn other_configurations_find_the_new_card() {
    let table = [
        (
            "/etc/systemd/network/10-a.network",
            "[Match]\nMACAddress=00:50:56:AB:CD:EF\nDriver=vmxnet3\n",
            "[Match]\nMACAddress=52:54:00:01:23:45\nDriver=virtio_net\n",
        ),
        (
            "/etc/systemd/network/10-a.link",
            "MACAddress=00-50-56-ab-cd-ef\n",
            "MACAddress=52-54-00-01-23-45\n",
        ),
        (
            "/etc/NetworkManager/system-connections/Wired 1",
            "[ethernet]\nmac-address=00:50:56:AB:CD:EF\n",
            "[ethernet]\nmac-address=52:54:00:01:23:45\n",
        ),
        (
            "/etc/sysconfig/network-scripts/ifcfg-ens192",
            "DEVICE=ens192\nHWADDR=00:50:56:AB:CD:EF\n",
            "DEVICE=ens192\nHWADDR=52:54:00:01:23:45\n",
        ),
        (
            "/etc/network/interfaces",
            "auto ens192\niface ens192 inet dhcp\n",
            "auto ens192\niface ens192 inet dhcp\n",
        ),
    ];
    for (path, text, expected) in table {
        assert_eq!(mended(path, text, &[card()]), (expected.to_owned(), Vec::new()), "{path}");
    }
}

#[test]
fn rules_of_cards_that_are_gone_reserve_no_names() {
    let text = "# PCI device 0x15ad:0x07b0 (vmxnet3)\n\
        SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"00:50:56:ab:cd:ef\", KERNEL==\"eth*\", NAME=\"eth0\"\n\
        SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00:50:56:00:00:01\", NAME=\"eth1\"\n\
        SUBSYSTEM==\"net\", KERNEL==\"tun*\", GROUP=\"vpn\"\n";
    let expected = text.replace("00:50:56:ab:cd:ef", NEW).replace(
        "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00",
        "# SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00",
    );
    assert_eq!(mended("/etc/udev/rules.d/70-persistent-net.rules", text, &[card()]), (expected, Vec::new()));
}

#[test]
fn addresses_stay_unless_somebody_has_said_otherwise() {
    let text = "iface ens192 inet static\n    address 10.1.0.5/24\n    gateway 10.1.0.1\n    dns-nameservers 10.1.0.53\n    up ip addr add 110.1.0.5 dev x\n";
    let (new, found) = mended("/etc/network/interfaces", text, &[card()]);
    assert_eq!(new, text);
    assert!(found.len() == 1 && found[0].contains("10.1.0.5 of ens192 stays"), "{found:?}");

    let moved = Card { wanted: Some("192.168.7.9".parse().unwrap()), ..card() };
    let (new, found) = mended("/etc/network/interfaces", text, &[moved]);
    assert_eq!(new, text.replace(" 10.1.0.5/24", " 192.168.7.9/24"));
    assert!(found.len() == 1 && found[0].contains("gateway"), "{found:?}");
}

#[test]
fn a_card_of_nobody_is_named() {
    let text = "HWADDR=00:11:22:33:44:55\nMACADDR=00:11:22:33:44:66\n";
    let (new, found) = mended("/etc/sysconfig/network-scripts/ifcfg-x", text, &[card()]);
    assert_eq!((new.as_str(), found.len()), (text, 1));
    assert!(found[0].contains("00:11:22:33:44:55"));
    // Where nobody knows which cards there will be, nothing is said of them.
    let unknown = Card { there: None, ..card() };
    assert_eq!(mended("/etc/sysconfig/network-scripts/ifcfg-x", text, &[unknown]).1.len(), 0);
}
