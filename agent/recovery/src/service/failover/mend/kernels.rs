//! The kernels of a restored machine: whether they have the drivers of QEMU's disks, and giving them those.
//!
//! A first file system is made by the machine's own tools, which run in the appliance and nowhere else. Deliberately not here: what
//! is needed (`drivers`).

use std::fmt;

use super::{
    drivers::{self, DRACUT, INITRAMFS_TOOLS},
    guest::{Done, Guest, Planned, Trouble, new_of, quoted},
    guestfish::Broken,
    report::{Change, Findings},
};

/// Lists what is in a first file system, with whatever the machine has for that.
const LIST: [&str; 2] = ["lsinitramfs", "lsinitrd"];
/// What only the tools of Debian and its kin bring along. Where dracut has taken their place there may be an update-initramfs as well,
/// which does not read what theirs does.
const OF_INITRAMFS_TOOLS: [&str; 2] = ["/usr/sbin/update-initramfs", "/usr/sbin/mkinitramfs"];
/// Where dracut is, of one system or another.
const OF_DRACUT: [&str; 2] = ["/usr/bin/dracut", "/sbin/dracut"];

/// What makes first file systems in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tools {
    InitramfsTools,
    Dracut,
}

/// A kernel that will not find its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    version: String,
    /// Its first file system.
    image: String,
    lacks: Lacks,
}

/// What is wrong with a first file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lacks {
    drivers: Vec<&'static str>,
    /// LVM looks in it for disks by what they were called at the source.
    names_disks: bool,
}

/// The kernels that will not find their root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weak(Vec<Kernel>);

impl Weak {
    /// Whether something is to be done.
    pub(super) fn needs_work(&self) -> bool {
        !self.0.is_empty()
    }

    /// Says which, where nothing is to be done about it.
    pub(super) fn say(&self, found: &mut Findings) {
        for kernel in &self.0 {
            found.add(kernel.warning("nothing may be changed here"));
        }
    }
}

impl Kernel {
    fn warning(&self, why: &str) -> String {
        format!(
            "{} {} for kernel {}: it will not start at the target ({why})",
            self.image, self.lacks, self.version
        )
    }
}

impl Lacks {
    fn nothing(&self) -> bool {
        self.drivers.is_empty() && !self.names_disks
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.drivers.is_empty() {
            write!(f, "has no {}", self.drivers.join(" and no "))?;
        }
        if self.names_disks {
            let and = if self.drivers.is_empty() { "" } else { " and " };
            write!(f, "{and}has LVM's list of the disks of the source")?;
        }
        Ok(())
    }
}

/// Looks at the newest kernels.
pub(super) fn look(guest: &mut Guest<'_>, found: &mut Findings) -> Done<Weak> {
    let boot = guest.files("/boot/*")?;
    let versions = drivers::kernels(&boot);
    if versions.is_empty() {
        found.add("no kernel was found in /boot: whether it has the drivers of its disks is not known");
    }
    let mut weak = Weak::default();
    for version in versions {
        let Some(image) = drivers::first_file_system(&boot, &version) else {
            if !drivers::missing(&built_in(guest, &version)?).is_empty() {
                found.add(format!("kernel {version} has no first file system, and not all drivers of its disks: it may not start at the target"));
            }
            continue;
        };
        let Some(lacks) = lacks(guest, &image, &version)? else {
            found.add(format!("{image} cannot be looked into: whether kernel {version} has the drivers of its disks is not known"));
            continue;
        };
        if !lacks.nothing() {
            weak.0.push(Kernel { version, image, lacks });
        }
    }
    Ok(weak)
}

/// What is wrong with a first file system; nothing where it cannot be looked into.
fn lacks(guest: &mut Guest<'_>, image: &str, version: &str) -> Result<Option<Lacks>, Broken> {
    let Some(listing) = listing(guest, image)? else { return Ok(None) };
    let drivers = drivers::missing(&format!("{listing}\n{}", built_in(guest, version)?));
    Ok(Some(Lacks { drivers, names_disks: drivers::names_disks(&listing) }))
}

/// The drivers that a kernel holds itself.
fn built_in(guest: &mut Guest<'_>, version: &str) -> Result<String, Broken> {
    let path = format!("/lib/modules/{version}/modules.builtin");
    Ok(guest.try_ask(&format!("grep {} {}", quoted("virtio"), quoted(&path)))?.unwrap_or_default().join("\n"))
}

/// The drivers and the configuration in a first file system; nothing where it cannot be looked into.
fn listing(guest: &mut Guest<'_>, image: &str) -> Result<Option<String>, Broken> {
    for program in LIST {
        let command = format!("{program} '{image}' 2>/dev/null | grep -E 'virtio|etc' | head -5000");
        if let Some(lines) = guest.try_ask(&format!("sh {}", quoted(&command)))?
            // Of a program that is not there guestfish says an empty line.
            && lines.iter().any(|line| !line.trim().is_empty())
        {
            return Ok(Some(lines.join("\n")));
        }
    }
    Ok(None)
}

