//! What the guard does so that nothing stops it from thawing: not the end of the agent's session, not the agent's signals,
//! not the lack of memory or of processor time, and not a file system that is frozen.
//!
//! Each measure is tried, and what did not succeed is told to the agent: a guard with less protection is still better than
//! none. Against SIGKILL and SIGSTOP from root nothing helps; for a SIGKILL the agent notices, and thaws.

use std::{fs, os::fd::AsRawFd};

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{setpriority_process, setsid},
};

const MOST_URGENT: i32 = -20;

/// Which measures succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Protection {
    /// It has a session of its own, so that what is sent to the agent's process group does not reach it.
    pub session: bool,
    /// All its memory is locked.
    pub memory: bool,
    /// The kernel does not choose it when memory runs out.
    pub out_of_memory: bool,
    /// It runs before all ordinary threads of the machine.
    pub real_time: bool,
}

impl Protection {
    pub(in crate::freeze) fn bits(self) -> u64 {
        let all = [self.session, self.memory, self.out_of_memory, self.real_time];
        all.iter().enumerate().map(|(i, &set)| u64::from(set) << i).sum()
    }

    pub(in crate::freeze) fn from_bits(bits: u64) -> Protection {
        let set = |i: u32| bits >> i & 1 == 1;
        Protection { session: set(0), memory: set(1), out_of_memory: set(2), real_time: set(3) }
    }

    /// What is missing, in words, or nothing.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let measures = [
            (self.session, "a session of its own"),
            (self.memory, "locked memory (CAP_IPC_LOCK)"),
            (self.out_of_memory, "protection when memory runs out (CAP_SYS_RESOURCE)"),
            (self.real_time, "real-time scheduling (CAP_SYS_NICE)"),
        ];
        measures.into_iter().filter(|(set, _)| !set).map(|(_, name)| name).collect()
    }
}

/// Takes all measures on this process, which must not have started threads yet. `keep` is the only descriptor but for
/// the standard ones that stays open.
pub(super) fn protect(keep: &impl AsRawFd) -> Protection {
    ignore_signals();
    close_all_but(keep.as_raw_fd());
    let _ = std::env::set_current_dir("/");
    let real_time = schedule_first();
    if !real_time {
        let _ = setpriority_process(None, MOST_URGENT);
    }
    Protection {
        session: setsid().is_ok(),
        memory: mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).is_ok(),
        out_of_memory: fs::write("/proc/self/oom_score_adj", "-1000").is_ok(),
        real_time,
    }
}

#[allow(unsafe_code)] // The standard library offers no way to ignore a signal.
fn ignore_signals() {
    const IGNORED: [libc::c_int; 11] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    for signal in IGNORED {
        // SAFETY: `SIG_IGN` runs no code of ours, so there is nothing that could be unsafe in a signal's context.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// What the agent was started with and passed on unknowingly: a file on a frozen file system kept open here would keep
/// it from being unmounted.
#[allow(unsafe_code)] // No crate offers this call.
fn close_all_but(keep: libc::c_int) {
    let Ok(keep) = libc::c_uint::try_from(keep) else { return };
    let first = libc::STDERR_FILENO.unsigned_abs() + 1;
    for (from, to) in [(first, keep.saturating_sub(1)), (keep.max(first - 1) + 1, libc::c_uint::MAX)] {
        if from <= to {
            // SAFETY: this process has just started and runs one thread, whose only descriptor above the standard ones
            // is `keep`, which is not in the range; so nothing that somebody owns is closed. Kernels before 5.9 refuse.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
}

#[allow(unsafe_code)] // No crate offers this call.
fn schedule_first() -> bool {
    const THIS_THREAD: libc::pid_t = 0;
    // SAFETY: `sched_param` is a plain struct of integers, for which zeros are valid.
    let mut lowest: libc::sched_param = unsafe { std::mem::zeroed() };
    lowest.sched_priority = 1;
    // SAFETY: the pointer is to a valid value that outlives the call, which only reads it.
    unsafe { libc::sched_setscheduler(THIS_THREAD, libc::SCHED_RR, &lowest) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_survives_its_bits_and_names_what_lacks() {
        for bits in 0..16 {
            assert_eq!(Protection::from_bits(bits).bits(), bits);
            assert_eq!(Protection::from_bits(bits).lacks().len() as u32, 4 - bits.count_ones());
        }
    }
}
