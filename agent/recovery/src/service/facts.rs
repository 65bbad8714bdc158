//! What the service knows of machines beside what they commit, and policies: small numbered objects in target storage, from
//! which the database can be rebuilt.
//!
//! ```text
//! service/machines/<machine>/<number>    who and what it is, its policy, whether it was revoked, which points are pinned,
//!                                        where it is to run when it is failed over, how far its failovers are
//! service/policies/<name>/<version>      a policy
//! service/networks/<number>              which network stands for which
//! service/plans/<name>/<number>          a recovery plan
//! ```
//!
//! The database says what is so. A change in it raises a number, and what is so then is stored under that number, once; the
//! highest number counts. What cannot be stored at once is stored as soon as it can be, by whichever instance sees it first.
//! Deliberately not here: what is in these objects for the database (`reindex`).

use jiff::Timestamp;
use mobility_format::{
    MachineId, PublicKey,
    control::{Inventory, Policy},
    envelope::Magic,
};
use serde::{Deserialize, Serialize};

use super::{
    database::{ChangedPlan, essential},
    failover::{Failover, Gate},
    plan::Plan,
    refusal::Answer,
    state::Service,
};
use crate::{
    StorageError,
    records::Record,
    storage::{Objects, SMALL, Stores},
    target::{NetworkMapping, TargetSettings},
};

/// Where machines' facts are.
const MACHINES: &str = "service/machines";
/// Where policies are.
const POLICIES: &str = "service/policies";
/// Where network mappings are.
const NETWORKS: &str = "service/networks";
/// Where recovery plans are.
const PLANS: &str = "service/plans";
/// How many facts and policies are stored in one go.
const MOST: u32 = 256;

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineFacts {
    pub(crate) machine: MachineId,
    pub(crate) name: String,
    pub(crate) key: PublicKey,
    pub(crate) policy: String,
    pub(crate) enrolled: Timestamp,
    pub(crate) revoked: Option<Timestamp>,
    /// Whether it rests, whatever its policy says.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Which hardware it is not any more, since it was failed over.
    #[serde(default)]
    pub(crate) gate: Gate,
    /// Epochs of points that are not to be pruned.
    pub(crate) pins: Vec<u64>,
    /// What it is, as far as that is needed to make it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inventory: Option<Inventory>,
    /// What somebody said of where it is to run when it is failed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<TargetSettings>,
    /// Its failovers of which something is left somewhere, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failovers: Vec<Failover>,
}

impl Record for MachineFacts {
    const MAGIC: Magic = Magic(*b"\x89MOBFCT\n");
}

/// A policy as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredPolicy {
    pub(crate) policy: Policy,
}

impl Record for StoredPolicy {
    const MAGIC: Magic = Magic(*b"\x89MOBPOL\n");
}

/// All network mappings, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredNetworks {
    pub(crate) mappings: Vec<NetworkMapping>,
}

impl Record for StoredNetworks {
    const MAGIC: Magic = Magic(*b"\x89MOBNET\n");
}

/// A plan as it is stored, or that it was removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredPlan {
    pub(crate) name: String,
    pub(crate) plan: Option<Plan>,
}

impl Record for StoredPlan {
    const MAGIC: Magic = Magic(*b"\x89MOBPLN\n");
}

