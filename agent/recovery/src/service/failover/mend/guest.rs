//! What is done with a restored machine's disks in the appliance: they are looked through, mounted, and files are read and replaced.
//!
//! Files are replaced so that it can be done again from anywhere: what was there is durable beside a file before the file is another
//! one, and then it is another one at once. Deliberately not here: what is written (`fstab`, `boot`, `network`).

use std::{fs, path::Path};

use super::{
    devices::{Device, Devices, Named},
    guestfish::{Broken, Guestfish},
    report::Findings,
};
use crate::Format;

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;
/// The most files of a pattern.
const MOST_FILES: usize = 200;
/// What the name of a file as it was ends with.
pub(super) const BEFORE: &str = ".before-failover";
/// Where every file is taken for configuration, so that what was there is hidden.
const ALL_COUNT: [&str; 4] = [
    "/etc/network/interfaces.d",
    "/etc/NetworkManager/system-connections",
    "/etc/sysconfig/network-scripts",
    "/etc/sysconfig/network",
];

/// A file that is to be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) path: String,
    /// What is there; nothing where no file is.
    pub(super) before: Option<String>,
    /// What is to be there; nothing where no file is to be.
    pub(super) after: Option<String>,
}

/// An image of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Image {
    pub(in super::super) path: String,
    pub(in super::super) format: Format,
}

/// What was asked of the appliance could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Broken(Broken),
    Refused(String),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Trouble {
        Trouble::Broken(broken)
    }
}

pub(super) type Done<T> = Result<T, Trouble>;

/// The machine's disks in a running appliance.
pub(super) struct Guest<'a> {
    fish: Guestfish<'a>,
    files: u64,
}

/// A word of a command.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a name in the machine can be written in a command without meaning anything else.
fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.chars().all(|c| !c.is_control() && !"\"\\`$".contains(c))
}

