//! What keeps the agent moving while file systems are frozen: memory that stays, and a thread that is not kept waiting.
//!
//! Deliberately not here: the guard's own, stronger measures (`guard/protect.rs`).

use std::{io, marker::PhantomData};

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{getpriority_process, setpriority_process},
};

const MOST_URGENT: i32 = -20;

/// Keeps in memory whatever this process has touched and will touch, so that nothing of it goes to swap or is read
/// again from a disk. Memory that was never touched stays unused, so the process does not grow by this.
///
/// # Errors
///
/// What the kernel answers, mostly because the process may not lock so much. Freezing is still bounded by the guard, so a
/// caller may log it and go on.
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

/// A thread's raised priority. Dropping it, in the same thread, gives the thread the priority it had before.
#[derive(Debug)]
pub struct Priority {
    before: i32,
    // Priorities are a thread's, so this must not go to another one.
    _this_thread: PhantomData<*const ()>,
}

/// Runs the calling thread before others, for the short time of a cut.
///
/// # Errors
///
/// What the kernel answers. A cut works without, so a caller may log it and go on.
pub fn raise_priority() -> io::Result<Priority> {
    // Where Linux says "process" here, it means the thread.
    let before = getpriority_process(None)?;
    setpriority_process(None, MOST_URGENT)?;
    Ok(Priority { before, _this_thread: PhantomData })
}

impl Drop for Priority {
    fn drop(&mut self) {
        // Taking back what was granted is always permitted.
        let _ = setpriority_process(None, self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_raised_priority_ends_with_its_guard() {
        let before = getpriority_process(None).unwrap();
        let Ok(raised) = raise_priority() else { return };
        assert_eq!(getpriority_process(None).unwrap(), MOST_URGENT);
        let elsewhere = std::thread::spawn(|| getpriority_process(None).unwrap()).join().unwrap();
        // A thread inherits it, so nobody starts threads meanwhile; the point is that others keep theirs.
        assert_eq!(elsewhere, MOST_URGENT);
        drop(raised);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
