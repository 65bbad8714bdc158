//! Recovery plans and plan runs as they are stored.
//!
//! Deliberately not here: what is in them (`plan`).

use mobility_format::envelope::Magic;
use serde::{Deserialize, Serialize};

use super::{
    MOST,
    numbered::{newest, put, remove},
};
use crate::{
    StorageError,
    records::Record,
    service::{
        database::ChangedPlan,
        plan::{Plan, PlanRun},
        refusal::Answer,
        state::Service,
    },
    storage::Stores,
};

/// Where recovery plans are.
const PLANS: &str = "service/plans";
/// Where plan runs are.
const RUNS: &str = "service/plan-runs";

/// A plan as it is stored, or that it was removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredPlan {
    pub(crate) name: String,
    pub(crate) plan: Option<Plan>,
}

impl Record for StoredPlan {
    const MAGIC: Magic = Magic(*b"\x89MOBPLN\n");
}

/// A plan run as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredPlanRun {
    pub(crate) run: PlanRun,
}

impl Record for StoredPlanRun {
    const MAGIC: Magic = Magic(*b"\x89MOBRUN\n");
}

/// A plan run that was found.
pub(crate) struct FoundPlanRun {
    pub(crate) id: String,
    /// The highest number that was used for it.
    pub(crate) number: u64,
    /// How it was last, as far as that can be read.
    pub(crate) run: Option<PlanRun>,
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

/// All plan runs.
pub(crate) fn plan_runs(stores: &Stores) -> Result<Vec<FoundPlanRun>, StorageError> {
    let mut runs = Vec::new();
    for id in stores.target().folders(RUNS)? {
        let (stored, number) = newest::<StoredPlanRun>(stores.target(), &format!("{RUNS}/{id}"))?;
        let run = stored.map(|stored| stored.run).filter(|run| run.id == id);
        // Of one that was forgotten a directory may be left.
        if number > 0 {
            runs.push(FoundPlanRun { id, number, run });
        }
    }
    Ok(runs)
}

/// Stores plans that have changed. Of one that was removed nothing remains, once it is known that nothing older comes back.
pub(super) async fn store(service: &Service) -> Answer<()> {
    for ChangedPlan { name, number, plan } in service.database.plans_to_store(MOST).await? {
        let stored = StoredPlan { name: name.clone(), plan };
        let work = move |stores: &Stores| {
            let folder = format!("{PLANS}/{}", stored.name);
            put(stores.target(), &folder, number, &stored)?;
            match stored.plan {
                Some(_) => Ok(()),
                None => Ok(remove(stores.target(), &folder, number)?),
            }
        };
        service.blocking(work).await?;
        service.database.note_plan_stored(&name, number).await?;
    }
    Ok(())
}

/// As [`super::store_due`] for a plan that was just changed.
pub(crate) async fn store_plans_now(service: &Service) {
    if store(service).await.is_err() {
        tracing::warn!("a changed plan is in the database alone until storage can be written again");
    }
}

/// Stores plan runs that have changed.
pub(super) async fn store_runs(service: &Service) -> Answer<()> {
    for id in service.database.plan_runs_to_store(MOST).await? {
        store_run(service, &id).await?;
    }
    Ok(())
}

async fn store_run(service: &Service, id: &str) -> Answer<()> {
    // The number first: what is read after it holds at least the changes that it counts.
    let Some(number) = service.database.plan_run_number(id).await? else { return Ok(()) };
    let Some(kept) = service.database.record::<PlanRun>(id).await? else { return Ok(()) };
    let (folder, stored) = (format!("{RUNS}/{id}"), StoredPlanRun { run: kept.record.stored() });
    service.blocking(move |stores| put(stores.target(), &folder, number, &stored)).await?;
    Ok(service.database.note_plan_run_stored(id, number).await?)
}

/// As [`super::store_due`] for a plan run that was just changed.
pub(crate) async fn store_plan_run_now(service: &Service, id: &str) {
    if store_run(service, id).await.is_err() {
        tracing::warn!(run = id, "a plan run is in the database alone until storage can be written again");
    }
}

/// Forgets plan runs that have ended where there are too many newer ones, with what is stored of them. What fails now is done later.
pub(crate) async fn forget_old_plan_runs(service: &Service) {
    if let Err(err) = forget(service).await {
        tracing::warn!("old plan runs are kept until they can be removed: {}", err.message);
    }
}

async fn forget(service: &Service) -> Answer<()> {
    for id in service.database.plan_runs_to_forget(MOST).await? {
        let folder = format!("{RUNS}/{id}");
        let work = move |stores: &Stores| {
            remove(stores.target(), &folder, u64::MAX)?;
            Ok(stores.target().remove_below(&folder)?)
        };
        service.blocking(work).await?;
        service.database.forget_plan_run(&id).await?;
    }
    Ok(())
}
