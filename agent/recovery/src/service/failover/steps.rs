//! What each step of a failover does. Each finds out by itself what of it was done before.
//!
//! Deliberately not here: which step is next (`record`), and who does it (`run`).

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::{ByteCount, DiskId, Epoch, MachineId, control::BootMode};

use super::{
    Failover, Held, Kind, Place, mend, mending,
    point::{self, LATEST},
    provider::{Card, Disk, Failure, Seen, Spec, Target},
    record::{Chosen, Progress, Written},
    run::{Gauge, Runner, Stop},
    source,
    step::Step,
};
use crate::{
    Catalog, Destination, RestoreError, Restored, restore_disk,
    service::{admin::targets, database::DatabaseError, facts, refusal::Refusal},
    storage::Stores,
};

/// How often a machine that comes up is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait for the first point of a machine that was admitted: it compares its disks before.
const FIRST_POINT: Duration = Duration::from_secs(6 * 3600);
/// The most network cards that a machine gets at the target: as many as the largest sizes in Azure have.
const MOST_CARDS: usize = 8;

/// Why a step is not done.
pub(super) enum Problem {
    /// It was told to end.
    Stopped,
    /// It went wrong.
    Failed(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Failed(failure)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem::Failed(Failure::new(refusal.message, "look at the service's log, and resume"))
    }
}

impl From<DatabaseError> for Problem {
    fn from(err: DatabaseError) -> Problem {
        Refusal::from(err).into()
    }
}

pub(super) type Outcome = Result<String, Problem>;

/// Does a step; what came of it, for people.
pub(super) async fn run(runner: &Runner, failover: &mut Failover, step: Step) -> Outcome {
    match step {
        Step::CheckPlace => {
            let spec = spec(runner, failover).await?;
            at_place(runner, failover, move |place| place.provider.check(&spec)).await
        }
        Step::HaltSource => source::halt(runner, failover).await,
        Step::SwitchOffSource => source::switch_off(runner, failover).await,
        Step::ReturnSource => source::go_on(runner, failover).await,
        Step::HoldMachine => hold(runner, failover).await,
        Step::ChoosePoint => choose(runner, failover).await,
        Step::RestoreDisks => restore(runner, failover).await,
        Step::MendDisks => mending::run(runner, failover).await,
        Step::MakeMachine => {
            let spec = spec(runner, failover).await?;
            at_place(runner, failover, move |place| place.provider.make(&spec)).await
        }
        Step::StartMachine => {
            let id = failover.id.clone();
            at_place(runner, failover, move |place| place.provider.start(&id)).await
        }
        Step::WatchBoot => watch(runner, failover).await,
        Step::StopMachine => {
            let id = failover.id.clone();
            at_place(runner, failover, move |place| place.provider.stop(&id)).await
        }
        Step::RemoveMachine => {
            let id = failover.id.clone();
            end_mending(runner, failover).await?;
            let result = at_place(runner, failover, move |place| place.provider.remove(&id)).await?;
            failover.disks.clear();
            failover.changes.clear();
            failover.findings.clear();
            Ok(result)
        }
        Step::ReleaseMachine => release(runner, failover).await,
        Step::LetPointGo => {
            failover.holds_point = false;
            Ok("it goes when its policy says so".to_owned())
        }
        Step::AdmitMachine => admit(runner, failover).await,
        Step::WaitForPoint => wait_for_point(runner, failover).await,
    }
}

/// The place that the failover goes to.
pub(super) fn place(runner: &Runner, failover: &Failover) -> Result<Place, Problem> {
    let gone = || {
        let problem = format!("the service's configuration has no place '{}' any more", failover.place);
        Problem::Failed(Failure::new(problem, "add the table again, restart the service, and resume"))
    };
    runner.service.failover.get(&failover.place).cloned().ok_or_else(gone)
}

/// Has the place do something, in a thread of its own.
async fn at_place(
    runner: &Runner,
    failover: &mut Failover,
    work: impl FnOnce(&Place) -> Result<String, Failure> + Send + 'static,
) -> Outcome {
    let place = place(runner, failover)?;
    runner.aside(failover, Gauge::default(), move |_| Ok(work(&place)?)).await
}

