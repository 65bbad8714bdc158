//! The commands of the handler, each of which says at its end what there is to say.
//!
//! The order of an update is the guest agent's: the old version's `disable`, the new one's `update`, the old one's `uninstall`, the
//! new one's `install` and `enable`. Deliberately not here: each of the steps.

use std::{fs, io, time::Duration};

use jiff::Timestamp;

use crate::{
    Command,
    agent::{self, Enrolled},
    failure::{Cause, Failure},
    health,
    package::{self, Installed},
    protected,
    record::{self, Record},
    report::{Level, Report},
    run::Run,
    settings::{Protected, Settings},
    units,
};

/// How long an agent that systemd says has started may take to say so itself.
const STARTING: Duration = Duration::from_secs(30);

pub(crate) fn follow(run: &mut Run) -> Result<String, Failure> {
    match run.command {
        Command::Install => install(run),
        Command::Enable => enable(run),
        Command::Disable => disable(run),
        Command::Update => update(run),
        Command::Uninstall => uninstall(run),
        Command::Reset => Ok("nothing is kept that would have to be reset".to_owned()),
        Command::Heartbeat => heartbeat(run),
    }
}

fn install(run: &Run) -> Result<String, Failure> {
    if !units::are_possible(&run.place) {
        return Err(Failure::new(
            Cause::System,
            "systemd does not run the services of this system: the agent needs it",
        ));
    }
    Ok(match package::install(&run.place, &run.environment.base.join("packages"))? {
        Installed::Now(version) => format!("version {version} of the agent was installed"),
        Installed::Before(version) => format!("version {version} of the agent is installed, and stays"),
    })
}

fn enable(run: &mut Run) -> Result<String, Failure> {
    if let Some(report) = repeated(run) {
        return finish(run, &report);
    }
    run.write_transitioning("enrolling the machine and starting the agent")?;
    let settings = Settings::read(&run.environment.settings(&run.sequence), &mut run.secrets)?;
    if !agent::is_installed(&run.place) {
        return Err(Failure::new(
            Cause::Missing,
            "the agent is not installed: `install` has failed, or it was removed",
        ));
    }
    let (record, mut notes) = belong(run, &settings)?;
    units::start_agent(&run.place)?;
    units::start_heartbeat(&run.place, &run.environment.base.join("bin/handler"))?;
    let status = agent::status_soon(&run.place, STARTING)?;
    record::end_update(&run.place);
    if !settings.services.is_empty() && !record.names(&settings.services) {
        return Err(elsewhere(&record, &settings));
    }
    if !settings.strange.is_empty() {
        notes.push(format!("nothing is known of these settings: {}", settings.strange.join(", ")));
    }
    let mut report = health::of(&status, Timestamp::now());
    notes.iter().for_each(|note| report.message.push_str(&format!("; {note}")));
    run.environment.remember_sequence(&run.sequence)?;
    finish(run, &report)
}

/// The report of an agent that runs as these settings want it to: the guest agent calls `enable` at each of its starts.
fn repeated(run: &Run) -> Option<Report> {
    let same = run.environment.last_sequence().as_ref() == Some(&run.sequence);
    let known = Record::load(&run.place).is_some_and(|record| record.done);
    if !same || !known || !units::agent_runs(&run.place) {
        return None;
    }
    let status = agent::status(&run.place).ok()?;
    units::start_heartbeat(&run.place, &run.environment.base.join("bin/handler")).ok()?;
    record::end_update(&run.place);
    Some(health::of(&status, Timestamp::now()))
}

fn finish(run: &Run, report: &Report) -> Result<String, Failure> {
    run.write_heartbeat(report)?;
    run.write_status(report)?;
    Ok(report.message.clone())
}

