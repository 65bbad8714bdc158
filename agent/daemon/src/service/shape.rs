//! What this machine is made of, from `/sys` and `/proc`: firmware, processors, memory and network interfaces.
//!
//! The sandbox lets the agent open no netlink socket, so addresses are put together from what the kernel lists as text. What cannot be
//! found out is left out. Deliberately not here: what the cloud says (`metadata`), and disks (`inventory`).

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use mobility_format::{
    ByteCount,
    control::{BootMode, InterfaceAddress, InterfaceInventory, MAX_ADDRESSES, MAX_INTERFACES, Shape},
};

/// Where firmware says whether it starts only what is signed.
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// What memory is rounded up to where only the part is known that the kernel has left for others.
const ROUND: u64 = 128 << 20;
/// Flags of an IPv6 address that is there for a while only.
const TEMPORARY: u32 = 0x01;
/// Scope of addresses that are good everywhere.
const GLOBAL: u32 = 0;

/// What the machine below `root` is made of, but for what its cloud says.
pub(super) fn collect(root: &Path) -> Shape {
    let uefi = root.join("sys/firmware/efi").exists();
    Shape {
        // Where firmware is no matter of BIOS or UEFI at all, there is no table of the BIOS either.
        boot: match uefi {
            true => Some(BootMode::Uefi),
            false => root.join("sys/class/dmi/id").exists().then_some(BootMode::Bios),
        },
        secure_boot: uefi
            .then(|| fs::read(root.join(SECURE_BOOT)).is_ok_and(|bytes| bytes.last() == Some(&1))),
        processors: processors(&line(root, "sys/devices/system/cpu/online")),
        memory: memory(root),
        interfaces: interfaces(root),
        cloud: None,
    }
}

fn line(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned()
}

/// How many there are in a list such as `0-3,6`.
fn processors(list: &str) -> Option<u32> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(count).try_fold(0u32, |sum, count| sum.checked_add(count?)).filter(|sum| *sum > 0)
}

/// All memory, with what the kernel keeps for itself where it says so.
fn memory(root: &Path) -> Option<ByteCount> {
    let listed = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = listed.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let rounded = total.checked_next_multiple_of(ROUND)?;
    let size =
        u64::from_str_radix(&line(root, "sys/devices/system/memory/block_size_bytes"), 16).unwrap_or(0);
    let blocks = fs::read_dir(root.join("sys/devices/system/memory")).into_iter().flatten().flatten();
    let is_block =
        |name: &str| name.strip_prefix("memory").is_some_and(|number| number.parse::<u64>().is_ok());
    let blocks = blocks.filter(|entry| entry.file_name().to_str().is_some_and(is_block)).count() as u64;
    let present = blocks.checked_mul(size)?;
    // Blocks may be larger than what is in them.
    let likely = present >= total && present - total <= total / 4 + ROUND;
    Some(ByteCount(if likely { present } else { rounded }))
}

/// A route of IPv4, as the kernel lists it.
struct Route<'a> {
    interface: &'a str,
    destination: u32,
    gateway: u32,
    mask: u32,
    metric: u64,
}

fn route(line: &str) -> Option<Route<'_>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // In the order of bytes in memory, which is the network's.
    let address = |field: &str| Some(u32::from_be_bytes(u32::from_str_radix(field, 16).ok()?.to_ne_bytes()));
    Some(Route {
        interface: fields.first()?,
        destination: address(fields.get(1)?)?,
        gateway: address(fields.get(2)?)?,
        metric: fields.get(6)?.parse().ok()?,
        mask: address(fields.get(7)?)?,
    })
}

/// The addresses of IPv4 that are this machine's own, of whichever interface.
fn own_addresses(listed: &str) -> BTreeSet<u32> {
    let (mut own, mut last) = (BTreeSet::new(), None);
    for line in listed.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => last = address.parse::<Ipv4Addr>().ok().map(u32::from),
            None if line.starts_with("/32 host LOCAL") => own.extend(last),
            None => {}
        }
    }
    own
}