/// Ends what still works on the disks, where an instance was killed while they were mended.
async fn end_mending(runner: &Runner, failover: &mut Failover) -> Result<(), Problem> {
    let of_disks = failover.disks.first().map(|disk| PathBuf::from(&disk.path));
    let Some(directory) = of_disks.as_deref().and_then(Path::parent).map(mend::directory) else {
        return Ok(());
    };
    let hint = "end what works there, and resume";
    let failed = move |err: std::io::Error| {
        Failure::new(format!("what mends the disks does not end: {err}"), hint).into()
    };
    runner.aside(failover, Gauge::default(), move |_| mend::clean(&directory).map_err(failed)).await
}

/// The machine as it is to be made: by its target settings, with the disks that the point has.
pub(super) async fn spec(runner: &Runner, failover: &Failover) -> Result<Spec, Problem> {
    let service = &runner.service;
    let said = targets::at_place(service, failover.machine, &failover.place).await?;
    let settings = said.effective;
    let (id, chosen) = (failover.machine, failover.chosen.clone());
    let states = match chosen {
        Some(chosen) => {
            let of = move |stores: &Stores| {
                let catalog = Catalog::load(stores, id)?;
                Ok(catalog.manifest(chosen.epoch).map(|signed| signed.manifest.disks.clone()))
            };
            // Never with other disks than the point's.
            service.blocking(of).await?.ok_or_else(|| point::gone(failover.chosen.as_ref()))?
        }
        None => Vec::new(),
    };
    let known = |id: DiskId| settings.disks.iter().find(|disk| disk.id == id);
    let disk = |id: DiskId, name: &str, size: ByteCount| Disk {
        id,
        name: name.to_owned(),
        size,
        serial: known(id).and_then(|disk| disk.serial.clone()),
        is_root: known(id).is_some_and(|disk| disk.system),
    };
    let disks = match states.is_empty() {
        true => settings.disks.iter().map(|of| disk(of.id, &of.name, of.size)).collect(),
        false => states.iter().map(|of| disk(of.id, &of.name, of.size)).collect(),
    };
    let cards = settings.interfaces.iter().take(MOST_CARDS);
    let cards = cards.map(|told| Card { name: told.name.clone(), network: told.network.value.clone() });
    Ok(Spec {
        failover: failover.id.clone(),
        name: settings.name.value.clone().unwrap_or_else(|| failover.name.clone()),
        isolated: failover.kind == Kind::Test,
        uefi: settings.boot.value == Some(BootMode::Uefi),
        memory: settings.memory.value,
        processors: settings.processors.value,
        disks,
        cards: cards.collect(),
        target: Some(Target { settings, problems: said.problems }),
    })
}

async fn hold(runner: &Runner, failover: &mut Failover) -> Outcome {
    let database = &runner.service.database;
    let (machine, mut gate) = (failover.machine, database.gate(failover.machine).await?);
    // Once: when it is done again somebody else may be there.
    if failover.hardware.is_none() {
        failover.hardware = database.hardware(machine).await?;
    }
    let only = match failover.kind {
        Kind::Test => failover.hardware.clone(),
        Kind::Planned | Kind::Unplanned => None,
    };
    if failover.kind == Kind::Test && only.is_none() {
        return Ok("the machine has no agent that could be mistaken for another".to_owned());
    }
    // Once as well: the second time there is none.
    let session = match gate.held.take().filter(|held| held.failover == failover.id) {
        Some(held) => held.session,
        None => database.state(machine).await?.and_then(|state| state.session),
    };
    gate.held = Some(Held { failover: failover.id.clone(), only, session });
    database.set_gate(machine, &gate).await?;
    facts::store_now(&runner.service, machine).await;
    match failover.kind {
        Kind::Test => Ok("only the machine itself goes on with its identity".to_owned()),
        Kind::Planned | Kind::Unplanned => {
            // After the gate is shut: a session that begins in between ends here.
            database.end_session(machine).await?;
            runner.service.bell.ring(machine);
            Ok("nobody goes on with the machine's identity until it is decided who".to_owned())
        }
    }
}

