//! The agent's side of a freeze: what is to be frozen is opened before, the guard does it, and every way out of here thaws.
//!
//! Between the first freeze and the last thaw this neither allocates nor logs nor resolves a name nor touches a file; it
//! says records of a fixed size to the guard and waits, never longer than it must. Deliberately not here: what to freeze
//! (`file_systems`), and what is done meanwhile.

use std::{
    fmt, fs,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;

pub use super::guard_link::GuardProgram;
use super::{
    MAX_FILE_SYSTEMS,
    error::FreezeError,
    file_systems::FileSystem,
    guard::Protection,
    guard_link::{GuardLink, NoAnswer},
    ioctl, leftovers,
    wire::{Kind, MAX_DESCRIPTORS, Record},
};

/// How long the guard may take to hold the file systems. Nothing is frozen then.
const ARM_PATIENCE: Duration = Duration::from_secs(2);
/// How long the guard may take to answer beyond the limit, at which it thaws by itself, before it counts as stopped. The
/// agent thaws then.
const ANSWER_PATIENCE: Duration = Duration::from_millis(50);
/// How long the guard may take to thaw before the agent does it, too.
const THAW_PATIENCE: Duration = Duration::from_millis(150);

/// Where a freeze is. For tests that stop the process in the middle of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The guard holds the file systems; nothing is frozen.
    Armed,
    /// The guard was told to freeze this one.
    Asked(usize),
    /// This one is frozen.
    Frozen(usize),
    /// The guard was told to thaw.
    ThawAsked,
    /// Nothing is frozen any more.
    Thawed,
}

/// What went wrong, before it is put into words, which takes memory that is asked for after thawing only.
#[derive(Clone, Copy)]
enum Failure {
    NoAnswer(NoAnswer, &'static str),
    /// The file system with this index, and what the system said.
    Refused(usize, Errno),
}

struct Opened {
    file_system: FileSystem,
    directory: OwnedFd,
    /// The guard was told to freeze it.
    asked: bool,
}

/// Freezes file systems, by a guard process of its own.
pub struct Freezer {
    program: GuardProgram,
    guard: Option<GuardLink>,
    record: PathBuf,
    held: Vec<Opened>,
    cycle: u64,
    observer: Option<Box<dyn FnMut(Step) + Send>>,
}

impl fmt::Debug for Freezer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Freezer").field("guard", &self.guard).field("record", &self.record).finish()
    }
}

/// How long writes were held back, and whether they were all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// From the first freeze to the last thaw.
    pub time: Duration,
    /// The limit passed and the guard thawed, or it cannot be shown that it did not.
    pub overrun: bool,
    /// Somebody else thawed what we had frozen.
    pub thawed_by_others: bool,
    /// A disk is slow, and not all was thawed yet when this was said. The guard goes on with it.
    pub still_thawing: bool,
}

impl Held {
    /// Whether everything was frozen until we thawed it. If not, whatever was done meanwhile was not under a freeze.
    #[must_use]
    pub fn intact(&self) -> bool {
        !self.overrun && !self.thawed_by_others
    }
}

/// File systems that are frozen, until this is thawed or dropped, or the guard thaws them.
#[derive(Debug)]
#[must_use = "they are thawed when this is dropped"]
pub struct Frozen<'a> {
    freezer: &'a mut Freezer,
    since: Instant,
    thawed: bool,
}

impl Freezer {
    /// Starts a guard. `record` is the file, best in the runtime directory, that says what is frozen while something is;
    /// see [`thaw_leftovers`](super::thaw_leftovers), which is to be called before.
    ///
    /// # Errors
    ///
    /// [`FreezeError::GuardStart`], [`FreezeError::GuardGone`] or [`FreezeError::GuardSlow`].
    pub fn new(program: GuardProgram, record: &Path) -> Result<Freezer, FreezeError> {
        let guard = Some(GuardLink::start(&program)?);
        let record = record.to_owned();
        Ok(Freezer { program, guard, record, held: Vec::new(), cycle: 0, observer: None })
    }

    /// How well the guard is protected; nothing where there is no guard at present.
    #[must_use]
    pub fn protection(&self) -> Option<Protection> {
        self.guard.as_ref().map(|guard| guard.protection)
    }

    /// The guard's process, where there is one.
    #[must_use]
    pub fn guard_pid(&self) -> Option<u32> {
        self.guard.as_ref().map(GuardLink::pid)
    }

