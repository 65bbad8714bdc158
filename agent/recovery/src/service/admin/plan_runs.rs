//! Plan runs: begun, shown, told what becomes of them, and reported.
//!
//! Whatever can be seen to be wrong before anything is touched is refused here. Deliberately not here: doing them (`plan`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::control::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Administrator, failovers, plans, stepwise};
use crate::service::{
    api::{InPath, InQuery, Read},
    database::{EventKind, Kept, NoRun},
    facts,
    failover::{Failover, Kind},
    plan::{Action, Member, Phase, Plan, PlanRun, Report, Wanted, find_script, kind_name},
    refusal::{Answer, Refusal},
    secret,
    state::Service,
};

/// Plan runs in one answer.
const MOST: u32 = 200;
/// What a point can be called that every machine has one of.
const WORDS: [&str; 3] = ["latest", "latest-processed", "latest-app-consistent"];

/// A plan run as it is shown.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    run: PlanRun,
    /// What was asked of it and not taken up yet.
    waiting: Option<Action>,
}

/// A plan run in a list.
#[derive(Serialize)]
struct Listed {
    id: String,
    plan: String,
    kind: Kind,
    wanted: String,
    asked: Timestamp,
    phase: Phase,
    machines: usize,
    hint: String,
}

/// Which plan runs.
#[derive(Deserialize)]
pub(super) struct Which {
    plan: Option<String>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InQuery(which): InQuery<Which>,
) -> Answer<Json<Value>> {
    let kept = service.database.records::<PlanRun>(which.plan, MOST).await?;
    let listed = |Kept { record: run, .. }: Kept<PlanRun>| Listed {
        id: run.id,
        plan: run.plan,
        kind: run.kind,
        wanted: run.wanted,
        asked: run.asked,
        phase: run.phase,
        machines: run.machines.len(),
        hint: run.hint,
    };
    Ok(Json(json!({ "runs": kept.into_iter().map(listed).collect::<Vec<_>>() })))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
) -> Answer<Json<Value>> {
    let Kept { record: run, asked } = stepwise::find(&service, &id).await?;
    Ok(Json(json!(Shown { run, waiting: asked })))
}

/// How a plan is to be run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    kind: Kind,
    /// The one of each machine's target settings, or the only one that there is, where it is not given.
    place: Option<String>,
    /// `latest` where it is not given.
    point: Option<String>,
    #[serde(default)]
    skip_manual: bool,
}

pub(super) async fn begin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
    Read(asked): Read<Asked>,
) -> Answer<Json<Value>> {
    let plan = plans::find(&service, &name).await?;
    if asked.skip_manual && asked.kind != Kind::Test {
        return Err(Refusal::bad(
            "manual steps are left out of tests alone: confirm them with `plan confirm`",
        ));
    }
    let point = checked_point(asked.point, &plan)?;
    let members = members(&service, &plan, asked.place).await?;
    check_scripts(&service, &plan).await?;
    let wanted = Wanted { kind: asked.kind, point, skip_manual: asked.skip_manual };
    let id = secret::hex(&secret::random::<8>()?);
    let run = PlanRun::new(id, name, &plan, wanted, members);
    if let Some(problem) = service.database.add_plan_run(&run).await? {
        let problem = match problem {
            NoRun::Other(other) => format!(
                "run {other} of the plan is not decided yet: `plan cancel {other}`, or `plan commit {other}`, first"
            ),
            NoRun::TooMany => {
                "too many plan runs are not decided yet: `plan runs` lists them, `plan cancel` ends one"
                    .to_owned()
            }
        };
        return Err(Refusal::new(ErrorCode::Conflict, problem));
    }
    facts::store_plan_run_now(&service, &run.id).await;
    facts::forget_old_plan_runs(&service).await;
    let message = format!("a run of plan '{}' was asked for ({}): {}", run.plan, kind_name(run.kind), run.id);
    service.event(EventKind::PlanRun, None, message).await;
    Ok(Json(json!(Shown { run, waiting: None })))
}

fn checked_point(point: Option<String>, plan: &Plan) -> Answer<String> {
    let point = failovers::checked_point(point.unwrap_or_else(|| WORDS[0].to_owned()))?;
    let common = WORDS.contains(&&*point) || point.parse::<Timestamp>().is_ok();
    match common || plan.machines().count() == 1 {
        true => Ok(point),
        false => Err(Refusal::bad(format!(
            "'{point}' is no point that every machine of the plan has: say {}, or a time such as 2026-11-22T23:57:00Z",
            WORDS.join(", ")
        ))),
    }
}

async fn members(service: &Service, plan: &Plan, place: Option<String>) -> Answer<Vec<Member>> {
    let mut known = plans::machines(service, plan).await?.into_iter();
    let mut members = Vec::new();
    for (group, number) in plan.groups.iter().zip(1..) {
        for machine in known.by_ref().take(group.machines.len()) {
            let place = failovers::place_of(service, machine.id, place.clone()).await;
            let place = place
                .map_err(|err| Refusal { message: format!("{}: {}", machine.name, err.message), ..err })?;
            members.push(Member::new(machine.id, machine.name, number, place));
        }
    }
    Ok(members)
}

async fn check_scripts(service: &Service, plan: &Plan) -> Answer<()> {
    let scripts: Vec<_> = plan.scripts().into_iter().map(str::to_owned).collect();
    let Some(directory) = service.plans.scripts.clone() else {
        return match scripts.is_empty() {
            true => Ok(()),
            false => Err(Refusal::bad(
                "the plan has scripts, and the service's configuration does not say where they are: it needs a table [plans] with \
                 `scripts`",
            )),
        };
    };
    let check = move |_: &_| match scripts.iter().try_for_each(|name| find_script(&directory, name).map(drop))
    {
        Ok(()) => Ok(()),
        Err(failure) => Err(Refusal::bad(format!("{}: {}", failure.problem, failure.hint))),
    };
    service.blocking(check).await
}

pub(super) async fn act(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
    Read(action): Read<Action>,
) -> Answer<Json<Value>> {
    stepwise::ask::<PlanRun>(&service, &id, &action).await?;
    Ok(Json(json!({ "run": id, "asked": action })))
}

pub(super) async fn report(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
) -> Answer<Json<Report>> {
    let mut run = stepwise::find::<PlanRun>(&service, &id).await?.record;
    for member in &mut run.machines {
        if let Some(failover) = &member.failover {
            let kept = service.database.record::<Failover>(failover).await?;
            member.note(kept.as_ref());
        }
    }
    Ok(Json(Report::new(run)))
}