async fn choose(runner: &Runner, failover: &mut Failover) -> Outcome {
    let (machine, wanted, asked) = (failover.machine, failover.wanted.clone(), failover.asked);
    let processed = match wanted == LATEST {
        true => {
            let service = runner.service.clone();
            let mut waiting = std::pin::pin!(point::process_cache(&service, machine, &runner.stop));
            loop {
                tokio::select! {
                    processed = &mut waiting => break format!("; {}", processed?),
                    () = tokio::time::sleep(LOOK) => runner.beat(failover, &Gauge::default()).await,
                }
            }
        }
        false => String::new(),
    };
    // Whatever thins points out may have been at it before it could know that this one is needed: then another one is chosen.
    for _ in 0..3 {
        let stores = runner.service.stores.clone();
        let (of, when) = (wanted.clone(), asked);
        let chosen = runner
            .aside(failover, Gauge::default(), move |_| Ok(point::choose(&stores, machine, &of, when)?))
            .await?;
        (failover.chosen, failover.holds_point) = (Some(chosen.clone()), true);
        runner.beat(failover, &Gauge::default()).await;
        let stores = runner.service.stores.clone();
        let epoch = chosen.epoch;
        let still = runner
            .aside(failover, Gauge::default(), move |_| Ok(still_there(&stores, machine, epoch)?))
            .await?;
        if still {
            return named(failover, &chosen, &processed);
        }
    }
    Err(Failure::new("the points that are chosen go again and again", "resume in a minute").into())
}

/// What there is to say of the point that was chosen. The newest of a machine that was stopped holds all of it.
fn named(failover: &mut Failover, chosen: &Chosen, processed: &str) -> Outcome {
    let (id, time, kind) = (&chosen.id, chosen.time, chosen.consistency.name());
    if failover.loses_nothing() {
        failover.chosen.iter_mut().for_each(|chosen| chosen.age_ms = 0);
        return Ok(format!("{id} of {time} ({kind}), with all that was written{processed}"));
    }
    if failover.source.last.is_some() && failover.wanted == LATEST {
        let problem = format!("the newest point is {id} of {time}, older than the machine's last one");
        let hint = "look at the service's log, and resume; `failover change-point` takes an older one";
        return Err(Failure::new(problem, hint).into());
    }
    let age = chosen.age_ms as f64 / 1e3;
    Ok(format!("{id} of {time} ({kind}), {age:.1} s before it was asked for{processed}"))
}

fn still_there(stores: &Stores, machine: MachineId, epoch: Epoch) -> Result<bool, Failure> {
    let catalog = Catalog::load_locked(stores, machine);
    let catalog = catalog.map_err(|err| Failure::new(err.to_string(), point::GONE))?;
    Ok(catalog.manifest(epoch).is_some())
}

async fn restore(runner: &Runner, failover: &mut Failover) -> Outcome {
    let spec = spec(runner, failover).await?;
    let place = place(runner, failover)?;
    let Some(chosen) = failover.chosen.clone() else {
        return Err(Failure::new("no point was chosen", "take one with `failover change-point`").into());
    };
    let begin = Timestamp::now();
    for disk in &spec.disks {
        if failover.disks.iter().any(|written| written.id == disk.id) {
            continue;
        }
        let (stores, machine, gauge) = (runner.service.stores.clone(), failover.machine, Gauge::default());
        let (spec, disk, place, told) = (spec.clone(), disk.clone(), place.clone(), gauge.clone());
        let written = runner.aside(failover, gauge, move |stop| {
            let to = place.provider.image(&spec, &disk)?;
            let catalog = Catalog::load_locked(&stores, machine);
            let catalog = catalog.map_err(|err| Failure::new(err.to_string(), point::GONE))?;
            let restored = one_disk(&catalog, chosen.epoch, &disk, &to, stop, &told);
            restored.map_err(|err| problem(&stores, machine, chosen.epoch, &err, stop))
        });
        let restored = written.await?;
        failover.disks.push(Written {
            id: restored.disk,
            name: restored.name,
            path: restored.path.display().to_string(),
            size: restored.size,
            written: restored.written,
            root: restored.root.to_string(),
        });
        runner.beat(failover, &Gauge::default()).await;
    }
    let written = failover.disks.iter().map(|disk| disk.written.0).sum();
    let seconds = (Timestamp::now().as_millisecond() - begin.as_millisecond()) as f64 / 1e3;
    let written = ByteCount(written);
    Ok(format!("{} disks, {written} written and read back in {seconds:.1} s", failover.disks.len()))
}

