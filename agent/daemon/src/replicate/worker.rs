//! Where long work is done, off the main loop: one thread for reading disks, in the order in which the engine asked, so
//! that memory and the disks' load have one bound however many disks there are.
//!
//! Deliberately not here: uploads and commits, which wait for storage and run beside it.

use std::{
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that reads disks.
pub(crate) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start() -> std::io::Result<Worker> {
        let (jobs, queue) = channel::<Job>();
        let thread = thread::Builder::new()
            .name("disks".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))?;
        Ok(Worker { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `job` after those asked for before.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when its queue does, so there is always somebody to take it.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Waits for the job at hand, but not longer than `limit`: a read from a dead disk may never return.
    pub(crate) fn finish(&mut self, limit: Duration) {
        self.jobs = None;
        let start = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