/// The directory of a file, and its name there.
fn parts(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Where a file is kept as it was.
pub(super) fn kept(path: &str) -> String {
    let (directory, name) = parts(path);
    let dot = if ALL_COUNT.contains(&directory) { "." } else { "" };
    format!("{directory}/{dot}{name}{BEFORE}")
}

/// Where a file is until it takes its place.
pub(super) fn new_of(path: &str) -> String {
    let (directory, name) = parts(path);
    format!("{directory}/.{name}.new-by-failover")
}

impl<'a> Guest<'a> {
    /// Starts the appliance with these disks. Where they are not to be changed, what is written to them is not kept.
    pub(super) fn open(mut fish: Guestfish<'a>, images: &[Image], read_only: bool) -> Done<Guest<'a>> {
        for image in images {
            let format = if image.format == Format::Vhd { "vpc" } else { image.format.name() };
            let command = format!("add-drive {} format:{format} readonly:{read_only}", quoted(&image.path));
            fish.ask(&command)?.map_err(Trouble::Refused)?;
        }
        fish.ask("run")?.map_err(Trouble::Refused)?;
        Ok(Guest { fish, files: 0 })
    }

    /// Has the appliance do something; the lines that it answers.
    pub(super) fn ask(&mut self, command: &str) -> Done<Vec<String>> {
        self.fish.ask(command)?.map_err(Trouble::Refused)
    }

    /// The same, where not being able to says something.
    pub(super) fn try_ask(&mut self, command: &str) -> Result<Option<Vec<String>>, Broken> {
        Ok(self.fish.ask(command)?.ok())
    }

    /// What is on the disks.
    pub(super) fn devices(&mut self, disks: Vec<Named>) -> Done<Devices> {
        let mut nodes = self.ask("list-devices")?;
        nodes.extend(self.ask("list-partitions")?);
        nodes.extend(self.try_ask("lvs")?.unwrap_or_default());
        let mut all = Vec::new();
        for node in nodes {
            let Some(tags) = self.try_ask(&format!("blkid {}", quoted(&node)))? else { continue };
            let tag = |name: &str| {
                let value = tags.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                value.unwrap_or_default().to_owned()
            };
            all.push(Device {
                at: place(&node),
                uuid: tag("UUID"),
                label: tag("LABEL"),
                kind: tag("TYPE"),
                part_uuid: tag("PART_ENTRY_UUID"),
                part_label: tag("PART_ENTRY_NAME"),
                node,
            });
        }
        Ok(Devices { disks, all, root: None, mapped: Vec::new() })
    }

    /// Mounts a file system. Whether that could be done.
    pub(super) fn mount(&mut self, node: &str, at: &str, options: &str) -> Result<bool, Broken> {
        if !is_plain(at) {
            return Ok(false);
        }
        let command = format!("mount-options {} {} {}", quoted(options), quoted(node), quoted(at));
        Ok(self.try_ask(&command)?.is_some())
    }

    /// Whether there is such a file, link or directory.
    pub(super) fn exists(&mut self, path: &str) -> Result<bool, Broken> {
        Ok(self.try_ask(&format!("exists {}", quoted(path)))?.is_some_and(|said| said == ["true"]))
    }

    /// The files that a pattern means.
    pub(super) fn files(&mut self, pattern: &str) -> Result<Vec<String>, Broken> {
        if !pattern.contains('*') {
            return Ok(vec![pattern.to_owned()]);
        }
        let mut names = self.try_ask(&format!("glob-expand {pattern}"))?.unwrap_or_default();
        names.retain(|name| is_plain(name) && !name.ends_with('/') && !name.ends_with(BEFORE));
        names.truncate(MOST_FILES);
        Ok(names)
    }

    /// What is in a file of text; nothing where there is none. What cannot be read is found.
    pub(super) fn read(&mut self, path: &str, found: &mut Findings) -> Result<Option<String>, Broken> {
        let is_file = format!("is-file {} followsymlinks:true", quoted(path));
        if self.try_ask(&is_file)?.is_none_or(|said| said != ["true"]) {
            return Ok(None);
        }
        let size = self.try_ask(&format!("filesize {}", quoted(path)))?;
        let size: Option<u64> = size.and_then(|said| said.first()?.parse().ok());
        if size.is_none_or(|size| size > LARGEST) {
            found.add(format!("{path} is too large to look at"));
            return Ok(None);
        }
        let local = self.local("was");
        let command = format!("download {} {}", quoted(path), quoted(&local));
        let done = self.try_ask(&command)?.is_some();
        let text = fs::read(&local).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        fs::remove_file(&local).ok();
        if !done || text.is_none() {
            found.add(format!("{path} could not be read as text"));
        }
        Ok(text.filter(|_| done))
    }

    /// A name for a file on the host.
    fn local(&mut self, kind: &str) -> String {
        self.files += 1;
        self.fish.directory().join(format!("{kind}-{}", self.files)).display().to_string()
    }

    /// Replaces files.
    pub(super) fn write(&mut self, planned: &[Planned]) -> Done<()> {
        let (mut all, mut moves) = (Vec::new(), Vec::new());
        for plan in planned {
            // What a link means is replaced, and not the link.
            all.push((if plan.before.is_some() { self.real(&plan.path)? } else { plan.path.clone() }, plan));
        }
        for (path, _) in all.iter().filter(|(_, plan)| plan.before.is_some()) {
            let (kept, new) = (kept(path), new_of(&kept(path)));
            if !self.exists(&kept)? {
                self.ask(&format!("cp-a {} {}", quoted(path), quoted(&new)))?;
                moves.push((new, kept));
            }
        }
        self.settle(&mut moves)?;
        for (path, plan) in all {
            let Some(after) = &plan.after else {
                self.ask(&format!("rm-f {}", quoted(&path)))?;
                continue;
            };
            let new = new_of(&path);
            // With the owner, the mode, the label of SELinux and whatever else files there have.
            let like = if plan.before.is_some() { path.clone() } else { "/etc/fstab".to_owned() };
            if plan.before.is_none() {
                self.make_directory(parts(&path).0)?;
            }
            if plan.before.is_some() || self.exists(&like)? {
                self.ask(&format!("cp-a {} {}", quoted(&like), quoted(&new)))?;
            }
            self.upload(after, &new)?;
            if plan.before.is_none() {
                self.ask(&format!("chmod 0644 {}", quoted(&new)))?;
            }
            moves.push((new, path));
        }
        self.settle(&mut moves)
    }

    /// Makes a directory, and those above it, each like the one that it is in.
    fn make_directory(&mut self, path: &str) -> Done<()> {
        if path.is_empty() || self.exists(path)? {
            return Ok(());
        }
        let above = parts(path).0;
        self.make_directory(above)?;
        self.ask(&format!("mkdir {}", quoted(path)))?;
        Ok(self.make_like(if above.is_empty() { "/" } else { above }, path)?)
    }

    /// Gives a file the owner, the mode and the attributes that another one has, as far as file systems have them. What has no label of
    /// SELinux's is read by hardly anything where that is enforced.
    pub(super) fn make_like(&mut self, like: &str, path: &str) -> Result<(), Broken> {
        self.try_ask(&format!("copy-attributes {} {} all:true", quoted(like), quoted(path)))?;
        Ok(())
    }

    fn upload(&mut self, text: &str, to: &str) -> Done<()> {
        let local = self.local("new");
        let refused = |err: std::io::Error| Trouble::Refused(format!("{local} cannot be written: {err}"));
        fs::write(Path::new(&local), text).map_err(refused)?;
        self.ask(&format!("upload {} {}", quoted(&local), quoted(to)))?;
        Ok(())
    }

    /// Has files take their places, once they are durable.
    pub(super) fn settle(&mut self, moves: &mut Vec<(String, String)>) -> Done<()> {
        if moves.is_empty() {
            return Ok(());
        }
        self.ask("sync")?;
        for (from, to) in moves.drain(..) {
            self.ask(&format!("mv {} {}", quoted(&from), quoted(&to)))?;
        }
        self.ask("sync")?;
        Ok(())
    }

    /// The file that a name means, whatever links are on the way.
    pub(super) fn real(&mut self, path: &str) -> Done<String> {
        let said = self.ask(&format!("realpath {}", quoted(path)))?;
        let real = said.into_iter().next().filter(|real| is_plain(real));
        real.ok_or_else(|| Trouble::Refused(format!("{path} is a link that leads nowhere")))
    }

    /// Ends the appliance; what was written is on the disks afterwards.
    pub(super) fn close(mut self) -> Done<()> {
        self.ask("umount-all")?;
        self.ask("shutdown")?;
        Ok(())
    }
}

/// On which disk the appliance has something, and as which partition.
fn place(node: &str) -> Option<(usize, Option<u32>)> {
    let letters = node.strip_prefix("/dev/sd")?;
    let length = letters.bytes().take_while(u8::is_ascii_lowercase).count();
    let (letters, partition) = letters.split_at(length);
    // As in a spreadsheet: z is followed by aa.
    let number = letters.bytes().try_fold(0_usize, |number, letter| {
        number.checked_mul(26)?.checked_add(usize::from(letter - b'a') + 1)
    })?;
    let partition = if partition.is_empty() { None } else { Some(partition.parse().ok()?) };
    Some((number.checked_sub(1)?, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_the_appliance_are_in_order() {
        let table = [
            ("/dev/sda", Some((0, None))),
            ("/dev/sdb12", Some((1, Some(12)))),
            ("/dev/sdz1", Some((25, Some(1)))),
            ("/dev/sdaa1", Some((26, Some(1)))),
            ("/dev/vg/sda", None),
            ("/dev/sd1", None),
        ];
        for (node, at) in table {
            assert_eq!(place(node), at, "{node}");
        }
    }

    #[test]
    fn what_was_there_is_nowhere_taken_for_configuration() {
        assert_eq!(kept("/etc/fstab"), "/etc/fstab.before-failover");
        assert_eq!(kept("/etc/network/interfaces.d/lan"), "/etc/network/interfaces.d/.lan.before-failover");
        assert_eq!(new_of("/etc/fstab"), "/etc/.fstab.new-by-failover");
    }

    #[test]
    fn no_name_is_a_command() {
        assert_eq!(quoted("/a \"b\\"), "\"/a \\\"b\\\\\"");
        assert!(
            is_plain("/etc/Wired 1") && !is_plain("/etc/a\"b") && !is_plain("/etc/a\nb") && !is_plain("etc")
        );
    }
}
