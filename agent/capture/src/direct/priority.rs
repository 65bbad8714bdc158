//! Takes a thread's reads behind everybody else's.

use std::io;

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Gives the calling thread the idle I/O class: the disk serves it when nobody else wants anything. Threads that it
/// starts later inherit the class. Only some I/O schedulers (`bfq`, `mq-deadline`) heed it; with `none` nothing changes.
///
/// # Errors
///
/// What the kernel answers; reading works all the same, so a caller may log it and go on.
#[allow(unsafe_code)] // No crate offers this system call.
pub fn set_idle_io_priority() -> io::Result<()> {
    const THIS_THREAD: libc::c_int = 0;
    // SAFETY: the call takes three integers and touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            THIS_THREAD,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