fn tools(guest: &mut Guest<'_>) -> Result<Option<Tools>, Broken> {
    if guest.exists(OF_INITRAMFS_TOOLS[0])? && guest.exists(OF_INITRAMFS_TOOLS[1])? {
        return Ok(Some(Tools::InitramfsTools));
    }
    let has_dracut = guest.exists(OF_DRACUT[0])? || guest.exists(OF_DRACUT[1])?;
    Ok(has_dracut.then_some(Tools::Dracut))
}

/// Gives them what they lack, and the files that give network cards their names; what was changed.
pub(super) fn mend(
    guest: &mut Guest<'_>,
    weak: &Weak,
    links: &[String],
    found: &mut Findings,
) -> Done<Vec<Change>> {
    let mut changes = Vec::new();
    if weak.0.is_empty() {
        return Ok(changes);
    }
    let Some(tools) = tools(guest)? else {
        for kernel in &weak.0 {
            found.add(kernel.warning("the machine has no tools that are known here to make another one"));
        }
        return Ok(changes);
    };
    let (path, before, after) = match tools {
        Tools::InitramfsTools => {
            let before = guest.read(INITRAMFS_TOOLS, found)?;
            let after = drivers::modules(before.as_deref().unwrap_or_default());
            (INITRAMFS_TOOLS, before, after)
        }
        Tools::Dracut => (DRACUT, None, drivers::dracut(links)),
    };
    if before.as_deref() != Some(&after) {
        changes.push(Change::between(path, before.as_deref().unwrap_or_default(), &after));
        guest.write(&[Planned { path: path.to_owned(), before, after: Some(after) }])?;
    }
    for kernel in &weak.0 {
        let made = match tools {
            Tools::InitramfsTools => updated(guest, kernel)?,
            Tools::Dracut => made_anew(guest, kernel)?,
        };
        match made {
            Ok(()) => changes.push(Change {
                file: kernel.image.clone(),
                was: format!("{} for kernel {}", kernel.lacks, kernel.version),
                now: "was made again with what it needs".to_owned(),
            }),
            Err(why) => found.add(kernel.warning(&why)),
        }
    }
    Ok(changes)
}

/// Has update-initramfs make a first file system again; why that did not help.
fn updated(guest: &mut Guest<'_>, kernel: &Kernel) -> Done<Result<(), String>> {
    let done = shell(guest, &format!("update-initramfs -u -k '{}'", kernel.version))?;
    judged(guest, kernel, &kernel.image, done)
}

/// Has dracut make a first file system beside the one that is there, whose place it takes when it is whole and of use; why it was not.
///
/// Dracut itself writes over what is there, and removes it where there is no room.
fn made_anew(guest: &mut Guest<'_>, kernel: &Kernel) -> Done<Result<(), String>> {
    let (image, new) = (&kernel.image, new_of(&kernel.image));
    // With all drivers, and not with those of the appliance.
    let done = shell(guest, &format!("dracut --force --no-hostonly '{new}' '{}'", kernel.version))?;
    let judged = judged(guest, kernel, &new, done)?;
    match judged {
        Ok(()) => {
            guest.make_like(image, &new)?;
            guest.settle(&mut vec![(new, image.clone())])?;
        }
        Err(_) => drop(guest.try_ask(&format!("rm-f {}", quoted(&new)))?),
    }
    Ok(judged)
}

/// What came of making a first file system: whether it was made, and has what was lacking.
fn judged(
    guest: &mut Guest<'_>,
    kernel: &Kernel,
    image: &str,
    done: Result<(), String>,
) -> Done<Result<(), String>> {
    if let Err(why) = done {
        return Ok(Err(format!("making it again failed: {why}")));
    }
    Ok(match lacks(guest, image, &kernel.version)? {
        Some(lacks) if lacks.nothing() => Ok(()),
        Some(lacks) => Err(format!("what was made again {lacks} as well")),
        None => Err("what was made again cannot be looked into".to_owned()),
    })
}

/// Runs a command of the machine's; the last that it said where it fails.
fn shell(guest: &mut Guest<'_>, command: &str) -> Done<Result<(), String>> {
    let said = "printf '%s' \"$said\" | tail -n 3 | tr '\\n' ' ' >&2";
    let command = format!("said=$({command} 2>&1) || {{ {said}; exit 1; }}");
    match guest.ask(&format!("sh {}", quoted(&command))) {
        Ok(_) => Ok(Ok(())),
        Err(Trouble::Refused(why)) => Ok(Err(why)),
        Err(broken) => Err(broken),
    }
}