/// Sees to it that the machine belongs to a service. To which, and what is worth saying about that.
fn belong(run: &mut Run, settings: &Settings) -> Result<(Record, Vec<String>), Failure> {
    let known = Record::load(&run.place).unwrap_or_default();
    if known.done && agent::has_keys(&run.place) {
        return Ok((known, Vec::new()));
    }
    let stays = "the machine was enrolled before this extension came, and stays with that service";
    // One that runs holds the identity: it can be neither asked for nor given another.
    if agent::has_keys(&run.place) && units::agent_runs(&run.place) {
        let record = Record { done: true, ..known };
        record.store(&run.place)?;
        return Ok((record, vec![stays.to_owned()]));
    }
    if settings.services.is_empty() {
        return Err(Failure::settings(
            "'serviceUrl' is missing in the public settings: the address of the recovery service, \
             such as https://recovery.example.org:8443",
        ));
    }
    let protected = match &settings.sealed {
        Some(sealed) => {
            protected::open(sealed, run.environment.certificates(), &mut run.secrets, run.place.end)?
        }
        None => Protected::default(),
    };
    // Nobody knows how far a run that was killed came: the machine may belong to where that one went.
    let mut services = settings.services.clone();
    if !known.done {
        services.extend(known.services.iter().filter(|one| !settings.services.contains(one)).cloned());
    }
    Record { services: services.clone(), done: false }.store(&run.place)?;
    let (services, notes) = match agent::enrol(&run.place, settings, &protected)? {
        Enrolled::Now => (settings.services.clone(), Vec::new()),
        Enrolled::Before if known.services.is_empty() => (Vec::new(), vec![stays.to_owned()]),
        Enrolled::Before => (services, Vec::new()),
    };
    let record = Record { services, done: true };
    record.store(&run.place)?;
    Ok((record, notes))
}

/// Settings that name another service are not followed: moving a machine means sending all of its disks again, and leaving its
/// points behind, which a changed line in a template must not do.
fn elsewhere(record: &Record, settings: &Settings) -> Failure {
    Failure::settings(format!(
        "the machine is enrolled with {} and stays protected there, although the settings now name {}. Put the address back; or, to \
         move the machine, delete the extension and add it anew with a token of the other service, which sends all disks again. A \
         service that only got another address tells its machines by itself",
        record.services.join(", "),
        settings.services.join(", ")
    ))
}

fn disable(run: &Run) -> Result<String, Failure> {
    units::stop(&run.place)?;
    let report = Report::new(
        Level::Warning,
        "the agent was stopped; changes go on being tracked until the machine restarts",
    );
    run.write_heartbeat(&report)?;
    Ok(report.message)
}

fn update(run: &Run) -> Result<String, Failure> {
    record::begin_update(&run.place)?;
    Ok("what the version before leaves will be taken over".to_owned())
}

fn uninstall(run: &Run) -> Result<String, Failure> {
    if record::leaves_in_update(&run.place) {
        return Ok("this version leaves in an update: the agent and its identity stay".to_owned());
    }
    // Each step on its own, so that one that fails leaves as little as possible.
    let mut problems = Vec::new();
    problems.extend(units::stop(&run.place).err().map(|failure| failure.message));
    let untold = agent::is_installed(&run.place).then(|| agent::unenrol(&run.place)).flatten();
    let removed = package::remove(&run.place);
    problems.extend(removed.as_ref().err().map(|failure| failure.message.clone()));
    if removed.is_ok() {
        Record::forget(&run.place);
        record::end_update(&run.place);
        let dir = run.place.state_dir();
        match fs::remove_dir_all(&dir) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                problems.push(format!("{}: {err}", dir.display()))
            }
            _ => {}
        }
    }
    let untold = untold.map_or_else(String::new, |note| format!("; {note}"));
    match (problems.is_empty(), removed) {
        (true, _) => {
            Ok(format!("the agent, its identity and its settings are gone; recovery points stay{untold}"))
        }
        (false, removed) => {
            let cause = removed.err().map_or(Cause::Other, |failure| failure.cause);
            Err(Failure::new(cause, format!("{}{untold}", problems.join("; "))))
        }
    }
}

fn heartbeat(run: &mut Run) -> Result<String, Failure> {
    let report = match agent::status(&run.place) {
        Ok(status) => health::of(&status, Timestamp::now()),
        Err(failure) => Report::of(&failure),
    };
    if !report.ready {
        run.log(&report.message);
    }
    // Of the settings that were followed: of those that could not be, `enable` has said so.
    if let Some(sequence) = run.environment.last_sequence() {
        run.sequence = sequence;
        report.write_status(&run.environment, &run.sequence, "Enable", |text| run.hide(text))?;
    }
    run.write_heartbeat(&report)?;
    Ok(report.message)
}
