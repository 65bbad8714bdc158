//! What the appliance of guestfish runs on in tests: a kernel that `packaging/install-disk-tools.sh` has unpacked, since a machine
//! that tests are run on may have none of its own.
//!
//! Deliberately not here: what is done in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::scratch::try_run;

/// Where it is.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guestfs")
}

/// The variables by which guestfish finds it; none where it was not unpacked.
#[must_use]
pub fn variables() -> Vec<(&'static str, PathBuf)> {
    let Ok(top) = unpacked().canonicalize() else { return Vec::new() };
    let Ok(version) = fs::read_to_string(top.join("version")) else { return Vec::new() };
    let version = version.trim();
    vec![
        ("SUPERMIN_KERNEL", top.join(format!("kernel/boot/vmlinuz-{version}"))),
        ("SUPERMIN_KERNEL_VERSION", version.into()),
        ("SUPERMIN_MODULES", top.join(format!("kernel/lib/modules/{version}"))),
        ("LIBGUESTFS_CACHEDIR", top.join("cache")),
    ]
}

/// Whether guestfish can be used here.
///
/// # Errors
/// What is missing.
pub fn found() -> Result<(), String> {
    let install = "packaging/install-disk-tools.sh";
    for program in ["guestfish", "qemu-system-x86_64", "debugfs", "mke2fs", "sfdisk", "mkswap"] {
        try_run("which", &[program]).map_err(|_| format!("there is no {program} ({install})"))?;
    }
    let has_own = fs::read_dir("/boot").is_ok_and(|boot| {
        boot.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
    });
    match has_own || !variables().is_empty() {
        true => Ok(()),
        false => Err(format!("there is no kernel for guestfish's appliance ({install})")),
    }
}
