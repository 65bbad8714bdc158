//! The kernels of a restored machine: whether they have the drivers of QEMU's disks, and giving them those.
//!
//! A first file system is made by the machine's own tools, which run in the appliance and nowhere else. Deliberately not here: what
//! is needed (`drivers`).

use super::{
    drivers::{self, DRACUT, INITRAMFS_TOOLS},
    guest::{Done, Guest, Planned, quoted},
    guestfish::Broken,
    report::{Change, Findings},
};

/// Lists what is in a first file system, with whatever the machine has for that.
const LIST: [&str; 2] = ["lsinitramfs", "lsinitrd"];

/// A kernel without drivers that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    version: String,
    /// Its first file system.
    image: String,
    lacks: Vec<&'static str>,
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
            "{} has no {} for kernel {}: it will not start at the target ({why})",
            self.image,
            self.lacks.join(" and no "),
            self.version
        )
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
        let Some(listing) = listing(guest, &image)? else {
            found.add(format!("{image} cannot be looked into: whether kernel {version} has the drivers of its disks is not known"));
            continue;
        };
        let lacks = drivers::missing(&format!("{listing}\n{}", built_in(guest, &version)?));
        if !lacks.is_empty() {
            weak.0.push(Kernel { version, image, lacks });
        }
    }
    Ok(weak)
}

/// The drivers that a kernel holds itself.
fn built_in(guest: &mut Guest<'_>, version: &str) -> Result<String, Broken> {
    let path = format!("/lib/modules/{version}/modules.builtin");
    Ok(guest.try_ask(&format!("grep {} {}", quoted("virtio"), quoted(&path)))?.unwrap_or_default().join("\n"))
}

/// The drivers in a first file system; nothing where it cannot be looked into.
fn listing(guest: &mut Guest<'_>, image: &str) -> Result<Option<String>, Broken> {
    for program in LIST {
        let command = format!("{program} '{image}' 2>/dev/null | grep -E 'virtio|etc' | head -5000");
        if let Some(lines) = guest.try_ask(&format!("sh {}", quoted(&command)))?
            && !lines.is_empty()
        {
            return Ok(Some(lines.join("\n")));
        }
    }
    Ok(None)
}

/// Gives them what they lack; what was changed.
pub(super) fn mend(guest: &mut Guest<'_>, weak: &Weak, found: &mut Findings) -> Done<Vec<Change>> {
    let mut changes = Vec::new();
    if weak.0.is_empty() {
        return Ok(changes);
    }
    let has_tools = guest.exists("/usr/sbin/update-initramfs")?;
    let has_dracut = guest.exists("/usr/bin/dracut")? || guest.exists("/sbin/dracut")?;
    let planned = match (has_tools, has_dracut) {
        (true, _) => {
            let before = guest.read(INITRAMFS_TOOLS, found)?;
            let after = drivers::modules(before.as_deref().unwrap_or_default());
            Planned { path: INITRAMFS_TOOLS.to_owned(), before, after }
        }
        (false, true) => Planned { path: DRACUT.to_owned(), before: None, after: drivers::dracut() },
        (false, false) => {
            for kernel in &weak.0 {
                found.add(kernel.warning("the machine has no tools that are known here to make another one"));
            }
            return Ok(changes);
        }
    };
    if planned.before.as_deref() != Some(&planned.after) {
        guest.write(std::slice::from_ref(&planned))?;
        let before = planned.before.as_deref().unwrap_or_default();
        changes.push(Change::between(&planned.path, before, &planned.after));
    }
    for kernel in &weak.0 {
        let (version, image) = (&kernel.version, &kernel.image);
        let command = match has_tools {
            true => format!("update-initramfs -u -k '{version}' 2>&1"),
            // All drivers, not those of the appliance.
            false => format!("dracut --force --no-hostonly '{image}' '{version}' 2>&1"),
        };
        let said = guest.ask(&format!("sh {}", quoted(&command)));
        let why = match said {
            Ok(_) => "what was made again lacks it as well".to_owned(),
            Err(super::Trouble::Refused(why)) => format!("making it again failed: {why}"),
            Err(broken) => return Err(broken),
        };
        let listing = listing(guest, image)?.unwrap_or_default();
        let lacks = drivers::missing(&format!("{listing}\n{}", built_in(guest, version)?));
        match lacks.is_empty() {
            true => changes.push(Change {
                file: image.clone(),
                was: format!("without {}", kernel.lacks.join(", ")),
                now: format!("with {}", kernel.lacks.join(", ")),
            }),
            false => found.add(kernel.warning(&why)),
        }
    }
    Ok(changes)
}