/// The interfaces that have hardware: bridges and tunnels are the system's own doing.
fn interfaces(root: &Path) -> Vec<InterfaceInventory> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let routes = read("proc/net/route");
    let routes: Vec<Route<'_>> = routes.lines().skip(1).filter_map(route).collect();
    let own = own_addresses(&read("proc/net/fib_trie"));
    let (six, six_routes) = (read("proc/net/if_inet6"), read("proc/net/ipv6_route"));
    let mut names: Vec<String> = fs::read_dir(root.join("sys/class/net"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.truncate(MAX_INTERFACES);
    let of_name = |name: String| {
        let of_card = |file: &str| line(root, &format!("sys/class/net/{name}/{file}"));
        let mut addresses = addresses_of(&name, &routes, &own);
        addresses.extend(six.lines().filter_map(|line| six_address(line, &name)));
        addresses.truncate(MAX_ADDRESSES);
        let default = routes.iter().filter(|route| route.interface == name && route.mask == 0);
        let default = default.min_by_key(|route| route.metric);
        let six_default = six_routes.lines().find_map(|line| six_gateway(line, &name));
        let gateway = default.filter(|route| route.gateway != 0);
        InterfaceInventory {
            mac: of_card("address").to_lowercase(),
            mtu: of_card("mtu").parse().ok(),
            default_route: default.is_some() || six_default.is_some(),
            gateway: gateway.map(|route| Ipv4Addr::from(route.gateway).into()).or(six_default.flatten()),
            addresses,
            name,
        }
    };
    // A card without an address of its own, such as the other half of an accelerated one, cannot be made again by it.
    let mut found: Vec<InterfaceInventory> = names.into_iter().map(of_name).collect();
    let macs: Vec<(String, bool)> =
        found.iter().map(|card| (card.mac.clone(), card.addresses.is_empty())).collect();
    let twin = |card: &InterfaceInventory| {
        card.addresses.is_empty() && macs.iter().any(|(mac, silent)| *mac == card.mac && !silent)
    };
    found.retain(|card| card.mac != "00:00:00:00:00:00" && !twin(card));
    found
}

/// The machine's own addresses that an interface reaches without a gateway. Which network an address is in is the narrowest one.
fn addresses_of(name: &str, routes: &[Route<'_>], own: &BTreeSet<u32>) -> Vec<InterfaceAddress> {
    let narrowest = |address: u32| {
        let direct = routes.iter().filter(|route| route.gateway == 0 && route.mask != 0);
        direct.filter(|route| address & route.mask == route.destination).max_by_key(|route| route.mask)
    };
    let of_own = |address: &u32| {
        let route = narrowest(*address).filter(|route| route.interface == name)?;
        let prefix = u8::try_from(route.mask.count_ones()).ok()?;
        Some(InterfaceAddress { address: Ipv4Addr::from(*address).into(), prefix })
    };
    own.iter().filter_map(of_own).collect()
}

fn six(hex: &str) -> Option<Ipv6Addr> {
    (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok())?.map(Ipv6Addr::from)
}

/// An address of IPv6 that is this interface's, is good everywhere and is there to stay.
fn six_address(line: &str, name: &str) -> Option<InterfaceAddress> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [address, _, prefix, scope, flags, interface] = fields[..] else { return None };
    let number = |field| u32::from_str_radix(field, 16).ok();
    let wanted = interface == name && number(scope)? == GLOBAL && number(flags)? & TEMPORARY == 0;
    let prefix = u8::from_str_radix(prefix, 16).ok()?;
    wanted.then(|| Some(InterfaceAddress { address: six(address)?.into(), prefix }))?
}

/// Where what no other route takes goes, if it goes this way.
fn six_gateway(line: &str, name: &str) -> Option<Option<IpAddr>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _, _, next, .., interface] = fields[..] else { return None };
    let default = six(destination)?.is_unspecified() && length == "00" && interface == name && name != "lo";
    default.then(|| six(next).filter(|next| !next.is_unspecified()).map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use mobility_format::control::Limited;

    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.1.0.0
        /24 link UNICAST
     |-- 10.1.0.7
        /32 host LOCAL
     |-- 10.1.0.255
        /32 link BROADCAST
     |-- 10.1.0.8
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.168.5.9
        /32 host LOCAL
";
    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0100010A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000010A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth0\t1081A8A8\t0100010A\t0007\t0\t0\t100\tFFFFFFFF\t0\t0\t0
eth1\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
    const SIX: &str = "fd000000000000000000000000000002 04 40 00 80     eth0
fd0000000000000000000000000000ff 04 40 00 01     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
";
    const SIX_ROUTES: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn interfaces_come_with_their_addresses_and_the_way_out() {
        let root = root(&[
            ("proc/net/fib_trie", TRIE),
            ("proc/net/route", ROUTES),
            ("proc/net/if_inet6", SIX),
            ("proc/net/ipv6_route", SIX_ROUTES),
            ("sys/class/net/eth0/device/x", ""),
            ("sys/class/net/eth0/address", "00:0D:3A:00:00:01\n"),
            ("sys/class/net/eth0/mtu", "1500\n"),
            ("sys/class/net/eth1/device/x", ""),
            ("sys/class/net/eth1/address", "00:0d:3a:00:00:02\n"),
            ("sys/class/net/virtual/address", "00:0d:3a:00:00:03\n"),
            // The other half of an accelerated card.
            ("sys/class/net/zzz/device/x", ""),
            ("sys/class/net/zzz/address", "00:0d:3a:00:00:01\n"),
        ]);
        let found = interfaces(root.path());
        let shown: Vec<_> =
            found.iter().map(|card| (card.name.as_str(), card.mac.as_str(), card.mtu)).collect();
        assert_eq!(shown, [("eth0", "00:0d:3a:00:00:01", Some(1500)), ("eth1", "00:0d:3a:00:00:02", None)]);
        let addresses = |card: &InterfaceInventory| {
            card.addresses.iter().map(|one| format!("{}/{}", one.address, one.prefix)).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&found[0]), ["10.1.0.7/24", "10.1.0.8/24", "fd00::2/64"]);
        assert_eq!(addresses(&found[1]), ["192.168.5.9/24"]);
        assert_eq!((found[0].default_route, found[0].gateway), (true, Some("10.1.0.1".parse().unwrap())));
        assert_eq!((found[1].default_route, found[1].gateway), (false, None));
        let only_six = SIX_ROUTES.lines().next().unwrap();
        assert_eq!(six_gateway(only_six, "eth0"), Some(Some("fe80::1".parse().unwrap())));
    }

    #[test]
    fn firmware_processors_and_memory_are_as_the_kernel_says() {
        let blocks: Vec<String> =
            (0..64).map(|n| format!("sys/devices/system/memory/memory{n}/state")).collect();
        let mut files: Vec<(&str, &str)> = blocks.iter().map(|path| (path.as_str(), "online")).collect();
        files.push(("sys/devices/system/memory/block_size_bytes", "8000000\n"));
        files.push(("sys/devices/system/cpu/online", "0-2,5\n"));
        files.push(("proc/meminfo", "MemTotal:        8130000 kB\nMemFree: 1 kB\n"));
        files.push((SECURE_BOOT, "\u{6}\0\0\0\u{1}"));
        let shape = collect(root(&files).path());
        assert_eq!((shape.boot, shape.secure_boot), (Some(BootMode::Uefi), Some(true)));
        assert_eq!((shape.processors, shape.memory), (Some(4), Some(ByteCount(8 << 30))));
        let less = [("proc/meminfo", "MemTotal:   8130000 kB\n"), ("sys/class/dmi/id/sys_vendor", "QEMU\n")];
        let shape = collect(root(&less).path());
        assert_eq!((shape.boot, shape.secure_boot, shape.processors), (Some(BootMode::Bios), None, None));
        assert_eq!(shape.memory, Some(ByteCount(63 * ROUND)));
        assert_eq!(collect(Path::new("/nonexistent")), Shape::default());
        for bad in ["", "a", "3-1", "0-4294967295", "1,,2"] {
            assert_eq!(processors(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_machine_is_described_within_the_limits() {
        let shape = collect(Path::new("/"));
        shape.check().unwrap();
        assert!(shape.processors.is_some() && shape.memory.is_some());
    }
}
