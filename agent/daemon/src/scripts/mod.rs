//! The operator's scripts, which make applications ready for a point (`pre`) and let them go on (`post`).
//!
//! ```text
//! pre 10-a, pre 20-b      frozen cut      post 20-b, post 10-a
//! ```
//!
//! What holds whatever happens: for each `pre` that was started there is a `post`, also when it failed or ran out of time,
//! when the cut failed, when the caller forgot ([`Quiesced`] sees to it when dropped), and when the agent was killed in
//! between ([`Scripts::recover`]). `docs/APPLICATIONS.md` is the same for those who write them.
//!
//! All of this blocks, for as long as the scripts take: it is called from a thread that may. Deliberately not here: the cut,
//! and what becomes of a point whose scripts failed.

mod child;
mod find;
mod orphan;
mod output;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mobility_format::{Epoch, Generation, MachineId};

use crate::{identity, request::RequestId};
use child::Call;
use find::Script;
use record::{Left, Note};

/// All the commands that a script may expect to find.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What went wrong with a script.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    /// The directory cannot be read.
    #[error("the scripts in {} cannot be listed: {source}", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    /// There are more than make sense.
    #[error("{} holds more than {most} files; move away what does not belong there", dir.display())]
    TooMany { dir: PathBuf, most: usize },
    /// Somebody else could change what would run.
    #[error("no script is run: {} {reason}", path.display())]
    Unsafe { path: PathBuf, reason: String },
    /// It could not be noted that applications are held.
    #[error(
        "no script is run, because {} cannot be written, without which a killed agent would leave applications held: {source}",
        path.display()
    )]
    Record { path: PathBuf, source: io::Error },
    /// It did not start.
    #[error("script {} cannot be run: {source}", script.display())]
    Start { script: OsString, source: io::Error },
    /// It said that it failed.
    #[error("script {} ended {how}; what it said is in the log", script.display())]
    Failed { script: OsString, how: String },
    /// It took too long, and was ended.
    #[error("script {} did not end within {} s and was stopped", script.display(), limit.as_secs())]
    TimedOut { script: OsString, limit: Duration },
    /// The agent was told to end.
    #[error("script {} was stopped because the agent ends", script.display())]
    Cancelled { script: OsString },
    /// The kernel does not let it end.
    #[error(
        "script {} was killed and does not end; it probably waits for storage that does not answer",
        script.display()
    )]
    Unkillable { script: OsString },
    /// The script whose `post` is owed is not there any more.
    #[error(
        "script {script} had held its application and is not there any more; see to it by hand that it goes on"
    )]
    Gone { script: String },
}

/// Scripts failed: all that went wrong, the cause first.
#[derive(Debug)]
pub(crate) struct ScriptsFailed(pub(crate) Vec<ScriptError>);

impl fmt::Display for ScriptsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ScriptsFailed {}

impl From<ScriptError> for ScriptsFailed {
    fn from(error: ScriptError) -> ScriptsFailed {
        ScriptsFailed(vec![error])
    }
}

/// Why a point is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is time.
    Schedule,
    /// Somebody asked for it.
    Request(RequestId),
}

/// What scripts are told about the point that is about to be made.
#[derive(Clone, Debug)]
pub(crate) struct PointInfo {
    pub(crate) machine: MachineId,
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) reason: Reason,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The cut was made while the applications were ready.
    ApplicationConsistent,
    /// It was not.
    Failed,
}

