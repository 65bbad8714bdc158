use mobility_format::MachineId;
use serde_json::json;

use super::*;

/// Two groups of two machines, a script and a manual step between them.
fn run(kind: Kind) -> PlanRun {
    let machine = |number: u8| MachineId([number; 16]);
    let plan = json!({ "groups": [
        { "name": "first", "machines": [machine(1), machine(2)],
          "after": [{ "kind": "script", "script": "check" }] },
        { "machines": [machine(3), machine(4)],
          "before": [{ "kind": "manual", "text": "open the firewall" }] },
    ] });
    let plan: Plan = serde_json::from_value(plan).unwrap();
    plan.check().unwrap();
    let member = |(number, group): (u8, usize)| {
        Member::new(machine(number), format!("machine {number}"), group, "shelf".to_owned())
    };
    let members = [(1, 1), (2, 1), (3, 2), (4, 2)].map(member).to_vec();
    let wanted = Wanted { kind, point: "latest".to_owned(), skip_manual: false };
    PlanRun::new("0".repeat(16), "shop".to_owned(), &plan, wanted, members)
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// What is not done yet.
fn to_do(run: &PlanRun) -> Vec<String> {
    run.steps.iter().filter(|step| step.ended.is_none()).map(Step::name).collect()
}

fn do_one(run: &mut PlanRun) {
    run.begin(now()).unwrap();
    run.end("done".to_owned(), now());
}

#[test]
fn steps_are_done_in_the_order_of_the_plan() {
    let mut run = run(Kind::Unplanned);
    assert_eq!(
        to_do(&run),
        [
            "group 1: fail the machines over",
            "group 1: script check",
            "group 2: manual step",
            "group 2: fail the machines over",
        ]
    );
    do_one(&mut run);
    do_one(&mut run);
    run.begin(now()).unwrap();
    run.wait("open the firewall", now());
    assert!(run.begin(now()).is_none() && run.hint.contains("plan confirm"), "{run:?}");
    assert!(run.may(Action::Resume).is_err() && run.may(Action::Commit).is_err());
    run.take(Action::Confirm, now()).unwrap();
    do_one(&mut run);
    assert!(run.phase == Phase::Ready && run.ready.is_some() && run.begin(now()).is_none());
    run.take(Action::Commit, now()).unwrap();
    assert_eq!(to_do(&run), ["group 1: commit the machines", "group 2: commit the machines"]);
    assert!(run.may(Action::Cancel).is_err(), "a machine may be committed already");
    do_one(&mut run);
    do_one(&mut run);
    assert!(run.phase == Phase::Committed && run.is_settled());
}

#[test]
fn what_was_begun_is_undone_in_reverse_order_and_nothing_else() {
    let mut one = run(Kind::Test);
    one.begin(now()).unwrap();
    one.take(Action::Cancel, now()).unwrap();
    assert_eq!(to_do(&one), ["group 1: undo the machines"]);
    assert!(one.may(Action::Cancel).is_err() && one.steps[0].ended.is_some());
    do_one(&mut one);
    assert_eq!(one.phase, Phase::Cancelled);

    let mut both = run(Kind::Test);
    for _ in 0..4 {
        do_one(&mut both);
    }
    assert!(both.may(Action::Commit).unwrap_err().to_string().contains("a test is not committed"));
    both.take(Action::Cancel, now()).unwrap();
    assert_eq!(to_do(&both), ["group 2: undo the machines", "group 1: undo the machines"]);
    // Where that goes wrong it is done again, and not gone on without.
    both.begin(now()).unwrap();
    both.fail("busy".to_owned(), "wait".to_owned(), now());
    assert!(both.may(Action::Skip).is_err());
    both.take(Action::Cancel, now()).unwrap();
    assert_eq!(to_do(&both), ["group 2: undo the machines", "group 1: undo the machines"]);

    let mut none = run(Kind::Test);
    none.take(Action::Cancel, now()).unwrap();
    assert!(none.phase == Phase::Cancelled && none.steps.is_empty());
}

#[test]
fn what_went_wrong_is_done_again_or_gone_on_without() {
    let mut run = run(Kind::Unplanned);
    run.begin(now()).unwrap();
    run.fail("machine 1 is damaged".to_owned(), "take another point".to_owned(), now());
    assert!(run.phase == Phase::Failed && run.begin(now()).is_none());
    run.take(Action::Resume, now()).unwrap();
    assert!(run.hint.is_empty() && run.machines.iter().all(|member| member.again));
    let again = run.begin(now()).unwrap();
    assert_eq!((again.tries, again.work), (2, Work::FailOver));
    run.fail("machine 1 is damaged".to_owned(), "take another point".to_owned(), now());
    run.take(Action::Skip, now()).unwrap();
    assert_eq!(run.steps[0].result, "gone on without it: machine 1 is damaged");
    assert_eq!(run.begin(now()).unwrap().name(), "group 1: script check");
}

#[test]
fn what_is_kept_of_output_and_log_is_bounded() {
    let mut run = run(Kind::Unplanned);
    do_one(&mut run);
    run.begin(now()).unwrap();
    run.steps[0].output = "x".repeat(MOST_OUTPUT);
    run.print("y".repeat(8));
    assert!(run.steps[0].output.is_empty() && run.steps[1].output == "yyyyyyyy");
    for line in 0..=MOST_LINES {
        run.say(line.to_string(), now());
    }
    assert!(run.log.len() == MOST_LINES && run.log[MOST_LINES - 1].text == MOST_LINES.to_string());
}
