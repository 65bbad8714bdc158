//! What each step of a plan run does. Each finds out by itself what of it was done before.
//!
//! Deliberately not here: which step is next (`record`), what is next for one machine (`member`), and who does it (`run`).

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    member::{Goal, Next, Trouble},
    record::{PlanRun, Step, When, Work, kind_name},
    script::{self, End, Script},
};
use crate::service::{
    admin::failovers,
    database::DatabaseError,
    failover::{Failover, Failure},
    refusal::Refusal,
    stepwise::Runner,
};

/// What came of a step.
pub(super) enum Outcome {
    /// It is done; what came of it, for people.
    Done(String),
    /// A person has to do this.
    Waits(String),
    /// It went wrong.
    Failed(Failure),
    /// It was told to end.
    Stopped,
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        Outcome::Failed(Failure::new(refusal.message, "look at the service's log, and resume"))
    }
}

impl From<DatabaseError> for Outcome {
    fn from(err: DatabaseError) -> Outcome {
        Refusal::from(err).into()
    }
}

/// Does a step.
pub(super) async fn run(runner: &Runner, run: &mut PlanRun, step: &Step) -> Outcome {
    let done = match &step.work {
        Work::Script { when, script, limit_s } => {
            run_script(runner, run, step, *when, script, *limit_s).await
        }
        Work::Manual { .. } if run.skip_manual => Ok("not waited for, as was asked".to_owned()),
        Work::Manual { text, .. } => Err(Outcome::Waits(text.clone())),
        Work::FailOver => drive(runner, run, step.group, Goal::Up).await,
        Work::Commit => drive(runner, run, step.group, Goal::Committed).await,
        Work::Cancel => drive(runner, run, step.group, Goal::Gone).await,
    };
    done.map_or_else(|outcome| outcome, Outcome::Done)
}

/// Brings the machines of a group to where they should be, some at once.
async fn drive(runner: &Runner, run: &mut PlanRun, group: usize, goal: Goal) -> Result<String, Outcome> {
    let members = 0..run.machines.len();
    let mut open: VecDeque<_> = members.filter(|&at| run.machines[at].group == group).collect();
    let (count, most) = (open.len(), runner.service.plans.at_once);
    let mut busy = Vec::new();
    loop {
        let before = run.machines.clone();
        for at in std::mem::take(&mut busy) {
            if push(runner, run, at, goal).await? {
                busy.push(at);
            }
        }
        while busy.len() < most
            && let Some(at) = open.pop_front()
        {
            if push(runner, run, at, goal).await? {
                busy.push(at);
            }
        }
        if run.machines != before && !runner.note(run).await? {
            return Err(Outcome::Stopped);
        }
        if busy.is_empty() && open.is_empty() {
            break;
        }
        if !runner.pause(run).await {
            return Err(Outcome::Stopped);
        }
    }
    what_came(run, group, goal, count)
}

fn what_came(run: &PlanRun, group: usize, goal: Goal, count: usize) -> Result<String, Outcome> {
    let troubled = run.machines.iter().filter(|member| member.group == group);
    let troubled: Vec<_> = troubled.filter_map(|member| Some((member, member.trouble.as_ref()?))).collect();
    let what = match goal {
        Goal::Up => "up",
        Goal::Committed => "committed",
        Goal::Gone => "gone from the target",
    };
    let Some((first, trouble)) = troubled.first() else {
        return Ok(format!("{count} of {count} machines are {what}"));
    };
    let problem =
        format!("{} of {count} machines are not {what}: {}: {}", troubled.len(), first.name, trouble.problem);
    Err(Outcome::Failed(Failure::new(problem, format!("{}: {}", first.name, trouble.hint))))
}

/// Does what is next for a machine. Whether something is to come.
async fn push(runner: &Runner, run: &mut PlanRun, at: usize, goal: Goal) -> Result<bool, Outcome> {
    let database = &runner.service.database;
    let id = run.machines[at].failover_of(&run.id);
    let kept = database.record::<Failover>(&id).await?;
    let member = &mut run.machines[at];
    member.note(kept.as_ref());
    let next = member.next(goal, kept.as_ref());
    if next != Next::Wait {
        member.trouble = None;
    }
    match next {
        Next::Arrived => member.again = false,
        Next::Wait => return Ok(true),
        Next::Begin => return begin(runner, run, at).await,
        Next::TurnToAnother => {
            member.turn_to_another();
            return Ok(true);
        }
        Next::Ask(action) => {
            // Where something else was asked a moment ago that is seen the next time.
            database.ask_record::<Failover>(&id, &action).await?;
            member.again = false;
            return Ok(true);
        }
        Next::GiveUp(trouble) => (member.trouble, member.again) = (Some(trouble), false),
    }
    Ok(false)
}

