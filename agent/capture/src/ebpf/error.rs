//! What can go wrong with the tracker, said so that the operator knows what to do.

use std::{io, path::PathBuf};

use mobility_format::ByteCount;

/// Why a disk cannot be tracked, or why a tracker could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// This machine cannot run the tracker at all.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The disk is empty, or larger than 1 PiB.
    #[error(
        "a disk of {0} cannot be tracked: the tracker takes disks from 1 byte to 1 PiB; protect it by scan"
    )]
    Size(ByteCount),
    /// The kernel refused the programs.
    #[error(
        "the kernel refused the tracker's programs: {0}; see the kernel's log, report it with `uname -r`, and protect \
         the disk by scan meanwhile"
    )]
    Load(String),
    /// The pins could not be made, read or removed.
    #[error("could not {what} '{path}': {source}; is a bpffs mounted there, and is this process root?")]
    Pins {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A counter of the tracker could not be read. Without it nobody can tell whether a mark was missed.
    #[error(
        "could not read the tracker's counters ({what}): {source}; the disk counts as unverified until this works"
    )]
    Counters {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl TrackerError {
    /// Passed to `map_err`, with what was tried and where.
    pub(super) fn pins<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| TrackerError::Pins { what, path, source: source.into() }
    }
}

/// What this machine lacks to run the tracker. The hash scan needs none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Older than 5.12: atomic OR in BPF programs, and counters of missed runs.
    #[error("kernel {0} is too old: the tracker needs 5.12 or newer; disks are protected by scan")]
    Kernel(String),
    /// The kernel does not describe its own types.
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux): it was built without CONFIG_DEBUG_INFO_BTF; disks are protected by scan"
    )]
    Btf,
    /// No BPF file system.
    #[error("no BPF file system at /sys/fs/bpf: run `mount -t bpf bpf /sys/fs/bpf`")]
    Bpffs,
    /// This process may not load BPF programs.
    #[error("this process may not load BPF programs: run it as root, or give it CAP_BPF and CAP_PERFMON")]
    Capabilities,
    /// Kernel lockdown forbids programs that read the kernel's memory.
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids tracking; disks are protected by scan. Boot without \
         `lockdown=confidentiality` to have them tracked; `lockdown=integrity` allows it"
    )]
    Lockdown,
}
