//! The counters that say whether marks can have been missed, and what the programs cost.
//!
//! The kernel's own come from `fdinfo` of the programs (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo`): `recursion_misses`
//! since 5.12, `run_cnt` and `run_time_ns` where BPF statistics are on (`sysctl kernel.bpf_stats_enabled=1`, or
//! [`enable_statistics`]).

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::error::TrackerError;

/// What a tracker has counted since it was started. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events of issue that both copies of the program can have missed: the kernel counts the runs that it skipped for each
    /// copy, and an event that both missed makes the lower of the two counts grow.
    pub issue_misses: u64,
    /// The same at completion.
    pub completion_misses: u64,
    /// Runs of any of the programs that the kernel skipped, because the program was running on that CPU already.
    pub skipped_runs: u64,
    /// Writes without a range (SG_IO, NVMe passthrough, zone commands). Each is counted by each copy of each program.
    pub unranged: u64,
    /// Events beyond the end that the disk had when the tracker was started: the disk has grown.
    pub out_of_range: u64,
    /// What the programs cost, for all four together; zero where the kernel's BPF statistics are off.
    pub cost: Cost,
}

/// What BPF programs cost, from the kernel's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often one ran, for events of any disk.
    pub runs: u64,
    /// The time spent in them.
    pub time: Duration,
}

impl Cost {
    /// Nanoseconds for each run; `None` where nothing was counted.
    #[must_use]
    pub fn nanoseconds_per_run(self) -> Option<f64> {
        (self.runs > 0).then(|| self.time.as_nanos() as f64 / self.runs as f64)
    }
}

/// Turns the kernel's BPF statistics on for all programs of the machine until the descriptor is closed. They cost some
/// time of their own in each run, so they are for measuring.
///
/// # Errors
/// Needs CAP_SYS_ADMIN and kernel 5.8.
pub fn enable_statistics() -> io::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)
}

/// What the kernel counts for one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProgramCounters {
    pub(super) misses: u64,
    pub(super) cost: Cost,
}

impl ProgramCounters {
    pub(super) fn read(program: BorrowedFd<'_>) -> Result<ProgramCounters, TrackerError> {
        let failed = |source| TrackerError::Counters { what: "missed runs of a program", source };
        let text =
            fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).map_err(failed)?;
        parse(&text).ok_or_else(|| failed(io::Error::other("fdinfo has no recursion_misses")))
    }
}

fn parse(fdinfo: &str) -> Option<ProgramCounters> {
    let field = |name: &str| {
        let value = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse::<u64>().ok()
    };
    let cost = Cost {
        runs: field("run_cnt").unwrap_or(0),
        time: Duration::from_nanos(field("run_time_ns").unwrap_or(0)),
    };
    Some(ProgramCounters { misses: field("recursion_misses")?, cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_is_read_as_the_kernel_writes_it() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_jited:\t1\nmemlock:\t4096\nprog_id:\t7\n\
                    run_time_ns:\t1200\nrun_cnt:\t10\nrecursion_misses:\t3\nverified_insns:\t61\n";
        let counters = parse(text).unwrap();
        assert_eq!(counters.misses, 3);
        assert_eq!(counters.cost.nanoseconds_per_run(), Some(120.0));
        assert_eq!(parse("pos:\t0\n"), None);
    }
}