/// The machines of which there are facts.
pub(crate) fn machines(stores: &Stores) -> Result<Vec<MachineId>, StorageError> {
    Ok(stores.target().folders(MACHINES)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The newest facts of a machine that can be read, and the highest number that was used.
pub(crate) fn of_machine(
    stores: &Stores,
    machine: MachineId,
) -> Result<(Option<MachineFacts>, u64), StorageError> {
    let (facts, highest) = newest::<MachineFacts>(stores.target(), &format!("{MACHINES}/{machine}"))?;
    Ok((facts.filter(|facts| facts.machine == machine), highest))
}

/// All policies, each in its newest version that can be read.
pub(crate) fn policies(stores: &Stores) -> Result<Vec<Policy>, StorageError> {
    let mut policies = Vec::new();
    for name in stores.target().folders(POLICIES)? {
        let (stored, _) = newest::<StoredPolicy>(stores.target(), &format!("{POLICIES}/{name}"))?;
        policies.extend(stored.map(|stored| stored.policy).filter(|policy| policy.name == name));
    }
    Ok(policies)
}

/// The newest network mappings that can be read, and the highest number that was used.
pub(crate) fn networks(stores: &Stores) -> Result<(Vec<NetworkMapping>, u64), StorageError> {
    let (stored, highest) = newest::<StoredNetworks>(stores.target(), NETWORKS)?;
    Ok((stored.unwrap_or_default().mappings, highest))
}

/// All plans, each in its newest version that can be read, with the highest number that was used for it.
pub(crate) fn plans(stores: &Stores) -> Result<Vec<ChangedPlan>, StorageError> {
    let mut plans = Vec::new();
    for name in stores.target().folders(PLANS)? {
        let (stored, number) = newest::<StoredPlan>(stores.target(), &format!("{PLANS}/{name}"))?;
        let plan = stored.filter(|stored| stored.name == name).and_then(|stored| stored.plan);
        plans.push(ChangedPlan { name, number, plan });
    }
    Ok(plans)
}

fn newest<T: Record>(objects: &dyn Objects, folder: &str) -> Result<(Option<T>, u64), StorageError> {
    let numbers = numbers(objects, folder)?;
    for number in numbers.iter().rev() {
        let bytes = match objects.read(&numbered(folder, *number), SMALL) {
            // Put away meanwhile, since there is a newer one.
            Err(err) if err.is_not_found() => continue,
            bytes => bytes?,
        };
        match T::parse(&bytes) {
            Ok(record) => return Ok((Some(record), numbers.last().copied().unwrap_or(0))),
            Err(err) => tracing::error!("{folder}/{number} is damaged, the one before it is taken: {err}"),
        }
    }
    Ok((None, numbers.last().copied().unwrap_or(0)))
}

fn numbered(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}")
}

fn numbers(objects: &dyn Objects, folder: &str) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    objects.list(folder, &mut |listed| {
        let number = listed.key.rsplit('/').next().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|number| numbered(folder, *number) == listed.key));
    })?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Puts a record under its number, and removes all but the one before it.
fn put(objects: &dyn Objects, folder: &str, number: u64, record: &impl Record) -> Answer<()> {
    let sealed = record.seal().map_err(|err| super::refusal::Refusal::failing(&err))?;
    match objects.put_new(&numbered(folder, number), &sealed) {
        // By another instance, which has seen the same change.
        Err(err) if err.is_already_there() => {}
        put => put?,
    }
    let older = numbers(objects, folder)?.into_iter().filter(|older| *older < number);
    let older: Vec<String> = older.map(|older| numbered(folder, older)).collect();
    Ok(objects.remove(&older[..older.len().saturating_sub(1)])?)
}

/// Stores all that has changed and is not stored yet.
pub(crate) async fn store_due(service: &Service) -> Answer<()> {
    for policy in service.database.policies_to_store(MOST).await? {
        let (name, version) = (policy.name.clone(), policy.version);
        service
            .blocking(move |stores| {
                let folder = format!("{POLICIES}/{}", policy.name);
                put(stores.target(), &folder, version, &StoredPolicy { policy })
            })
            .await?;
        service.database.note_policy_stored(&name, version).await?;
    }
    store_networks(service).await?;
    store_plans(service).await?;
    for machine in service.database.facts_to_store(MOST).await? {
        store(service, machine).await?;
    }
    Ok(())
}

/// Stores network mappings, if they have changed.
async fn store_networks(service: &Service) -> Answer<()> {
    let Some(number) = service.database.networks_to_store().await? else { return Ok(()) };
    let networks = StoredNetworks { mappings: service.database.network_mappings().await? };
    service.blocking(move |stores| put(stores.target(), NETWORKS, number, &networks)).await?;
    Ok(service.database.note_networks_stored(number).await?)
}

/// As [`store_due`] for network mappings that were just changed.
pub(crate) async fn store_networks_now(service: &Service) {
    if store_networks(service).await.is_err() {
        tracing::warn!(
            "changed network mappings are in the database alone until storage can be written again"
        );
    }
}

