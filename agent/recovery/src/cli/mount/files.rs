//! File systems of a disk, mounted read-only: `partx` finds the partitions, `blkid` says what is on them.
//!
//! Each partition is a loop device of its own, so that it makes no difference which tables of partitions the kernel knows.
//! What was written there may have been written by somebody who means harm: nothing on it is run, and no device on it is
//! one. But the kernel reads it, and kernels have been attacked that way. Deliberately not here: anything that reads a file
//! system itself, and volume managers, which are only named.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    layout::{Layout, output, run},
    programs::Helper,
};

/// Partitions of a disk that are looked at.
const PARTITIONS: usize = 64;
/// What `partx` counts in.
const SECTOR: u64 = 512;
const ALWAYS: &str = "ro,nodev,nosuid,noexec";

/// A partition, and what became of it.
pub(super) struct Mounted {
    name: String,
    outcome: Outcome,
}

enum Outcome {
    At(PathBuf, String),
    Left(String),
}

impl Mounted {
    /// For people.
    pub(super) fn words(&self) -> String {
        match &self.outcome {
            Outcome::At(path, kind) => format!("{} ({kind})", path.display()),
            Outcome::Left(why) => format!("{} is not mounted: {why}", self.name),
        }
    }
}

/// Mounts what can be mounted of a disk.
pub(super) fn mount(layout: &Layout, helper: &Helper, replay: bool) -> Result<Vec<Mounted>> {
    let mut mounted = Vec::new();
    for Partition { number, start, length } in partitions(&helper.image) {
        let (offset, limit) = (format!("--offset={start}"), format!("--sizelimit={length}"));
        let mut arguments = vec!["--find", "--show", &offset, &limit];
        if !replay {
            arguments.push("--read-only");
        }
        let arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
        let node = PathBuf::from(output("losetup", &[&arguments[..], &[helper.image.as_os_str()]].concat())?);
        let name = format!("{}/{number}", helper.name);
        let outcome = match kind(&node) {
            Ok(kind) => mount_one(layout, &name, &node, &kind, replay)?,
            Err(why) => Outcome::Left(why.to_string()),
        };
        mounted.push(Mounted { name, outcome });
    }
    Ok(mounted)
}

/// Where something lies on a disk, in bytes.
struct Partition {
    /// Its number; `disk` for all of a disk without partitions.
    number: String,
    start: u64,
    /// Nothing is the whole rest.
    length: u64,
}

fn partitions(image: &Path) -> Vec<Partition> {
    let arguments = ["--show", "--noheadings", "--output", "NR,START,SECTORS"].map(OsStr::new);
    // What has no table of partitions is refused as well.
    let table = output("partx", &[&arguments[..], &[image.as_os_str()]].concat()).unwrap_or_default();
    let partition = |line: &str| {
        let mut fields = line.split_whitespace();
        let number = fields.next()?.to_owned();
        let mut bytes = || fields.next()?.parse::<u64>().ok()?.checked_mul(SECTOR);
        Some(Partition { number, start: bytes()?, length: bytes()? })
    };
    let mut found: Vec<_> = table.lines().filter_map(partition).take(PARTITIONS).collect();
    if found.is_empty() {
        found.push(Partition { number: "disk".to_owned(), start: 0, length: 0 });
    }
    found
}

fn kind(node: &Path) -> Result<String> {
    let arguments = ["--probe", "--match-tag", "TYPE", "--output", "value"].map(OsStr::new);
    let kind = output("blkid", &[&arguments[..], &[node.as_os_str()]].concat());
    match kind {
        Ok(kind) if !kind.is_empty() => Ok(kind),
        _ => bail!("nothing known is on it"),
    }
}

fn mount_one(layout: &Layout, name: &str, node: &Path, kind: &str, replay: bool) -> Result<Outcome> {
    let more = match (kind, replay) {
        ("ext2" | "vfat", _) | ("ext3" | "ext4" | "btrfs", true) => "",
        ("ext3" | "ext4", false) => ",noload",
        // The machine itself, or another of its points, may be mounted here as well.
        ("xfs", true) => ",nouuid",
        ("xfs", false) => ",nouuid,norecovery",
        ("btrfs", false) => ",rescue=nologreplay",
        ("LVM2_member", _) => return Ok(Outcome::Left(needs("a volume of LVM", "vgchange -ay"))),
        ("linux_raid_member", _) => {
            return Ok(Outcome::Left(needs("a part of a RAID", "mdadm --assemble --readonly")));
        }
        ("crypto_LUKS", _) => return Ok(Outcome::Left(needs("encrypted", "cryptsetup open --readonly"))),
        ("swap", _) => return Ok(Outcome::Left("it is swap".to_owned())),
        (other, _) => return Ok(Outcome::Left(format!("{other} is not supported"))),
    };
    let path = layout.files().join(name);
    fs::create_dir_all(&path)?;
    let options = format!("{ALWAYS}{more}");
    let arguments: [&OsStr; 6] =
        ["-t".as_ref(), kind.as_ref(), "-o".as_ref(), options.as_ref(), node.as_os_str(), path.as_os_str()];
    Ok(match run("mount", &arguments) {
        Ok(()) => Outcome::At(path, kind.to_owned()),
        Err(err) if replay => Outcome::Left(format!("{err:#}")),
        Err(err) => Outcome::Left(format!("{err:#}; perhaps its journal has to be replayed: --replay")),
    })
}

fn needs(what: &str, how: &str) -> String {
    format!("it is {what}: restore the disk, or attach it to a machine of its own, and use `{how}` there")
}
