//! What the service knows of machines beside what they commit, and policies: small numbered objects in target storage, from
//! which the database can be rebuilt.
//!
//! ```text
//! service/machines/<machine>/<number>    who and what it is, its policy, whether it was revoked, which points are pinned,
//!                                        where it is to run when it is failed over, how far its failovers are
//! service/policies/<name>/<version>      a policy
//! service/networks/<number>              which network stands for which
//! service/plans/<name>/<number>          a recovery plan
//! service/plan-runs/<id>/<number>        a plan run, how far it is, and its report
//! ```
//!
//! The database says what is so. A change in it raises a number, and what is so then is stored under that number, once; the
//! highest number counts. What cannot be stored at once is stored as soon as it can be, by whichever instance sees it first.
//! Deliberately not here: how a number is put and read (`numbered`), plans and their runs (`plans`), and what all of it is for the
//! database (`reindex`).

mod numbered;
mod plans;

use jiff::Timestamp;
use mobility_format::{
    MachineId, PublicKey,
    control::{Inventory, Policy},
    envelope::Magic,
};
use serde::{Deserialize, Serialize};

use self::numbered::{newest, put};
pub(crate) use self::plans::{forget_old_plan_runs, plan_runs, plans, store_plan_run_now, store_plans_now};
use super::{
    database::essential,
    failover::{Failover, Gate},
    refusal::Answer,
    state::Service,
};
use crate::{
    StorageError,
    records::Record,
    storage::Stores,
    target::{NetworkMapping, TargetSettings},
};

/// Where machines' facts are.
const MACHINES: &str = "service/machines";
/// Where policies are.
const POLICIES: &str = "service/policies";
/// Where network mappings are.
const NETWORKS: &str = "service/networks";
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
    plans::store(service).await?;
    plans::store_runs(service).await?;
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

    use super::{
        numbered::{numbered, numbers, remove},
        *,
    };
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
        put(&*objects, &folder, 5, &facts(&[5])).unwrap();
        remove(&*objects, &folder, 4).unwrap();
        assert_eq!(of_machine(&stores, machine).unwrap(), (Some(facts(&[5])), 5), "what is newer stays");
        remove(&*objects, &folder, 5).unwrap();
        assert_eq!(of_machine(&stores, machine).unwrap(), (None, 0));
    }
}
