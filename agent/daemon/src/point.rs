//! `mobility-agent point`: has the running agent make a recovery point now, and waits for it.
//!
//! Deliberately not here: how question and answer travel (`request`).

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use mobility_format::manifest::{Consistency, CutMethod};
use notify::{RecursiveMode, Watcher};

use crate::{
    cli::PointArgs,
    clock,
    exit::Failure,
    request::{self, Answer, Made, Request, RequestId},
    state_file::{self, State},
};

/// The shortest and the longest time to wait.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// How often it is looked whether the agent still runs.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &PointArgs) -> anyhow::Result<()> {
    if args.timeout < TIMEOUT.0 || args.timeout > TIMEOUT.1 {
        return Err(Failure::Config("--timeout must be between 1s and 24h".to_owned()).into());
    }
    let runtime_dir = state_file::runtime_dir(args.runtime_dir.as_deref());
    let agent = find_agent(args, &runtime_dir)?;
    let dir = request::dir(&runtime_dir, agent.machine);
    let (tell, told) = mpsc::sync_channel(1);
    let mut watcher = notify::recommended_watcher(move |_| {
        // One that was not taken yet says the same.
        let _ = tell.try_send(());
    })
    .context("answers cannot be watched for")?;
    watcher.watch(&dir, RecursiveMode::NonRecursive).with_context(|| {
        format!(
            "the agent cannot be asked through {}; run this as root or as the agent's user, and see in the agent's log \
             whether it takes requests",
            dir.display()
        )
    })?;
    let request = Request { id: RequestId::draw()?, application: args.app_consistent };
    let asked = Asked { dir: &dir, id: request.id };
    let wait = SignedDuration::try_from(args.timeout).unwrap_or(SignedDuration::MAX);
    let expires = clock::wall().saturating_add(wait).unwrap_or(Timestamp::MAX);
    request::ask(&dir, &request, expires)?;
    let answer = asked.wait(args.timeout, &told, || is_there(&runtime_dir, &agent))?;
    drop(asked);
    conclude(args, &answer)
}

/// The one agent that can be meant.
fn find_agent(args: &PointArgs, runtime_dir: &Path) -> anyhow::Result<State> {
    let states = State::read_all(runtime_dir).unwrap_or_default();
    let meant = |state: &State| args.machine.is_none_or(|machine| machine == state.machine);
    let mut running = states.into_iter().filter(|state| state.is_running() && meant(state));
    let Some(agent) = running.next() else {
        let whose = args.machine.map_or_else(String::new, |machine| format!(" for machine {machine}"));
        return Err(Failure::NotRunning(format!(
            "no agent is running{whose} (none keeps its state in {})",
            runtime_dir.display()
        ))
        .into());
    };
    if running.next().is_some() {
        anyhow::bail!(
            "agents of several machines are running; say which one with --machine (`status` lists them)"
        );
    }
    Ok(agent)
}

fn is_there(runtime_dir: &Path, agent: &State) -> bool {
    let states = State::read_all(runtime_dir).unwrap_or_default();
    states.iter().any(|state| state.machine == agent.machine && state.is_running())
}

/// A request that is on its way. Nothing of it is left behind.
struct Asked<'a> {
    dir: &'a Path,
    id: RequestId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        request::forget(self.dir, &self.id);
    }
}

impl Asked<'_> {
    fn wait(
        &self,
        limit: Duration,
        told: &mpsc::Receiver<()>,
        is_there: impl Fn() -> bool,
    ) -> anyhow::Result<Answer> {
        let (end, mut next_look) = (Instant::now() + limit, Instant::now() + LOOK);
        // An agent that is being started again is missing for a moment.
        let mut missed = false;
        loop {
            if let Some(answer) = request::answered(self.dir, &self.id)? {
                return Ok(answer);
            }
            let now = Instant::now();
            if now >= end {
                let limit = humantime::format_duration(limit);
                return Err(Failure::Late(format!(
                    "the agent made no point within {limit}; `mobility-agent status` says what it is doing"
                ))
                .into());
            }
            if now >= next_look {
                next_look = now + LOOK;
                match (is_there(), missed) {
                    (true, _) => missed = false,
                    (false, false) => missed = true,
                    (false, true) => {
                        let what = "the agent ended before it had made the point".to_owned();
                        return Err(Failure::NotRunning(what).into());
                    }
                }
            }
            // Told or not: the answer is looked for.
            let _ = told.recv_timeout(end.min(next_look).saturating_duration_since(now));
        }
    }
}

