//! The system calls that freeze, thaw, and tell where a file lies.
//!
//! Deliberately not here: when to call which.

use std::os::fd::BorrowedFd;

use rustix::{
    io,
    ioctl::{NoArg, Opcode, Updater, opcode},
};

// The kernel's headers give these an argument that it does not look at.
const FIFREEZE: Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<libc::c_int>(b'X', 120);
const FS_IOC_FIEMAP: Opcode = opcode::read_write::<FiemapHeader>(b'f', 11);

/// Writes out what a file system has in memory and holds all writes to it back, until [`thaw`], whatever becomes of this
/// process. May wait as long as the disk takes. `EBUSY`: it is frozen already.
#[allow(unsafe_code)] // No crate offers this call.
pub(super) fn freeze(file_system: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel takes no argument for this request and touches no memory of this process.
    unsafe { rustix::ioctl::ioctl(file_system, NoArg::<FIFREEZE>::new()) }
}

/// Lets writes go on. `EINVAL`: it is not frozen.
#[allow(unsafe_code)] // No crate offers this call.
pub(super) fn thaw(file_system: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel takes no argument for this request and touches no memory of this process.
    unsafe { rustix::ioctl::ioctl(file_system, NoArg::<FITHAW>::new()) }
}

/// `struct fiemap` without the extents that follow it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`: a part of a file and where it lies on the file system's device, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) length: u64,
    reserved: [u64; 2],
    pub(super) flags: u32,
    reserved_too: [u32; 3],
}

const EXTENTS_PER_CALL: usize = 128;

#[repr(C)]
struct Fiemap {
    header: FiemapHeader,
    extents: [Extent; EXTENTS_PER_CALL],
}

/// The extents of a file from the byte `start` on, as many as fit into one call.
#[allow(unsafe_code)] // No crate offers this call.
pub(super) fn extents(file: BorrowedFd<'_>, start: u64) -> io::Result<Vec<Extent>> {
    let header = FiemapHeader {
        start,
        length: u64::MAX - start,
        extent_count: EXTENTS_PER_CALL as u32,
        ..FiemapHeader::default()
    };
    let mut map = Fiemap { header, extents: [Extent::default(); EXTENTS_PER_CALL] };
    // SAFETY: `Fiemap` has the layout of the kernel's `struct fiemap` with `extent_count` extents behind it, so the
    // kernel reads and writes inside of `map`, which lives until the call is over; any bytes are a valid `Fiemap`.
    unsafe { rustix::ioctl::ioctl(file, Updater::<'_, FS_IOC_FIEMAP, Fiemap>::new(&mut map))? };
    let mapped = (map.header.mapped_extents as usize).min(EXTENTS_PER_CALL);
    Ok(map.extents[..mapped].to_vec())
}