/// Restores a disk to its image, unless it is told to stop.
fn one_disk(
    catalog: &Catalog,
    epoch: Epoch,
    disk: &Disk,
    to: &Destination,
    stop: &Stop,
    told: &Gauge,
) -> Result<Restored, RestoreError> {
    restore_disk(catalog, epoch, disk.id, to, true, |at| {
        told.set(Progress { done: at.done, total: at.total });
        if stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// What it means for the failover that a disk could not be restored.
fn problem(stores: &Stores, machine: MachineId, epoch: Epoch, err: &RestoreError, stop: &Stop) -> Problem {
    if stop.is_set() {
        return Problem::Stopped;
    }
    let hint = match err {
        RestoreError::Content(err) if err.is_damage() => point::instead_of(stores, machine, epoch, err),
        RestoreError::NoSuchDisk { .. } => point::GONE.to_owned(),
        RestoreError::Storage(err) => err.kind().remedy().to_owned() + ", and resume",
        _ => "mend that, and resume".to_owned(),
    };
    Failure::new(err.to_string(), hint).into()
}

async fn watch(runner: &Runner, failover: &mut Failover) -> Outcome {
    let place = place(runner, failover)?;
    let begin = std::time::Instant::now();
    loop {
        let (id, of) = (failover.id.clone(), place.clone());
        let seen = runner.aside(failover, Gauge::default(), move |_| Ok(of.provider.look(&id)?)).await?;
        let hint =
            "look at its console; resume to watch on, or take another point with `failover change-point`";
        match seen {
            Seen::Up(sign) => {
                failover.booted = Some(true);
                return Ok(format!("it is up: {sign}"));
            }
            Seen::ByHand(how) => return Ok(how),
            Seen::Stuck(sign) => {
                return Err(Failure::new(format!("it does not come up: {sign}"), hint).into());
            }
            Seen::Off => return Err(Failure::new("it went off", hint).into()),
            Seen::Running if begin.elapsed() > place.provider.boot_limit() => {
                failover.booted = Some(false);
                let limit = place.provider.boot_limit().as_secs();
                return Ok(format!(
                    "it runs, and has not said within {limit} s that it is up: look at its console"
                ));
            }
            Seen::Running if runner.stop.is_set() => return Err(Problem::Stopped),
            Seen::Running => tokio::time::sleep(LOOK).await,
        }
        runner.beat(failover, &Gauge::default()).await;
    }
}

async fn release(runner: &Runner, failover: &Failover) -> Outcome {
    let database = &runner.service.database;
    let gate = database.gate(failover.machine).await?;
    let Some(held) = gate.held.clone().filter(|held| held.failover == failover.id) else {
        return Ok("it was not held".to_owned());
    };
    database.set_gate(failover.machine, &gate.released(&failover.id)).await?;
    if let Some(session) = held.session {
        database.resume_session(failover.machine, session).await?;
    }
    facts::store_now(&runner.service, failover.machine).await;
    Ok("the machine goes on where it was".to_owned())
}

async fn admit(runner: &Runner, failover: &mut Failover) -> Outcome {
    let database = &runner.service.database;
    let gate = database.gate(failover.machine).await?;
    let state = database.state(failover.machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    failover.admitted_at.get_or_insert(state.taken_in);
    // Before anybody is let in: once somebody is, what is newest is not what it was.
    runner.beat(failover, &Gauge::default()).await;
    database.set_gate(failover.machine, &gate.moved(&failover.id, failover.hardware.as_deref())).await?;
    facts::store_now(&runner.service, failover.machine).await;
    Ok("the machine at the target may go on, and the one before it never again".to_owned())
}

async fn wait_for_point(runner: &Runner, failover: &mut Failover) -> Outcome {
    let (begin, before) = (std::time::Instant::now(), failover.admitted_at.unwrap_or(0));
    loop {
        let machine = runner.service.database.machine(failover.machine).await?;
        if let Some(epoch) = machine.and_then(|machine| machine.point).filter(|epoch| *epoch > before) {
            return Ok(format!("its first point is of epoch {epoch}"));
        }
        if runner.stop.is_set() {
            return Err(Problem::Stopped);
        }
        if begin.elapsed() > FIRST_POINT {
            let problem = "the machine at the target has made no point yet";
            return Err(
                Failure::new(problem, "see that its agent runs and reaches the service, and resume").into()
            );
        }
        tokio::time::sleep(LOOK).await;
        runner.beat(failover, &Gauge::default()).await;
    }
}
