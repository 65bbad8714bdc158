//! What came of a plan run: each step with its time, each machine with its point, and the measured RTO and RPO of all of it.
//!
//! RPO is counted from when the run was asked for, for every machine: that a machine of a later group has to wait for its turn loses
//! nothing more of what it did. Deliberately not here: how it is shown to people (`cli`).

use jiff::Timestamp;
use mobility_format::MachineId;
use serde::Serialize;

use super::{
    member::{Member, Root, Up},
    record::{Phase, PlanRun, Step},
};
use crate::service::failover::{Chosen, Kind, Phase as FailoverPhase};

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    run: String,
    plan: String,
    kind: Kind,
    wanted: String,
    phase: Phase,
    asked: Timestamp,
    /// When all machines were up and all steps done.
    ready: Option<Timestamp>,
    hint: String,
    machines_up: usize,
    /// From being asked for until the last machine was up.
    rto_ms: Option<i64>,
    /// How old the oldest point was when the run was asked for.
    rpo_ms: Option<i64>,
    /// From the oldest point to the newest one.
    spread_ms: Option<i64>,
    steps: Vec<ShownStep>,
    machines: Vec<ShownMachine>,
}

#[derive(Debug, Serialize)]
struct ShownStep {
    group_name: String,
    #[serde(flatten)]
    step: Step,
    took_ms: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ShownMachine {
    machine: MachineId,
    name: String,
    group: usize,
    place: String,
    failover: Option<String>,
    phase: Option<FailoverPhase>,
    problem: Option<String>,
    point: Option<Chosen>,
    /// How old its point was when the run was asked for; 0 where it is newer than that.
    rpo_ms: Option<i64>,
    /// From when its failover was asked for until it was up.
    rto_ms: Option<i64>,
    up: Option<Timestamp>,
    disks: Vec<Root>,
}

impl Report {
    /// What came of a run whose machines were noted just now.
    pub(crate) fn new(run: PlanRun) -> Report {
        let ups: Vec<&Up> = run.machines.iter().filter_map(|member| member.up.as_ref()).collect();
        let times = || ups.iter().map(|up| millis(up.point.time));
        let spread = times().max().zip(times().min()).map(|(newest, oldest)| newest - oldest);
        let last = ups.iter().map(|up| millis(up.asked) + up.took_ms).max();
        let rpo_ms = ups.iter().map(|up| rpo(&run, up)).max();
        let step = |step: &Step| ShownStep {
            group_name: run.group_name(step.group).to_owned(),
            took_ms: step.began.zip(step.ended).map(|(began, ended)| millis(ended) - millis(began)),
            step: step.clone(),
        };
        Report {
            machines_up: ups.len(),
            rto_ms: last.map(|last| last - millis(run.asked)),
            rpo_ms,
            spread_ms: spread,
            steps: run.steps.iter().map(step).collect(),
            machines: run.machines.iter().map(|member| machine(&run, member)).collect(),
            run: run.id,
            plan: run.plan,
            kind: run.kind,
            wanted: run.wanted,
            phase: run.phase,
            asked: run.asked,
            ready: run.ready,
            hint: run.hint,
        }
    }
}

fn machine(run: &PlanRun, member: &Member) -> ShownMachine {
    let up = member.up.as_ref();
    ShownMachine {
        machine: member.machine,
        name: member.name.clone(),
        group: member.group,
        place: member.place.clone(),
        failover: member.failover.clone(),
        phase: member.phase,
        problem: member.trouble.as_ref().map(|trouble| trouble.problem.clone()),
        point: up.map(|up| up.point.clone()),
        rpo_ms: up.map(|up| rpo(run, up)),
        rto_ms: up.map(|up| up.took_ms),
        up: up.and_then(|up| Timestamp::from_millisecond(millis(up.asked) + up.took_ms).ok()),
        disks: up.map(|up| up.disks.clone()).unwrap_or_default(),
    }
}

fn rpo(run: &PlanRun, up: &Up) -> i64 {
    (millis(run.asked) - millis(up.point.time)).max(0)
}

fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}
