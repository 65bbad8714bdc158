//! What each step of a failover does. Each finds out by itself what of it was done before.
//!
//! Deliberately not here: which step is next (`record`), and who does it (`run`).

mod choosing;
mod identity;
mod restoring;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mobility_format::{ByteCount, DiskId, control::BootMode};

use super::{
    Failover, Kind, Place, mend, mending, point,
    provider::{Card, Disk, Failure, Seen, Spec, Target},
    run::{Gauge, Runner},
    source,
    step::Step,
};
use crate::{
    Catalog,
    service::{admin::targets, database::DatabaseError, refusal::Refusal},
    storage::Stores,
};

/// How often a machine that comes up is looked at.
const LOOK: Duration = Duration::from_secs(1);
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
        Step::HoldMachine => identity::hold(runner, failover).await,
        Step::ChoosePoint => choosing::choose(runner, failover).await,
        Step::RestoreDisks => restoring::restore(runner, failover).await,
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
        Step::ReleaseMachine => identity::release(runner, failover).await,
        Step::LetPointGo => {
            failover.holds_point = false;
            Ok("it goes when its policy says so".to_owned())
        }
        Step::AdmitMachine => identity::admit(runner, failover).await,
        Step::WaitForPoint => identity::wait_for_point(runner, failover).await,
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