/// The scripts of a directory. Copies are the same scripts.
#[derive(Clone, Debug)]
pub(crate) struct Scripts {
    dir: PathBuf,
    timeout: Duration,
    record: PathBuf,
    cancel: Arc<AtomicBool>,
    mentioned: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Scripts {
    /// Scripts of `dir`, each call of which may take `timeout`. What is held is noted in `record`, which no other agent may
    /// use. While `cancel` is set no `pre` is started, and one that runs is stopped.
    pub(crate) fn new(dir: PathBuf, timeout: Duration, record: PathBuf, cancel: Arc<AtomicBool>) -> Scripts {
        Scripts { dir, timeout, record, cancel, mentioned: Arc::default() }
    }

    /// Makes all applications ready for a point. Where that fails they have been let go again.
    pub(crate) fn pre(&self, point: &PointInfo) -> Result<Quiesced, ScriptsFailed> {
        // Something may be left of an earlier point whose end could not be noted.
        self.recover()?;
        let token = Token::draw().map_err(|source| self.not_noted(source))?;
        let mut quiesced = Quiesced {
            scripts: self.clone(),
            environment: environment(point),
            token,
            started: Vec::new(),
            over: false,
        };
        for script in self.find()? {
            if let Err(error) = quiesced.start(script) {
                let mut errors = vec![error];
                errors.extend(quiesced.post(Outcome::Failed).err().into_iter().flat_map(|failed| failed.0));
                return Err(ScriptsFailed(errors));
            }
        }
        Ok(quiesced)
    }

    /// Lets go what an earlier agent, which was killed, left held. To be called before anything else; says whether there
    /// was anything.
    pub(crate) fn recover(&self) -> Result<bool, ScriptsFailed> {
        let note = match record::read(&self.record) {
            Left::Nothing => return Ok(false),
            Left::Held(note) => Some(note),
            Left::Damaged(why) => {
                let record = self.record.display();
                tracing::warn!("{record} is damaged ({why}); `post` of all scripts is called");
                None
            }
        };
        let left = note.as_ref().map_or(0, |note| orphan::end(&note.token));
        tracing::warn!(
            "an earlier agent ended while applications were held ({left} scripts ran on); they are let go"
        );
        let mut started = self.find()?;
        let mut gone = Vec::new();
        if let Some(note) = &note {
            let is_there = |name: &&String| started.iter().any(|script| script.name == name.as_str());
            gone.extend(note.started.iter().filter(|name| !is_there(name)).cloned());
            started.retain(|script| note.started.iter().any(|name| script.name == name.as_str()));
        }
        let mut environment = note.as_ref().map(Note::environment).unwrap_or_default();
        let rebooted = note.as_ref().is_none_or(|note| note.boot != record::boot());
        environment.push(("MOBILITY_REBOOTED".to_owned(), if rebooted { "yes" } else { "no" }.into()));
        let token = Token(note.map(|note| note.token).unwrap_or_default());
        let quiesced = Quiesced { scripts: self.clone(), environment, token, started, over: false };
        let mut errors: Vec<ScriptError> =
            gone.into_iter().map(|script| ScriptError::Gone { script }).collect();
        errors.extend(quiesced.post(Outcome::Failed).err().into_iter().flat_map(|failed| failed.0));
        if errors.is_empty() { Ok(true) } else { Err(ScriptsFailed(errors)) }
    }

    fn find(&self) -> Result<Vec<Script>, ScriptError> {
        let found = find::find(&self.dir)?;
        let mut mentioned = self.mentioned.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<_> = found.ignored.iter().filter(|(path, _)| !mentioned.contains(path)).collect();
        new.iter().for_each(|(path, why)| tracing::info!("{} is not run: {why}", path.display()));
        // What is gone is forgotten, so that this stays as small as the directory.
        *mentioned = found.ignored.into_iter().map(|(path, _)| path).collect();
        Ok(found.scripts)
    }

    fn call(
        &self,
        script: &Script,
        phase: &'static str,
        environment: &[(String, OsString)],
    ) -> Result<(), ScriptError> {
        let cancelled = || phase == "pre" && self.cancel.load(Ordering::Relaxed);
        let call = Call { phase, environment, limit: self.timeout };
        let (said, outcome) = child::run(script, call, &cancelled);
        said.iter().for_each(|line| tracing::info!("{} {phase}: {line}", script.name.display()));
        outcome
    }

    fn not_noted(&self, source: io::Error) -> ScriptError {
        ScriptError::Record { path: self.record.clone(), source }
    }
}

/// What the processes of one point's scripts are known by.
#[derive(Clone, Debug)]
struct Token(String);

impl Token {
    fn draw() -> io::Result<Token> {
        let bytes = identity::random::<16>().map_err(io::Error::other)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

/// Applications are ready for a point, until [`Quiesced::post`] or until this is dropped.
#[derive(Debug)]
#[must_use = "applications are held as long as this lives"]
pub(crate) struct Quiesced {
    scripts: Scripts,
    environment: Vec<(String, OsString)>,
    token: Token,
    started: Vec<Script>,
    over: bool,
}

impl Quiesced {
    /// Whether there is no script at all: a point made now is consistent for file systems, and nobody can say more.
    pub(crate) fn is_empty(&self) -> bool {
        self.started.is_empty()
    }

    /// Lets applications go on. To be called as soon as the cut was made and everything is thawed. Each `post` is
    /// called whatever became of the others.
    ///
    /// An error means more than that something was left behind: a script whose hold was lost before the cut can only say
    /// so now. The point must then not be called application-consistent.
    pub(crate) fn post(mut self, outcome: Outcome) -> Result<(), ScriptsFailed> {
        self.end(outcome)
    }

    fn start(&mut self, script: Script) -> Result<(), ScriptError> {
        if self.scripts.cancel.load(Ordering::Relaxed) {
            return Err(ScriptError::Cancelled { script: script.name });
        }
        let text = |value: &OsString| value.to_string_lossy().into_owned();
        self.started.push(script);
        let note = Note {
            boot: record::boot(),
            token: self.token.0.clone(),
            environment: self.environment.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            started: self.started.iter().map(|script| text(&script.name)).collect(),
        };
        let noted = record::write(&self.scripts.record, &note);
        let Some(script) = self.started.last() else { return Ok(()) };
        if let Err(source) = noted {
            self.started.pop();
            return Err(self.scripts.not_noted(source));
        }
        self.scripts.call(script, "pre", &self.full_environment("pre", None))
    }

    fn end(&mut self, outcome: Outcome) -> Result<(), ScriptsFailed> {
        self.over = true;
        let environment = self.full_environment("post", Some(outcome));
        let mut errors = Vec::new();
        for script in self.started.iter().rev() {
            errors.extend(self.scripts.call(script, "post", &environment).err());
        }
        // Also without a script: a record may have been left by an earlier agent.
        if let Err(source) = record::remove(&self.scripts.record) {
            errors.push(self.scripts.not_noted(source));
        }
        if errors.is_empty() { Ok(()) } else { Err(ScriptsFailed(errors)) }
    }

    fn full_environment(&self, phase: &str, outcome: Option<Outcome>) -> Vec<(String, OsString)> {
        let mut all = self.environment.clone();
        let mut set = |name: &str, value: &str| all.push((name.to_owned(), value.into()));
        set("PATH", PATH);
        set("LANG", "C");
        set("MOBILITY_PHASE", phase);
        set("MOBILITY_TIMEOUT_S", &self.scripts.timeout.as_secs().to_string());
        set(orphan::TOKEN, &self.token.0);
        match outcome {
            None => {}
            Some(Outcome::ApplicationConsistent) => set("MOBILITY_OUTCOME", "application-consistent"),
            Some(Outcome::Failed) => set("MOBILITY_OUTCOME", "failed"),
        }
        all
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        if !self.over
            && let Err(failed) = self.end(Outcome::Failed)
        {
            tracing::error!("applications may still be held: {failed}");
        }
    }
}

fn environment(point: &PointInfo) -> Vec<(String, OsString)> {
    let mut disks = OsString::new();
    for (at, disk) in point.disks.iter().enumerate() {
        // The device's own name: links to it, such as those by its place on a bus, hold colons.
        let disk = fs::canonicalize(disk).unwrap_or_else(|_| disk.clone());
        disks.push(if at == 0 { "" } else { ":" });
        disks.push(disk);
    }
    let mut all = vec![
        ("MOBILITY_MACHINE".to_owned(), point.machine.to_string().into()),
        ("MOBILITY_GENERATION".to_owned(), point.generation.0.to_string().into()),
        ("MOBILITY_EPOCH".to_owned(), point.epoch.0.to_string().into()),
        ("MOBILITY_DISKS".to_owned(), disks),
    ];
    match &point.reason {
        Reason::Schedule => all.push(("MOBILITY_REASON".to_owned(), "schedule".into())),
        Reason::Request(id) => {
            all.push(("MOBILITY_REASON".to_owned(), "request".into()));
            all.push(("MOBILITY_REQUEST".to_owned(), id.to_string().into()));
        }
    }
    all
}
