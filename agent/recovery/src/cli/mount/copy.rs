//! One file or directory out of what is mounted.
//!
//! A symbolic link on a machine's disk means a place on that disk, never one of this host: the path is resolved within the file
//! system that it begins in. Deliberately not here: finding out on which disk a machine's `/home` was.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use mobility_format::ByteCount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::layout::{Layout, run};
use crate::cli::exit::NotFound;

/// Copies what is at `from`, a path below `DIR/files`, to `to`, where there must be nothing. What it was, for people.
pub(super) fn copy(layout: &Layout, from: &Path, to: &Path) -> Result<String> {
    if to.symlink_metadata().is_ok() {
        bail!("{} exists: name another place", to.display());
    }
    let plain = from.components().all(|part| matches!(part, Component::Normal(_)));
    let mut parts = from.components();
    let root: PathBuf = parts.by_ref().take(2).collect();
    let inside = parts.as_path();
    if !plain || inside.as_os_str().is_empty() {
        return Err(NotFound(format!(
            "'{}' is no path below {}: write it as disk/partition/path",
            from.display(),
            layout.files().display()
        ))
        .into());
    }
    let root = openat(CWD, layout.files().join(root), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|err| NotFound(format!("there is no such partition as in '{}': {err}", from.display())))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = openat2(&root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut found: File =
        opened.map_err(|err| NotFound(format!("'{}' cannot be opened: {err}", from.display())))?.into();
    let metadata = found.metadata()?;
    if metadata.is_dir() {
        fs::create_dir(to).with_context(|| format!("make {}", to.display()))?;
        let here = format!("/proc/{}/fd/{}/.", std::process::id(), found.as_raw_fd());
        run(
            "cp",
            &["-a".as_ref(), "--one-file-system".as_ref(), "--".as_ref(), here.as_ref(), to.as_os_str()],
        )?;
        return Ok("a directory".to_owned());
    }
    if !metadata.is_file() {
        bail!("'{}' is neither a file nor a directory", from.display());
    }
    // No rights to run as somebody else come with it.
    let mode = metadata.permissions().mode() & 0o777;
    let mut made = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    let bytes = io::copy(&mut found, &mut made).with_context(|| format!("copy '{}'", from.display()))?;
    made.sync_all()?;
    Ok(ByteCount(bytes).to_string())
}
