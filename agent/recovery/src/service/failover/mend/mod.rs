//! Mends restored disks before a machine boots from them for the first time, where its disks, its cards and its platform have other
//! names than before.
//!
//! What is to be in which file is decided by functions of text alone (`fstab`, `boot`, `network`, `drivers`); what is on the disks is
//! read and written by an appliance (`guest`, `guestfish`), never by the service. What cannot be mended is said. Deliberately not
//! here: when it is done (`steps`).

mod boot;
mod devices;
mod drivers;
mod first_boot;
mod fstab;
mod guest;
mod guestfish;
mod kernels;
mod network;
mod plan;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use devices::{Devices, Named};
use guest::{Done, Guest, Trouble};
use guestfish::{Broken, Guestfish, LIMIT, PROGRAM};
use report::Findings;

pub(super) use guest::Image;
pub(super) use guestfish::clean;
pub(super) use network::Card;
pub(crate) use report::Change;
pub(super) use report::Report;

/// What is done about what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mend {
    /// It is mended.
    Yes,
    /// It is said, and nothing is changed.
    Report,
    /// Nothing is looked at.
    No,
}

/// A disk that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restored {
    pub(super) image: Image,
    /// What the machine called it.
    pub(super) name: String,
    pub(super) serial: Option<String>,
    pub(super) is_root: bool,
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) disks: Vec<Restored>,
    /// The machine's network cards; nothing where it is not known which ones it will have.
    pub(super) cards: Option<Vec<Card>>,
    /// Whether its disks and cards will be those of QEMU.
    pub(super) is_virtio: bool,
    /// Whether nothing may be changed.
    pub(super) report_only: bool,
    /// Whether this host's own virtualisation is not to be used.
    pub(super) emulated: bool,
    /// Where to work. It is removed at the end.
    pub(super) directory: PathBuf,
}

/// It was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmended {
    /// It was told to stop.
    Stopped,
    /// Something could not be written; what.
    Failed(String),
}

/// Looks at a machine's disks, and mends them.
///
/// # Errors
/// When it was told to stop, or what was to be written could not be. What could not be looked at is in the report.
pub(super) fn mend(task: &Task, stop: &dyn Fn() -> bool) -> Result<Report, Unmended> {
    if let Err(why) = installed() {
        return Ok(Report::nothing(format!("the disks were not looked at: {why}")));
    }
    let (mut found, mut begun) = (Findings::default(), false);
    let done = work(task, stop, &mut found, &mut begun);
    match done {
        Ok(report) => Ok(report),
        Err(Trouble::Broken(Broken::Stopped)) => Err(Unmended::Stopped),
        Err(trouble) => {
            let why = match trouble {
                Trouble::Broken(Broken::Late) => {
                    format!("it took more than {} minutes", LIMIT.as_secs() / 60)
                }
                Trouble::Broken(Broken::Ended(said)) => format!("{PROGRAM} ended: {said}"),
                Trouble::Broken(Broken::Stopped) => return Err(Unmended::Stopped),
                Trouble::Refused(why) => why,
            };
            if begun {
                return Err(Unmended::Failed(why));
            }
            found.add(format!("the disks could not be looked through, and nothing was changed: {why}"));
            Ok(Report::new(String::new(), Vec::new(), found))
        }
    }
}

