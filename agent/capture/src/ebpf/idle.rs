//! Whether a device is doing nothing, for certain.
//!
//! The kernel counts a write as being worked on a few instructions after the program at its issue has run
//! (block/blk-mq.c, `blk_mq_start_request`: the tracepoint, then the state), and a processor may be taken away in between.
//! So a count of zero says nothing about a write whose slot in the table is filled, nor about one that no program saw.
//! Both instructions are in one read-side section of RCU, so after every section that was entered before has been left, the
//! count is right. Queues of drivers that may sleep use another kind of section, which cannot be waited for from here; their
//! writes are seen by the table as all others are.
//!
//! Deliberately not here: the table (`flights`).

/// Waits until every processor has left what it was doing in the kernel when this was called, some milliseconds. False
/// where the kernel cannot; then nothing is certain.
#[allow(unsafe_code)] // No crate offers this system call.
pub(super) fn wait_for_issues_at_hand() -> bool {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
}
