//! A machine's network: its cards have other addresses at the target, and would get other names.
//!
//! Each new card gets the name of the one whose place it takes, and what is configured by the old card's address is by the new
//! one's. Addresses of the network itself change only where somebody has said so. Deliberately not here: which cards there are
//! (`provider`).

use std::{collections::BTreeSet, net::IpAddr};

use super::{fstab::lines, report::Findings};

/// Where networks are configured.
pub(super) const FILES: [&str; 10] = [
    "/etc/netplan/*.yaml",
    "/etc/systemd/network/*.network",
    "/etc/systemd/network/*.link",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/udev/rules.d/*net*.rules",
    "/etc/cloud/cloud.cfg.d/*net*.cfg",
];
/// What files that give cards their names begin with.
pub(super) const MARK: &str = "# Written by the recovery service before the first boot after a failover.";
/// The driver of the cards that QEMU makes.
const DRIVER: &str = "virtio_net";

/// A network card of the machine's, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Card {
    /// What the machine calls it.
    pub(in super::super) name: String,
    /// Its hardware address at the source.
    pub(in super::super) mac: String,
    /// Its hardware address at the target; nothing where it has no card there.
    pub(in super::super) there: Option<String>,
    /// Its addresses at the source.
    pub(in super::super) addresses: Vec<IpAddr>,
    /// What somebody has said that its address is to be.
    pub(in super::super) wanted: Option<IpAddr>,
}

/// The files that give the cards at the target the names of those at the source.
pub(super) fn names(cards: &[Card], found: &mut Findings) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for card in cards {
        let Some(there) = &card.there else {
            found.add(format!("{} ({}) has no network card at the target", card.name, card.mac));
            continue;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if card.name.is_empty() || card.name.len() > 15 || !card.name.chars().all(plain) {
            continue;
        }
        let path = format!("/etc/systemd/network/10-mobility-{}.link", card.name);
        let text = format!("{MARK}\n[Match]\nMACAddress={there}\n\n[Link]\nName={}\n", card.name);
        files.push((path, text));
    }
    files
}

/// A file that configures a network as it is to be.
pub(super) fn file(path: &str, text: &str, cards: &[Card], found: &mut Findings) -> String {
    let there: BTreeSet<String> =
        cards.iter().filter_map(|card| Some(card.there.as_ref()?.to_ascii_lowercase())).collect();
    let new = lines(text, |line| {
        if line.trim_start().starts_with('#') {
            return None;
        }
        let mut new = line.to_owned();
        for card in cards {
            if let Some(there) = &card.there {
                new = with_mac(&new, &card.mac, there);
            }
            if let (Some(wanted), Some(old)) = (card.wanted, card.addresses.first()) {
                new = with_address(&new, *old, wanted);
            }
        }
        if !there.is_empty() {
            new = with_driver(path, &new).unwrap_or(new);
            if path.ends_with(".rules") && rule_of(&new).is_some_and(|mac| !there.contains(&mac)) {
                new = format!("# {new}");
            }
        }
        (new != line).then_some(new)
    });
    remark(path, &new, cards, &there, found);
    new
}

/// What of a file may not hold at the target.
fn remark(path: &str, new: &str, cards: &[Card], there: &BTreeSet<String>, found: &mut Findings) {
    let active = || new.lines().filter(|line| !line.trim_start().starts_with('#'));
    for card in cards {
        for address in &card.addresses {
            if active().any(|line| positions(line, &address.to_string(), in_address).next().is_some()) {
                found.add(format!(
                    "{path}: the address {address} of {} stays: the network at the target has to be one in which it holds",
                    card.name
                ));
            }
        }
        if let Some(wanted) = card.wanted.filter(|wanted| {
            active().any(|line| positions(line, &wanted.to_string(), in_address).next().is_some())
        }) {
            found.add(format!(
                "{path}: {} has {wanted} now: see that gateway and name servers fit",
                card.name
            ));
        }
    }
    if there.is_empty() || path.ends_with(".rules") {
        return;
    }
    for line in active() {
        let names_card = ["macaddress", "mac-address=", "hwaddr"]
            .iter()
            .any(|key| line.to_ascii_lowercase().contains(key) && !line.contains("cloned"));
        if let Some(mac) = mac_in(line).filter(|mac| names_card && !there.contains(mac)) {
            found.add(format!("{path}: names the network card {mac}, which is not there at the target"));
        }
    }
}

fn in_address(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".:".contains(c)
}

/// Where a word is in a line, with nothing around it that could be a part of it.
fn positions<'a>(line: &'a str, word: &'a str, part: fn(char) -> bool) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = &line[at + word.len()..];
        // What ends a sentence or a key is no part of an address.
        let goes_on = after.strip_prefix(':').unwrap_or(after).starts_with(part);
        !word.is_empty() && !before.is_some_and(part) && !goes_on
    })
}

/// The line with a card's address in place of another one's, in the case in which it was.
fn with_mac(line: &str, old: &str, new: &str) -> String {
    if old.len() != 17 {
        return line.to_owned();
    }
    let mut line = line.to_owned();
    for separator in [":", "-"] {
        let (old, new) = (old.to_ascii_lowercase().replace(':', separator), new.replace(':', separator));
        while let Some(at) = line.to_ascii_lowercase().find(&old) {
            let upper = line[at..at + 17].bytes().any(|byte| byte.is_ascii_uppercase());
            let new = if upper { new.to_ascii_uppercase() } else { new.to_ascii_lowercase() };
            if new.eq_ignore_ascii_case(&old) {
                break;
            }
            line.replace_range(at..at + 17, &new);
        }
    }
    line
}

fn with_address(line: &str, old: IpAddr, new: IpAddr) -> String {
    let (old, new) = (old.to_string(), new.to_string());
    let mut line = line.to_owned();
    if old != new {
        // From the end, so that places before it stay.
        let places: Vec<usize> = positions(&line, &old, in_address).collect();
        for at in places.into_iter().rev() {
            line.replace_range(at..at + old.len(), &new);
        }
    }
    line
}

/// The line with the driver of the new cards, where it chooses cards by their driver.
fn with_driver(path: &str, line: &str) -> Option<String> {
    let key = if path.starts_with("/etc/netplan/") { "driver:" } else { "Driver=" };
    if !["/etc/netplan/", "/etc/systemd/network/"].iter().any(|place| path.starts_with(place)) {
        return None;
    }
    let value = line.trim_start().strip_prefix(key)?.trim().trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if value == DRIVER || value.is_empty() || !value.chars().all(plain) {
        return None;
    }
    let at = line.rfind(value)?;
    Some(format!("{}{DRIVER}{}", &line[..at], &line[at + value.len()..]))
}

/// The card that a rule of udev's names.
fn rule_of(line: &str) -> Option<String> {
    line.contains("ATTR{address}").then(|| mac_in(line)).flatten()
}

/// The first hardware address in a line, in lower case with colons.
fn mac_in(line: &str) -> Option<String> {
    let bytes = line.as_bytes();
    let is_mac = |window: &[u8]| {
        window.iter().enumerate().all(|(at, byte)| match at % 3 {
            2 => matches!(byte, b':' | b'-'),
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let at = bytes.windows(17).position(is_mac)?;
    Some(line.get(at..at + 17)?.to_ascii_lowercase().replace('-', ":"))
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