/// Stores plans that have changed. Of one that was removed nothing remains, once it is known that nothing older comes back.
async fn store_plans(service: &Service) -> Answer<()> {
    for ChangedPlan { name, number, plan } in service.database.plans_to_store(MOST).await? {
        let stored = StoredPlan { name: name.clone(), plan };
        let work = move |stores: &Stores| {
            let folder = format!("{PLANS}/{}", stored.name);
            put(stores.target(), &folder, number, &stored)?;
            if stored.plan.is_none() {
                let mut old = numbers(stores.target(), &folder)?;
                old.retain(|old| *old <= number);
                let old: Vec<String> = old.iter().map(|old| numbered(&folder, *old)).collect();
                // One after the other: what says that it was removed goes last.
                for key in old {
                    stores.target().remove(&[key])?;
                }
            }
            Ok(())
        };
        service.blocking(work).await?;
        service.database.note_plan_stored(&name, number).await?;
    }
    Ok(())
}

/// As [`store_due`] for a plan that was just changed.
pub(crate) async fn store_plans_now(service: &Service) {
    if store_plans(service).await.is_err() {
        tracing::warn!("a changed plan is in the database alone until storage can be written again");
    }
}

/// Stores what is so of a machine now.
async fn store(service: &Service, machine: MachineId) -> Answer<()> {
    // The number first: what is read after it holds at least the changes that it counts.
    let Some(number) = service.database.facts_number(machine).await? else { return Ok(()) };
    let (Some(standing), Some(known)) =
        (service.database.standing(machine).await?, service.database.machine(machine).await?)
    else {
        return Ok(());
    };
    let facts = MachineFacts {
        machine,
        name: known.name,
        key: standing.signing_key,
        policy: known.policy,
        enrolled: known.enrolled,
        revoked: known.revoked,
        paused: known.paused,
        gate: service.database.gate(machine).await?,
        pins: service.database.pins(machine).await?,
        inventory: known.inventory.as_ref().map(essential),
        target: service.database.target(machine).await?.filter(|target| *target != TargetSettings::default()),
        failovers: service.database.failovers_to_store(machine).await?,
    };
    service
        .blocking(move |stores| put(stores.target(), &format!("{MACHINES}/{machine}"), number, &facts))
        .await?;
    Ok(service.database.note_facts_stored(machine, number).await?)
}

/// As [`store_due`] for one machine that was just changed. What fails now is done later.
pub(crate) async fn store_now(service: &Service, machine: MachineId) {
    if store(service, machine).await.is_err() {
        tracing::warn!(%machine, "a change is in the database alone until storage can be written again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Directory;

    fn facts(pins: &[u64]) -> MachineFacts {
        MachineFacts {
            machine: MachineId([7; 16]),
            name: "small".to_owned(),
            key: PublicKey([8; 32]),
            policy: "default".to_owned(),
            enrolled: Timestamp::UNIX_EPOCH,
            revoked: None,
            paused: false,
            gate: Gate::default(),
            pins: pins.to_vec(),
            inventory: None,
            target: None,
            failovers: Vec::new(),
        }
    }

    #[test]
    fn the_newest_facts_that_can_be_read_count() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Arc::new(Directory::new(dir.path()));
        let stores = Stores::new(objects.clone(), objects.clone());
        let machine = MachineId([7; 16]);
        assert_eq!(of_machine(&stores, machine).unwrap(), (None, 0));
        let folder = format!("{MACHINES}/{machine}");
        for number in 1..=4 {
            put(&*objects, &folder, number, &facts(&[number])).unwrap();
        }
        assert_eq!(of_machine(&stores, machine).unwrap(), (Some(facts(&[4])), 4));
        assert_eq!(machines(&stores).unwrap(), [machine]);
        assert_eq!(numbers(&*objects, &folder).unwrap(), [3, 4], "older ones go");
        // Put once: whoever comes later with the same number has seen no more.
        put(&*objects, &folder, 4, &facts(&[9])).unwrap();
        assert_eq!(of_machine(&stores, machine).unwrap().0, Some(facts(&[4])));
        std::fs::write(dir.path().join(numbered(&folder, 4)), "rubbish").unwrap();
        assert_eq!(of_machine(&stores, machine).unwrap(), (Some(facts(&[3])), 4));
    }
}
