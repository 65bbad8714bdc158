//! Rebuilds the database from what is stored: machines with their keys, generations, heads and target settings, policies,
//! revocations, pins, network mappings, recovery plans with their runs, and failovers.
//!
//! An agent that was enrolled goes on without comparing anything: its certificate is signed by the authority, which is not in
//! the database, and its head is the newest manifest. What is lost are tokens, commands that were not carried out and the
//! history of events. It can be killed and run again; until it has ended, no instance starts. Deliberately not here: points
//! themselves, which are nowhere but in storage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mobility_format::{Epoch, Head, MachineId};

use super::{
    admin,
    config::{Options, Settings},
    database::{Database, Found},
    facts::{self, MachineFacts},
    failover::{Gate, Held},
    start::{self, ServeError, failed},
};
use crate::{
    Catalog, Intake, MachineRecord,
    keys::ObjectKey,
    records::Record,
    storage::{SMALL, Stores},
};

/// What was found and put into the database.
#[derive(Debug, Default)]
pub struct Reindexed {
    /// Machines.
    pub machines: usize,
    /// Recovery points.
    pub points: usize,
    /// Failovers of which something is left somewhere.
    pub failovers: usize,
    /// Plan runs, also those that have ended.
    pub plan_runs: usize,
    /// What could not be taken over as it is, for people.
    pub problems: Vec<String>,
}

