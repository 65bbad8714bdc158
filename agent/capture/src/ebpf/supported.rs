//! Whether this machine can run the tracker, found out without loading anything.
//!
//! Deliberately not here: trial loading. The wrong variant of a typed tracepoint can load and read the wrong structure.

use std::{fs, path::Path};

use super::error::Unsupported;

/// Atomic OR in BPF programs (kernel commit 5ffa25502b5a), the signatures of the tracepoints that the programs expect
/// (5.11) and the counter of missed runs (9ed9e9ba2337) are all there from this version on.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Bits of `CapEff`, include/uapi/linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(super) fn supported() -> Result<(), Unsupported> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if !kernel_is_new_enough(&release) {
        return Err(Unsupported::Kernel(release));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Unsupported::Btf);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !may_load(&status) {
        return Err(Unsupported::Capabilities);
    }
    if fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
    {
        return Err(Unsupported::Lockdown);
    }
    if !rustix::fs::statfs("/sys/fs/bpf").is_ok_and(|fs| fs.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC) {
        return Err(Unsupported::Bpffs);
    }
    Ok(())
}

fn kernel_is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_KERNEL)
}

fn may_load(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_number_not_by_text() {
        for new in ["5.12.0", "5.15.0-1089-azure", "6.1.0-31-amd64", "10.0"] {
            assert!(kernel_is_new_enough(new), "{new}");
        }
        for old in ["5.4.0-216-generic", "5.11.22", "4.18.0-553.el8", "", "garbage"] {
            assert!(!kernel_is_new_enough(old), "{old}");
        }
    }

    #[test]
    fn either_root_or_both_narrow_capabilities_are_enough() {
        let status = |capabilities: u64| format!("Name:\tx\nCapEff:\t{capabilities:016x}\n");
        assert!(may_load(&status(1 << 21)));
        assert!(may_load(&status(1 << 38 | 1 << 39)));
        assert!(!may_load(&status(1 << 38)));
        assert!(!may_load(&status(1 << 39)));
        assert!(!may_load(""));
    }
}
