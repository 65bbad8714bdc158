//! The smallest machine: a boot sector that says that it runs, and keeps its processor.
//!
//! Deliberately not here: an operating system, which `tests/vm` has.

/// Prints `RUNS` at the serial line, then halts again and again.
const BOOT: [u8; 26] = [
    0xbe, 0x16, 0x7c, // mov si, text
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xac, // next: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x03, // jz rest
    0xee, // out dx, al
    0xeb, 0xf8, // jmp next
    0xfb, // rest: sti
    0xf4, // hlt
    0xeb, 0xfd, // jmp back to hlt
    0x90, 0x90, 0x90, 0x90, // up to the text
    b'R', b'U', b'N', b'S',
];

/// Makes a disk one that starts with it.
///
/// # Panics
/// Where the disk is smaller than a sector.
pub fn put(disk: &mut [u8]) {
    let sector = &mut disk[..512];
    sector.fill(0);
    sector[..BOOT.len()].copy_from_slice(&BOOT);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
}
