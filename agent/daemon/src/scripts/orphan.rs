//! Scripts that outlived the agent that had called them. They are ended before their `post` is called, which would
//! otherwise release what a late `pre` then holds for good.
//!
//! They are known by a variable that no other process has, by leading their group, and by how they were called. So what
//! a script has left running on purpose is not taken for one. Deliberately not here: scripts of an agent that lives.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open},
    time::Timespec,
};

use super::child::GRACE;

/// The variable by which the processes of a point's scripts are known.
pub(super) const TOKEN: &str = "MOBILITY_TOKEN";
/// How much of a process' environment and arguments is looked at.
const MAX_LOOK: u64 = 1 << 20;

/// Ends the scripts that were called under `token`. Says how many there were.
pub(super) fn end(token: &str) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let mut ended = 0;
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| is_orphan(*pid, &process.path(), token)) {
            ended += 1;
            let _ = kill_process_group(pid, Signal::TERM);
            wait(pid, GRACE);
            // Its group lives on while any of it does; after that nobody is told.
            let _ = kill_process_group(pid, Signal::KILL);
            wait(pid, GRACE);
        }
    }
    ended
}

fn is_orphan(pid: Pid, process: &Path, token: &str) -> bool {
    let fields = |name: &str| -> Option<Vec<Vec<u8>>> {
        let mut bytes = Vec::new();
        File::open(process.join(name)).ok()?.take(MAX_LOOK).read_to_end(&mut bytes).ok()?;
        Some(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).filter(|field| !field.is_empty()).collect())
    };
    let wanted = format!("{TOKEN}={token}");
    // The group last: of the kernel's own threads it cannot be asked.
    fields("environ").is_some_and(|fields| fields.iter().any(|field| field == wanted.as_bytes()))
        && fields("cmdline")
            .and_then(|mut fields| fields.pop())
            .is_some_and(|last| [&b"pre"[..], b"post"].contains(&last.as_slice()))
        && getpgid(Some(pid)) == Ok(pid)
}

fn wait(pid: Pid, limit: Duration) {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(ended) => {
            let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit));
        }
        Err(rustix::io::Errno::SRCH) => {}
        // A kernel before 5.3, which cannot tell.
        Err(_) => thread::sleep(limit),
    }
}