/// Begins the failover of a machine. Whether it was.
async fn begin(runner: &Runner, run: &mut PlanRun, at: usize) -> Result<bool, Outcome> {
    let member = &run.machines[at];
    let id = member.failover_of(&run.id);
    if runner.service.database.record::<Failover>(&id).await?.is_none() {
        let machine = (member.machine, member.name.clone());
        let failover = Failover::new(id.clone(), machine, run.kind, member.place.clone(), run.wanted.clone());
        if !failovers::add(&runner.service, &failover).await? {
            run.machines[at].trouble = Some(Trouble {
                problem: "another failover of it is not decided yet".to_owned(),
                hint: "`failover list` shows it: cancel or commit that one, and resume".to_owned(),
            });
            return Ok(false);
        }
    }
    let member = &mut run.machines[at];
    (member.failover, member.again) = (Some(id), false);
    Ok(true)
}

async fn run_script(
    runner: &Runner,
    run: &mut PlanRun,
    step: &Step,
    when: When,
    name: &str,
    limit_s: u64,
) -> Result<String, Outcome> {
    let settings = &runner.service.plans;
    let Some(directory) = settings.scripts.as_deref() else {
        let problem = "the service's configuration names no directory of scripts any more";
        let hint = "add `scripts` to the table [plans] again, restart the service, and resume";
        return Err(Outcome::Failed(Failure::new(problem, hint)));
    };
    let mut input = input(runner, run, step, when).await?.to_string().into_bytes();
    input.push(b'\n');
    let position = run.steps.iter().position(|one| one.ended.is_none()).unwrap_or(0);
    let group = run.group_name(step.group);
    let script = Script {
        path: script::find(directory, name).map_err(Outcome::Failed)?,
        variables: vec![
            ("RECOVERY_PLAN", run.plan.clone()),
            ("RECOVERY_RUN", run.id.clone()),
            ("RECOVERY_KIND", kind_name(run.kind)),
            ("RECOVERY_GROUP", if group.is_empty() { step.group.to_string() } else { group.to_owned() }),
            ("RECOVERY_WHEN", when.name().to_owned()),
            ("RECOVERY_TRY", step.tries.to_string()),
        ],
        input,
        note: settings.notes.join(format!("{}-{position}", run.id)),
        limit: Duration::from_secs(limit_s),
    };
    let ended = runner.beside(run, |_| false, move |stop| script::run(&script, stop.told())).await;
    let (end, output) = ended.and_then(|ended| ended).map_err(Outcome::Failed)?;
    run.print(output);
    let problem = match end {
        End::Done => return Ok("it ended well".to_owned()),
        End::Stopped => return Err(Outcome::Stopped),
        End::Badly(how) => format!("script {name}: {how}"),
        End::TimedOut => format!("script {name} did not end within {limit_s} s, and was ended"),
    };
    let hint = format!(
        "`plan report {0}` shows what it printed: mend that and `plan resume {0}`, or go on without it with `plan skip {0}`",
        run.id
    );
    Err(Outcome::Failed(Failure::new(problem, hint)))
}

/// What a program is told of the run, with all its machines as they are now.
async fn input(runner: &Runner, run: &PlanRun, step: &Step, when: When) -> Result<Value, DatabaseError> {
    let mut machines = Vec::new();
    for member in &run.machines {
        let kept = match &member.failover {
            Some(id) => runner.service.database.record::<Failover>(id).await?,
            None => None,
        };
        let failover = match kept {
            Some(kept) => kept.record,
            None => {
                machines.push(json!({ "machine": member.machine, "name": member.name, "group": member.group, "place": member.place }));
                continue;
            }
        };
        machines.push(json!({
            "machine": member.machine,
            "name": member.name,
            "group": member.group,
            "place": member.place,
            "failover": failover.id,
            "phase": failover.phase,
            "point": failover.chosen,
            "disks": failover.disks,
        }));
    }
    Ok(json!({
        "plan": run.plan,
        "run": run.id,
        "kind": run.kind,
        "asked": run.asked,
        "now": Timestamp::now(),
        "group": step.group,
        "group_name": run.group_name(step.group),
        "when": when,
        "try": step.tries,
        "machines": machines,
    }))
}