/// Whether the program is there; what is missing.
fn installed() -> Result<(), String> {
    let tried = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    match tried {
        Ok(said) if said.status.success() => Ok(()),
        Ok(said) => Err(format!("{PROGRAM} does not run: {}", String::from_utf8_lossy(&said.stderr).trim())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(format!(
            "{PROGRAM} is not on this host (Debian: guestfish, Fedora: guestfs-tools; docs/usage/failover.md)"
        )),
        Err(err) => Err(format!("{PROGRAM} cannot be started: {err}")),
    }
}

fn work(task: &Task, stop: &dyn Fn() -> bool, found: &mut Findings, begun: &mut bool) -> Done<Report> {
    let mut guest = match open(task, task.emulated, stop) {
        // Virtualisation that is there and does not work, as within other machines, is done without.
        Err(Trouble::Refused(_)) if !task.emulated => open(task, true, stop)?,
        opened => opened?,
    };
    let named = task.disks.iter().map(|disk| Named {
        name: disk.name.trim_start_matches("/dev/").to_owned(),
        serial: disk.serial.clone().unwrap_or_default(),
        is_root: disk.is_root,
    });
    let mut devices = guest.devices(named.collect())?;
    let Some(root) = root(&mut guest, &devices, found)? else {
        guest.close()?;
        return Ok(Report::new(String::new(), Vec::new(), std::mem::take(found)));
    };
    devices.root = devices.all.iter().position(|device| is_on(&root, &device.node));
    guest.ask(&format!("mount {} /", guest::quoted(&root)))?;
    let plan = plan::plan(task, &mut guest, &mut devices, found)?;
    let weak = match task.is_virtio {
        true => kernels::look(&mut guest, found)?,
        false => kernels::Weak::default(),
    };
    let mut changes: Vec<Change> = plan
        .files
        .iter()
        .map(|file| {
            let [before, after] = [&file.before, &file.after].map(|text| text.as_deref().unwrap_or_default());
            Change::between(&file.path, before, after)
        })
        .collect();
    if !task.report_only {
        *begun = !plan.files.is_empty();
        guest.write(&plan.files)?;
        *begun |= weak.needs_work();
        changes.extend(kernels::mend(&mut guest, &weak, &plan.links, found)?);
    } else {
        weak.say(found);
    }
    guest.close()?;
    Ok(Report::new(plan.system, changes, std::mem::take(found)))
}

/// Whether a root file system, as the appliance names it, is on a device: it may be a volume of a file system there.
fn is_on(root: &str, node: &str) -> bool {
    match root.strip_prefix("btrfsvol:") {
        None => root == node,
        Some(volume) => {
            volume.strip_prefix(node).is_some_and(|name| name.is_empty() || name.starts_with('/'))
        }
    }
}

/// Starts an appliance with the disks.
fn open<'a>(task: &Task, emulated: bool, stop: &'a dyn Fn() -> bool) -> Done<Guest<'a>> {
    let failed = |err: io::Error| {
        Trouble::Refused(format!("{PROGRAM} cannot be started in {}: {err}", task.directory.display()))
    };
    let fish = Guestfish::start(&task.directory, emulated, stop).map_err(failed)?;
    let images: Vec<Image> = task.disks.iter().map(|disk| disk.image.clone()).collect();
    Guest::open(fish, &images, task.report_only)
}

/// The root file system of the machine; nothing where there is none that can be looked into.
fn root(guest: &mut Guest<'_>, devices: &Devices, found: &mut Findings) -> Done<Option<String>> {
    let roots = guest.ask("inspect-os")?;
    let locked: Vec<&str> = devices
        .all
        .iter()
        .filter(|device| device.kind == "crypto_LUKS" || device.kind == "BitLocker")
        .map(|device| device.node.as_str())
        .collect();
    let on_first = |root: &&String| {
        let device = devices.all.iter().find(|device| root.contains(device.node.as_str()));
        let disk = device.and_then(|device| device.at).and_then(|(disk, _)| devices.disks.get(disk));
        disk.is_some_and(|disk| disk.is_root)
    };
    let chosen = match &roots[..] {
        [] if locked.is_empty() => {
            found.add("no system was found on the disks: nothing was changed");
            return Ok(None);
        }
        [] => {
            found.add(format!(
                "no system was found on the disks, and what is encrypted cannot be looked into ({} of {} parts): nothing was changed",
                locked.len(),
                devices.all.len()
            ));
            return Ok(None);
        }
        [one] => one,
        several => {
            found
                .add(format!("{} systems were found on the disks; one of them was looked at", several.len()));
            several.iter().find(on_first).unwrap_or(&several[0])
        }
    };
    let kind = guest.ask(&format!("inspect-get-type {}", guest::quoted(chosen)))?;
    if kind != ["linux"] {
        found.add(format!("the system on the disks is {}, not Linux: nothing was changed", kind.join(" ")));
        return Ok(None);
    }
    Ok(Some(chosen.clone()))
}

/// Whether it is a name of a disk, such as `/dev/sda`.
pub(super) fn is_device(name: &str) -> bool {
    devices::split(name.trim_start_matches("/dev/")).is_some()
}

/// Where one failover's disks are looked at, of the directory that they are in.
pub(super) fn directory(of_disks: &Path) -> PathBuf {
    of_disks.join("mending")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_may_be_a_volume_within_a_file_system() {
        let table = [
            ("/dev/sda1", "/dev/sda1", true),
            ("/dev/sda1", "/dev/sda", false),
            // Of Fedora, of openSUSE, and on LVM.
            ("btrfsvol:/dev/sda3/root", "/dev/sda3", true),
            ("btrfsvol:/dev/sda2/@/.snapshots/1/snapshot", "/dev/sda2", true),
            ("btrfsvol:/dev/group/system/root", "/dev/group/system", true),
            ("btrfsvol:/dev/sda3/root", "/dev/sda", false),
            ("btrfsvol:/dev/sda12/root", "/dev/sda1", false),
        ];
        for (root, node, expected) in table {
            assert_eq!(is_on(root, node), expected, "{root} {node}");
        }
    }
}