fn conclude(args: &PointArgs, answer: &Answer) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(answer)?);
    }
    let made = match answer {
        Answer::Failed { reason } => anyhow::bail!("no point was made: {reason}"),
        Answer::Made(made) => made,
    };
    if !args.json {
        print!("{}", show(made));
    }
    if args.app_consistent && made.consistency != Consistency::Application {
        let reason = made.reason.as_deref().unwrap_or("no script made an application ready");
        return Err(Failure::Weaker(format!(
            "the point is {}, not application-consistent: {reason}",
            consistency(made.consistency)
        ))
        .into());
    }
    Ok(())
}

fn show(made: &Made) -> String {
    let method = match made.method {
        CutMethod::Optimistic => "an optimistic cut",
        CutMethod::Freeze => "a frozen cut",
        CutMethod::Scan => "two scans that agree",
        CutMethod::None => "no cut that succeeded",
    };
    let reason = made.reason.as_ref().map_or_else(String::new, |reason| format!("because      {reason}\n"));
    format!(
        "point        epoch {}, generation {}\nid           {}\ntime         {}\nconsistency  {}, by {method}\n{reason}",
        made.epoch,
        made.generation,
        made.id,
        made.time,
        consistency(made.consistency),
    )
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Fuzzy => "fuzzy",
        Consistency::Crash => "crash-consistent",
        Consistency::FileSystem => "file-system-consistent",
        Consistency::Application => "application-consistent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(app_consistent: bool) -> PointArgs {
        let timeout = Duration::from_secs(300);
        PointArgs { app_consistent, timeout, machine: None, json: false, runtime_dir: None }
    }

    fn made(consistency: Consistency) -> Answer {
        Answer::Made(Made {
            id: "12-0123abcd".to_owned(),
            digest: mobility_format::Digest::of(b"point"),
            generation: mobility_format::Generation(1),
            epoch: mobility_format::Epoch(12),
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            consistency,
            method: CutMethod::Freeze,
            reason: None,
        })
    }

    fn failure(result: anyhow::Result<()>) -> Option<Failure> {
        result.unwrap_err().downcast().ok()
    }

    #[test]
    fn only_what_was_asked_for_is_success() {
        conclude(&args(true), &made(Consistency::Application)).unwrap();
        conclude(&args(false), &made(Consistency::Fuzzy)).unwrap();
        for less in [Consistency::FileSystem, Consistency::Crash, Consistency::Fuzzy] {
            let failed = failure(conclude(&args(true), &made(less)));
            assert!(matches!(failed, Some(Failure::Weaker(_))), "{less:?}");
        }
        assert!(failure(conclude(&args(false), &Answer::Failed { reason: "disk".to_owned() })).is_none());
    }

    #[test]
    fn waiting_ends_with_the_answer_or_the_time_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let (tell, told) = mpsc::sync_channel(1);
        for answered in [true, false] {
            let request = Request { id: RequestId::draw().unwrap(), application: true };
            let asked = Asked { dir: dir.path(), id: request.id };
            request::ask(dir.path(), &request, Timestamp::MAX).unwrap();
            if answered {
                request::answer(dir.path(), &request.id, &made(Consistency::Crash)).unwrap();
                tell.send(()).unwrap();
            }
            assert_eq!(count(), 1);
            let limit = Duration::from_millis(if answered { 20_000 } else { 50 });
            match asked.wait(limit, &told, || true) {
                Ok(answer) => assert!(answered && answer == made(Consistency::Crash)),
                Err(err) => assert!(!answered && matches!(err.downcast_ref(), Some(Failure::Late(_)))),
            }
            drop(asked);
            assert_eq!(count(), 0);
        }
    }
}
