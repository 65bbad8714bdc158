//! Which files of a machine are to be other ones.
//!
//! Deliberately not here: what is to be in them (`fstab`, `boot`, `network`, `first_boot`), and kernels (`kernels`).

use super::{
    Task, boot,
    devices::{Devices, Meaning},
    first_boot, fstab,
    guest::{Done, Guest, Planned, kept},
    guestfish::Broken,
    network,
    report::Findings,
};

const FSTAB: &str = "/etc/fstab";
const CRYPTTAB: &str = "/etc/crypttab";
/// By what LVM knows the disks that it may use: their serial numbers, which are others at the target. Where there is no such file it uses
/// all that it finds (lvmdevices(8); on by default from RHEL 9 on).
const LVM_DEVICES: &str = "/etc/lvm/devices/system.devices";
/// What is needed beside the root file system to see all that may be changed.
const MOUNTED: [&str; 5] = ["/boot", "/boot/efi", "/efi", "/usr", "/var"];
/// What gives cards their names.
const UDEV: [&str; 2] = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"];

/// What is to be done.
pub(super) struct Plan {
    /// Which system it is.
    pub(super) system: String,
    pub(super) files: Vec<Planned>,
    /// Those that give network cards their names, whether or not they are there already.
    pub(super) links: Vec<String>,
}

/// Finds out, of a machine whose root file system is mounted.
pub(super) fn plan(
    task: &Task,
    guest: &mut Guest<'_>,
    devices: &mut Devices,
    found: &mut Findings,
) -> Done<Plan> {
    let mut plan = Plan { system: system(guest)?, files: Vec::new(), links: Vec::new() };
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
    match guest.read(LVM_DEVICES, found)? {
        None => already(guest, LVM_DEVICES, found)?,
        before => plan.files.push(Planned { path: LVM_DEVICES.to_owned(), before, after: None }),
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

/// Says so where a file was mended before.
fn already(guest: &mut Guest<'_>, path: &str, found: &mut Findings) -> Result<(), Broken> {
    if guest.exists(&kept(path))? {
        found.add(format!("{path} is mended already: {} is what was there before", kept(path)));
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
        if before == after {
            return Ok(already(guest, path, found)?);
        }
        // Two names may mean the same file.
        let real = guest.real(path)?;
        if !self.files.iter().any(|planned| planned.path == real) {
            self.files.push(Planned { path: real, before: Some(before), after: Some(after) });
        }
        Ok(())
    }

    /// A file that is written as a whole, and is nobody else's.
    fn whole(&mut self, guest: &mut Guest<'_>, path: &str, after: &str, found: &mut Findings) -> Done<()> {
        let before = guest.read(path, found)?;
        if before.as_deref() != Some(after) {
            // It is of an earlier failover: nobody needs what was there.
            self.files.push(Planned { path: path.to_owned(), before: None, after: Some(after.to_owned()) });
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
            self.links.push(path);
        }
        Ok(())
    }
}