    /// Opens the file systems that are to be frozen, in this order. They cannot be unmounted from now on until
    /// [`Freezer::release`]. Replaces those that were held.
    ///
    /// # Errors
    ///
    /// [`FreezeError::TooMany`], or [`FreezeError::Hidden`] if one cannot be opened; then none is held.
    pub fn hold(&mut self, file_systems: &[FileSystem]) -> Result<(), FreezeError> {
        self.release();
        if file_systems.len() > MAX_FILE_SYSTEMS {
            return Err(FreezeError::TooMany { count: file_systems.len() });
        }
        let open = |file_system: &FileSystem| {
            let directory =
                file_system.open().ok_or_else(|| FreezeError::Hidden { point: file_system.point.clone() })?;
            Ok(Opened { file_system: file_system.clone(), directory, asked: false })
        };
        self.held = file_systems.iter().map(open).collect::<Result<_, FreezeError>>()?;
        Ok(())
    }

    /// Lets go of the file systems, so that they can be unmounted.
    pub fn release(&mut self) {
        self.held.clear();
    }

    /// Has everything that is in memory written to the disks, so that freezing has little left to write. Takes as long as
    /// that takes; to be called shortly before [`Freezer::freeze`].
    ///
    /// # Errors
    ///
    /// What the first file system that failed said.
    pub fn sync(&self) -> Result<(), FreezeError> {
        for Opened { file_system, directory, .. } in &self.held {
            rustix::fs::syncfs(directory).map_err(|errno| FreezeError::Io {
                point: file_system.point.clone(),
                doing: "write out",
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    /// Calls `observer` at each step of a freeze. It must not block, and not touch what is frozen.
    pub fn observe(&mut self, observer: impl FnMut(Step) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    fn step(&mut self, step: Step) {
        if let Some(observer) = &mut self.observer {
            observer(step);
        }
    }

    /// Freezes what is held, in its order. From the first freeze on, nothing is held back for longer than `limit`,
    /// whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// Why not all is frozen. Nothing is, then; and whoever had frozen something before us still has it frozen. After
    /// [`FreezeError::GuardGone`] and [`FreezeError::GuardSlow`] the next call starts another guard.
    pub fn freeze(&mut self, limit: Duration) -> Result<Frozen<'_>, FreezeError> {
        if self.held.is_empty() {
            return Err(FreezeError::Nothing);
        }
        self.ensure_guard()?;
        let record = self.write_record()?;
        self.cycle += 1;
        self.held.iter_mut().for_each(|held| held.asked = false);
        let armed = self.arm(limit, &record);
        let since = Instant::now();
        if let Err(failure) = armed.and_then(|()| self.freeze_all(limit)) {
            self.thaw(since);
            return Err(self.explain(failure, limit));
        }
        Ok(Frozen { freezer: self, since, thawed: false })
    }

    fn ensure_guard(&mut self) -> Result<(), FreezeError> {
        // One that died since was not noticed yet.
        let gone = self.guard.as_ref().is_some_and(GuardLink::is_gone);
        if self.guard.is_none() || gone {
            self.guard = None;
            self.guard = Some(GuardLink::start(&self.program)?);
        }
        Ok(())
    }

    fn write_record(&self) -> Result<File, FreezeError> {
        // One that is there still is of a freeze whose end was not seen.
        let _ = leftovers::thaw_leftovers(&self.record);
        let entries = self.held.iter().map(|held| (held.file_system.superblock, &*held.file_system.point));
        leftovers::write(&self.record, entries)
            .map_err(|source| FreezeError::Record { path: self.record.clone(), source })
    }

    fn arm(&mut self, limit: Duration, record: &File) -> Result<(), Failure> {
        const DURING: &str = "holding the file systems";
        let mut descriptors = [record.as_fd(); MAX_DESCRIPTORS];
        let count = self.held.len() + 1;
        for (slot, held) in descriptors[1..].iter_mut().zip(&self.held) {
            *slot = held.directory.as_fd();
        }
        let number = limit.as_nanos().try_into().unwrap_or(u64::MAX);
        let question = Record { number, ..Record::new(Kind::Arm, self.cycle) };
        let until = Instant::now() + ARM_PATIENCE;
        let answer = self.ask(question, &descriptors[..count], Kind::Armed, until);
        let answer = answer.map_err(|no| Failure::NoAnswer(no, DURING))?;
        if answer.errno != 0 {
            return Err(Failure::NoAnswer(NoAnswer::Slow, DURING));
        }
        self.step(Step::Armed);
        Ok(())
    }

    fn freeze_all(&mut self, limit: Duration) -> Result<(), Failure> {
        let until = Instant::now() + limit + ANSWER_PATIENCE;
        let no_answer = |no| Failure::NoAnswer(no, "freezing");
        for index in 0..self.held.len() {
            self.held[index].asked = true;
            let question = Record { index: index as u32, ..Record::new(Kind::Freeze, self.cycle) };
            self.say(&question, &[]).map_err(no_answer)?;
            self.step(Step::Asked(index));
            let answer = self.wait(Kind::Frozen, index, until).map_err(no_answer)?;
            if answer.errno != 0 {
                return Err(Failure::Refused(index, Errno::from_raw_os_error(answer.errno)));
            }
            self.step(Step::Frozen(index));
        }
        Ok(())
    }

    fn explain(&self, failure: Failure, limit: Duration) -> FreezeError {
        match failure {
            Failure::NoAnswer(no, during) => no.during(during),
            Failure::Refused(index, errno) => {
                let point = self.held.get(index).map(|held| held.file_system.point.clone());
                FreezeError::from_freeze(point.unwrap_or_default(), errno, limit)
            }
        }
    }

    fn ask(
        &self,
        question: Record,
        descriptors: &[BorrowedFd<'_>],
        answer: Kind,
        until: Instant,
    ) -> Result<Record, NoAnswer> {
        self.say(&question, descriptors)?;
        self.wait(answer, 0, until)
    }

    fn say(&self, record: &Record, descriptors: &[BorrowedFd<'_>]) -> Result<(), NoAnswer> {
        self.guard.as_ref().ok_or(NoAnswer::Gone)?.say(record, descriptors)
    }

    fn wait(&self, kind: Kind, index: usize, until: Instant) -> Result<Record, NoAnswer> {
        self.guard.as_ref().ok_or(NoAnswer::Gone)?.wait(kind, self.cycle, index as u32, until)
    }

    /// Thaws all, by the guard, or without it if it does not answer. Never fails: there is nothing else to try.
    fn thaw(&mut self, since: Instant) -> Held {
        let question = Record::new(Kind::Disarm, self.cycle);
        let said = self.say(&question, &[]);
        self.step(Step::ThawAsked);
        let until = Instant::now() + THAW_PATIENCE;
        let answer = said.and_then(|()| self.wait(Kind::Disarmed, 0, until));
        let (held, all_thawed) = match answer {
            Ok(answer) => {
                let errno = (answer.errno != 0).then(|| Errno::from_raw_os_error(answer.errno));
                let (overrun, still_thawing) =
                    (errno == Some(Errno::TIMEDOUT), errno == Some(Errno::INPROGRESS));
                // Whatever else thawing said, the freeze was not ours to the end.
                let thawed_by_others = errno.is_some() && !overrun && !still_thawing;
                let time = if still_thawing { since.elapsed() } else { answer.time() };
                (Held { time, overrun, thawed_by_others, still_thawing }, !still_thawing)
            }
            Err(_) => {
                let certain = self.thaw_without_guard();
                let time = since.elapsed();
                (Held { time, overrun: true, thawed_by_others: false, still_thawing: !certain }, certain)
            }
        };
        self.step(Step::Thawed);
        if all_thawed {
            let _ = fs::remove_file(&self.record);
        }
        held
    }

    /// For a guard that is dead or stopped. It may have frozen whatever it was told to freeze; whether it is certain that
    /// nothing of it is frozen any more.
    fn thaw_without_guard(&mut self) -> bool {
        // At once, for the writers; and again when the guard cannot freeze anything any more.
        self.thaw_asked();
        let Some(guard) = self.guard.take() else { return true };
        let ended = guard.kill();
        self.thaw_asked();
        ended
    }

    fn thaw_asked(&self) {
        for held in self.held.iter().rev().filter(|held| held.asked) {
            // "Not frozen" is as good.
            let _ = ioctl::thaw(held.directory.as_fd());
        }
    }
}

impl Frozen<'_> {
    /// Thaws, and says how it went.
    pub fn thaw(mut self) -> Held {
        self.thawed = true;
        self.freezer.thaw(self.since)
    }

    /// For how long the first file system has been frozen.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            self.freezer.thaw(self.since);
        }
    }
}
