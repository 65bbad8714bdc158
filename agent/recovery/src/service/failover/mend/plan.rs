//! Which files of a machine are to be other ones.
//!
//! Deliberately not here: what is to be in them (`fstab`, `boot`, `network`, `first_boot`), and kernels (`kernels`).

use super::{
    Task, boot,
    devices::{Devices, Meaning},
    first_boot, fstab,
    guest::{Done, Guest, Planned, kept},
    network,
    report::Findings,
};

const FSTAB: &str = "/etc/fstab";
const CRYPTTAB: &str = "/etc/crypttab";
/// What is needed beside the root file system to see all that may be changed.
const MOUNTED: [&str; 5] = ["/boot", "/boot/efi", "/efi", "/usr", "/var"];
/// What gives cards their names.
const UDEV: [&str; 2] = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"];

/// What is to be done.
pub(super) struct Plan {
    /// Which system it is.
    pub(super) system: String,
    pub(super) files: Vec<Planned>,
}

/// Finds out, of a machine whose root file system is mounted.
pub(super) fn plan(
    task: &Task,
    guest: &mut Guest<'_>,
    devices: &mut Devices,
    found: &mut Findings,
) -> Done<Plan> {
    let mut plan = Plan { system: system(guest)?, files: Vec::new() };
    let crypttab = guest.read(CRYPTTAB, found)?;
    devices.mapped = crypttab.as_deref().map(fstab::mapped).unwrap_or_default();
    let table = guest.read(FSTAB, found)?;
    if let Some(table) = &table {
        mount(guest, table, devices, found)?;
    }
    for (path, text) in [(FSTAB, table), (CRYPTTAB, crypttab)] {
        let Some(text) = text else { continue };
        let after = match path {
            FSTAB => fstab::fstab(&text, devices, found),
            _ => fstab::crypttab(&text, devices, found),
        };
        plan.add(guest, path, text, after, found)?;
    }
    for pattern in boot::FILES {
        for path in guest.files(pattern)? {
            let Some(text) = guest.read(&path, found)? else { continue };
            let after = boot::file(&path, &text, devices, found);
            plan.add(guest, &path, text, after, found)?;
        }
    }
    if let Some(cards) = &task.cards {
        plan.cards(guest, cards, found)?;
    }
    if guest.exists(first_boot::CLOUD_INIT)? && task.is_virtio {
        plan.whole(guest, first_boot::KEEPS, first_boot::SETTINGS, found)?;
    }
    Ok(plan)
}

/// Which system it is, as it calls itself.
fn system(guest: &mut Guest<'_>) -> Done<String> {
    let mut unread = Findings::default();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        let text = guest.read(path, &mut unread)?.unwrap_or_default();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")) {
            return Ok(name
                .trim_matches(['"', '\''])
                .chars()
                .filter(|c| !c.is_control())
                .take(100)
                .collect());
        }
    }
    Ok("Linux".to_owned())
}

/// Mounts what is needed beside the root, as its own table says, with what its names mean here.
fn mount(guest: &mut Guest<'_>, table: &str, devices: &Devices, found: &mut Findings) -> Done<()> {
    for (at, name, options) in fstab::mounts(table) {
        if !MOUNTED.contains(&at) {
            continue;
        }
        let node = match devices.meaning(name) {
            Meaning::Is(device) => device.node.clone(),
            Meaning::Holds => name.to_owned(),
            Meaning::Gone | Meaning::Unclear => continue,
        };
        let subvolume = options.split(',').find(|option| option.starts_with("subvol=")).unwrap_or_default();
        // The appliance has a manner of its own to name things by identity.
        let node = devices.node_of(&node).unwrap_or(node);
        if !guest.mount(&node, at, subvolume)? {
            found.add(format!("{at} ({name}) cannot be looked into"));
        }
    }
    Ok(())
}

impl Plan {
    fn add(
        &mut self,
        guest: &mut Guest<'_>,
        path: &str,
        before: String,
        after: String,
        found: &mut Findings,
    ) -> Done<()> {
        if before != after {
            self.files.push(Planned { path: path.to_owned(), before: Some(before), after });
        } else if guest.exists(&kept(path))? {
            found.add(format!("{path} is mended already: {} is what was there before", kept(path)));
        }
        Ok(())
    }

    /// A file that is written as a whole, and is nobody else's.
    fn whole(&mut self, guest: &mut Guest<'_>, path: &str, after: &str, found: &mut Findings) -> Done<()> {
        let before = guest.read(path, found)?;
        if before.as_deref() != Some(after) {
            // It is of an earlier failover: nobody needs what was there.
            self.files.push(Planned { path: path.to_owned(), before: None, after: after.to_owned() });
        }
        Ok(())
    }

    fn cards(&mut self, guest: &mut Guest<'_>, cards: &[network::Card], found: &mut Findings) -> Done<()> {
        if cards.is_empty() {
            found.add("the machine has never told which network cards it has: their names and what goes by them stays as it is");
        }
        let mut has_udev = false;
        for path in UDEV {
            has_udev |= guest.exists(path)?;
        }
        let names = network::names(cards, found);
        for pattern in network::FILES {
            for path in guest.files(pattern)? {
                if names.iter().any(|(own, _)| *own == path) {
                    continue;
                }
                let Some(text) = guest.read(&path, found)? else { continue };
                let after = network::file(&path, &text, cards, found);
                self.add(guest, &path, text, after, found)?;
            }
        }
        if !has_udev && !names.is_empty() {
            found.add("the system does not name its network cards by systemd's rules: they may have other names than before");
            return Ok(());
        }
        for (path, text) in names {
            self.whole(guest, &path, &text, found)?;
        }
        Ok(())
    }
}