/// Rebuilds the database that the configuration names.
///
/// # Errors
/// When there is something in it already, an instance runs, or storage cannot be read.
pub fn reindex(options: &Options) -> Result<Reindexed, ServeError> {
    let settings = Settings::new(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start threads"))?;
    runtime.block_on(run(&settings))
}

async fn run(settings: &Settings) -> Result<Reindexed, ServeError> {
    let (database, _alone) = start::open_database(settings).await?;
    let written = || failed("write the database");
    if !database.begin_rebuilding().await.map_err(written())? {
        let problem = "it knows machines: only an empty database is rebuilt; put this one aside first";
        return Err(failed("rebuild the database")(problem));
    }
    let stores = settings.places.open(false)?.stores;
    let (of, mut done) = (stores.clone(), Reindexed::default());
    let listed = blocking(move || {
        Ok((facts::policies(&of)?, machines(&of)?, facts::networks(&of)?, facts::plans(&of)?))
    });
    let listed = listed.await?;
    for policy in &listed.0 {
        database.restore_policy(policy).await.map_err(written())?;
    }
    database.keep_policy(&admin::first_policy()).await.map_err(written())?;
    let (mappings, number) = listed.2;
    database.restore_networks(&mappings, number).await.map_err(written())?;
    database.restore_plans(&listed.3).await.map_err(written())?;
    restore_plan_runs(&database, &stores, &mut done).await?;
    for machine in listed.1 {
        let of = stores.clone();
        let (found, points, problem) = blocking(move || Ok(look(&of, machine))).await?;
        done.problems.extend(problem.map(|problem| format!("machine {machine}: {problem}")));
        let Some(mut found) = found else { continue };
        keep_known_policy(&database, &mut found, &mut done).await?;
        forget_failover(&mut found, &mut done);
        database.restore_machine(&found, Timestamp::now()).await.map_err(written())?;
        done.machines += 1;
        done.failovers += found.facts.failovers.len();
        done.points += points;
    }
    database.end_rebuilding().await.map_err(written())?;
    database.close().await;
    Ok(done)
}

/// Whoever takes up a plan run looks after machines that it knows: where one is lost, the run says so.
async fn restore_plan_runs(
    database: &Database,
    stores: &Stores,
    done: &mut Reindexed,
) -> Result<(), ServeError> {
    let of = stores.clone();
    for found in blocking(move || facts::plan_runs(&of)).await? {
        let Some(run) = &found.run else {
            done.problems.push(format!(
                "plan run {}: what is stored of it is damaged; `failover list` shows the failovers of its machines",
                found.id
            ));
            continue;
        };
        database.restore_plan_run(run, found.number).await.map_err(failed("write the database"))?;
        done.plan_runs += 1;
    }
    Ok(())
}

/// A machine whose policy is lost gets the first one.
async fn keep_known_policy(
    database: &Database,
    found: &mut Found,
    done: &mut Reindexed,
) -> Result<(), ServeError> {
    let facts = &mut found.facts;
    if database.policy(&facts.policy).await.map_err(failed("read the database"))?.is_none() {
        let first = admin::first_policy().name;
        done.problems.push(format!(
            "machine {}: its policy '{}' is lost; it has '{first}' now",
            facts.machine, facts.policy
        ));
        facts.policy = first;
    }
    Ok(())
}

/// Where what was known of a failover is lost, nobody can say any more which machine is the real one.
fn forget_failover(found: &mut Found, done: &mut Reindexed) {
    let facts = &mut found.facts;
    let is_lost = |held: &mut Held| facts.failovers.iter().all(|known| known.id != held.failover);
    if let Some(held) = facts.gate.held.take_if(is_lost) {
        done.problems.push(format!(
            "machine {}: failover {} was not decided and is lost: see what it has left at its place before an agent goes on",
            facts.machine, held.failover
        ));
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::StorageError> + Send + 'static,
) -> Result<T, ServeError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(failed("read storage"))?;
    done.map_err(|err| ServeError::Storage(err.into()))
}

/// The machines of which anything is stored.
pub(super) fn machines(stores: &Stores) -> Result<BTreeSet<MachineId>, crate::StorageError> {
    Ok(stores.machines()?.into_iter().chain(facts::machines(stores)?).collect())
}

/// What is stored of a machine, how many points it has, and what is wrong with it.
fn look(stores: &Stores, machine: MachineId) -> (Option<Found>, usize, Option<String>) {
    let looked = || -> Result<(Option<Found>, usize, Option<String>), String> {
        let (known, number) = facts::of_machine(stores, machine).map_err(|err| err.to_string())?;
        let record = stores.target().read(&ObjectKey::Machine { machine }.to_string(), SMALL);
        let record = match record {
            Err(err) if err.is_not_found() => None,
            bytes => {
                let bytes = bytes.map_err(|err| err.to_string())?;
                Some(MachineRecord::parse(&bytes).map_err(|err| format!("its record is damaged: {err}"))?)
            }
        };
        let facts = match (known, &record) {
            (Some(facts), Some(record)) if facts.key != record.key => {
                return Err("it is stored under two keys".to_owned());
            }
            (Some(facts), _) => facts,
            (None, Some(record)) => without_facts(record),
            (None, None) => return Err("nothing says by which key it signs".to_owned()),
        };
        let (head, problem) = match record.as_ref().map(|_| Intake::open(stores, machine, facts.key)) {
            // It has enrolled and never sent anything.
            None => (None, None),
            Some(Ok(intake)) => (intake.head().cloned(), None),
            Some(Err(err)) => (None, Some(err.to_string())),
        };
        let catalog = Catalog::load(stores, machine).map_err(|err| err.to_string())?;
        let newest = catalog.points().next_back().map(|point| (point.epoch(), point.received));
        let found = Found {
            facts,
            number,
            generation: record.map_or(mobility_format::Generation(0), |record| record.generation),
            point: newest.filter(|(epoch, _)| *epoch <= epoch_of(head.as_ref())),
            head,
            slots: first_slot(),
        };
        Ok((Some(found), catalog.points().count(), problem))
    };
    looked().unwrap_or_else(|problem| (None, 0, Some(problem)))
}

fn epoch_of(head: Option<&Head>) -> Epoch {
    head.map_or(Epoch(0), |head| head.epoch)
}

/// A machine of which nothing is known but what it committed.
fn without_facts(record: &MachineRecord) -> MachineFacts {
    MachineFacts {
        machine: record.machine,
        name: format!("machine {}", record.machine),
        key: record.key,
        policy: admin::first_policy().name,
        enrolled: Timestamp::now(),
        revoked: None,
        paused: false,
        gate: Gate::default(),
        pins: Vec::new(),
        inventory: None,
        target: None,
        failovers: Vec::new(),
    }
}

/// A place that was granted before must not be granted again: its object may be on its way. Which ones were is lost. So numbers go
/// on from the time in microseconds, which no count of grants reaches.
fn first_slot() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0)
}
