//! Networks by name, and which network of the target stands for which of the source.
//!
//! A mapping holds both ways: on the way to the target its source is looked up, on the way back its target. Deliberately not here:
//! which interface is in which network (`effective`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use mobility_format::control::InterfaceAddress;
use serde::{Deserialize, Serialize};

/// The longest name of a network, in bytes.
const LONGEST: usize = 512;
/// What a subnet's full name starts with.
const FULL: &str = "/subscriptions/";

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no network: write NETWORK, NETWORK/SUBNET, a subnet's full id, or a range as 10.1.0.0/24"
)]
pub struct NotANetwork(String);

/// A network, and mostly a subnet in it. In text: `NETWORK`, `NETWORK/SUBNET`, a subnet's full id in Azure, or a range of addresses as
/// `10.1.0.0/24` for one that has no name that anybody knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

impl NetworkName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The network, without the subnet.
    #[must_use]
    pub fn network(&self) -> &str {
        match (self.range(), self.full()) {
            (Some(_), _) => &self.0,
            (None, Some((network, _))) => network,
            (None, None) => self.0.split('/').next().unwrap_or_default(),
        }
    }

    /// The subnet in it, where one is named.
    #[must_use]
    pub fn subnet(&self) -> Option<&str> {
        match (self.range(), self.full()) {
            (Some(_), _) => None,
            (None, Some((_, subnet))) => Some(subnet),
            (None, None) => self.0.split_once('/').map(|(_, subnet)| subnet),
        }
    }

    /// The range, where that is all there is of a name.
    #[must_use]
    pub fn range(&self) -> Option<Prefix> {
        self.0.parse().ok()
    }

    /// The subnet's full id in Azure, where it is one.
    #[must_use]
    pub fn full_id(&self) -> Option<&str> {
        self.full().map(|_| self.0.as_str())
    }

    fn full(&self) -> Option<(&str, &str)> {
        let parts: Vec<&str> = self.0.strip_prefix(FULL)?.split('/').collect();
        match parts[..] {
            [
                _,
                "resourceGroups",
                _,
                "providers",
                "Microsoft.Network",
                "virtualNetworks",
                network,
                "subnets",
                subnet,
            ] => Some((network, subnet)),
            _ => None,
        }
    }
}

impl FromStr for NetworkName {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<NetworkName, NotANetwork> {
        let name = NetworkName(text.to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let parts: Vec<&str> = text.split('/').collect();
        let is_name =
            parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && part.chars().all(plain));
        // A full id starts with a slash, so that its first part is empty.
        let is_full = name.full().is_some()
            && parts[1..]
                .iter()
                .all(|part| !part.is_empty() && part.chars().all(|c| plain(c) || "()".contains(c)));
        match text.len() <= LONGEST && (is_name || is_full || name.range().is_some()) {
            true => Ok(name),
            false => Err(NotANetwork(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<NetworkName, NotANetwork> {
        text.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> String {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A range of addresses, as `10.1.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    /// The range that an address is in.
    #[must_use]
    pub fn of(address: InterfaceAddress) -> Prefix {
        let most = if address.address.is_ipv4() { 32 } else { 128 };
        let length = address.prefix.min(most);
        Prefix { network: masked(address.address, length), length }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.length) == self.network
    }

    /// How many addresses it has before `address`, and after it; for the few that a network keeps for itself.
    pub(super) fn around(&self, address: IpAddr) -> Option<(u128, u128)> {
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let before = bits(address).checked_sub(bits(self.network))?;
        let size = 1u128.checked_shl(u32::from(most - self.length)).map_or(u128::MAX, |size| size - 1);
        Some((before, size.checked_sub(before)?))
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let bad = || {
            format!(
                "'{}' is no range of addresses such as 10.1.0.0/24",
                text.chars().take(80).collect::<String>()
            )
        };
        let (network, length) = text.split_once('/').ok_or_else(bad)?;
        let (network, length): (IpAddr, u8) =
            (network.parse().map_err(|_| bad())?, length.parse().map_err(|_| bad())?);
        let most = if network.is_ipv4() { 32 } else { 128 };
        match length <= most && masked(network, length) == network {
            true => Ok(Prefix { network, length }),
            false => Err(bad()),
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Prefix, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// Which way a machine goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From its source to the target.
    #[default]
    Forth,
    /// From the target to where it came from.
    Back,
}

/// Which network of the target stands for which of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMapping {
    /// The network at the source.
    pub source: NetworkName,
    /// Its addresses, by which a machine's interface is known to be in it.
    #[serde(default)]
    pub source_range: Option<Prefix>,
    /// The network at the target.
    pub target: NetworkName,
    /// Its addresses.
    #[serde(default)]
    pub target_range: Option<Prefix>,
}

impl NetworkMapping {
    /// Where an interface with an address in `here` gets to, and that network's range; nothing where this mapping is about others.
    pub(super) fn leads(&self, here: Prefix, direction: Direction) -> Option<(&NetworkName, Option<Prefix>)> {
        let ends = [(&self.source, self.source_range), (&self.target, self.target_range)];
        let (from, to) = match direction {
            Direction::Forth => (ends[0], ends[1]),
            Direction::Back => (ends[1], ends[0]),
        };
        let is_here = from.1.or(from.0.range()) == Some(here);
        is_here.then(|| (to.0, to.1.or(to.0.range())))
    }
}
