//! Agents that are killed while they have something frozen.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::Agent,
    pulse::Pulse,
    scratch::{eventually, try_run},
    vault_maker::Dice,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{LIMIT, SLACK, root_rig::RootRig, tell};

const KILLS: usize = 10;
/// A writer that waits for so long waits for a freeze.
const HELD: Duration = Duration::from_millis(2);

#[test]
fn root_a_killed_agent_leaves_nothing_frozen_and_the_next_one_goes_on() {
    let Some(rig) = RootRig::new() else { return };
    eventually("the writer alone", Duration::from_secs(60), || (rig.pulse.count() > 300).then_some(()));
    let alone = rig.pulse.longest();
    let (mut hits, mut longest) = (0, Duration::ZERO);
    let mut dice = Dice::new(3);
    for _ in 0..KILLS {
        let mut agent = rig.start(&["--cut", "freeze", "--interval", "1s"]);
        agent.wait_until_protected();
        let _ = rig.pulse.longest();
        hits += u32::from(kill_while_it_holds(agent, &rig.pulse, Duration::from_micros(dice.below(40_000))));
        rig.pulse.goes_on(Duration::from_secs(10));
        longest = longest.max(rig.pulse.longest().write);
    }
    tell(&format!(
        "kills: {hits} of {KILLS} while writes were held; the writer's longest pause around them {longest:?}, alone {:?}",
        alone.write
    ));
    assert!(hits > 0, "no kill met a freeze");
    assert!(longest <= LIMIT + SLACK + alone.write, "{longest:?}");

    let mut agent = rig.start(&["--cut", "freeze", "--interval", "1s"]);
    agent.wait_until_protected();
    agent.wait_for_points(2);
    agent.terminate();
    let log = fs::read_to_string(&rig.setup.log).unwrap();
    let wrong: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rig.setup.points().len() > KILLS);
    let point = rig.top.point().to_str().unwrap();
    assert!(try_run("fsfreeze", &["--unfreeze", point]).is_err(), "it was frozen still");
}

/// Kills it `after` the first sign of a freeze; whether the writer was still held then.
fn kill_while_it_holds(agent: Agent, pulse: &Pulse, after: Duration) -> bool {
    wait_for_a_freeze(pulse);
    let kill_at = Instant::now() + after;
    while Instant::now() < kill_at {
        std::hint::spin_loop();
    }
    let held = pulse.waiting() >= HELD;
    agent.kill();
    held
}

fn wait_for_a_freeze(pulse: &Pulse) {
    let until = Instant::now() + Duration::from_secs(20);
    while pulse.waiting() < HELD {
        assert!(Instant::now() < until, "nothing was frozen any more");
        thread::sleep(Duration::from_micros(200));
    }
}

/// The one process that it has started.
fn guard_of(agent: &Agent) -> Pid {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let children: String = threads.map(of).collect();
    Pid::from_raw(children.trim().parse().expect("there is one guard")).unwrap()
}

#[test]
fn root_what_agent_and_guard_left_frozen_is_thawed_by_the_next_agent_though_it_lives_on_it() {
    let Some(rig) = RootRig::new() else { return };
    let mut agent = rig.start(&["--cut", "freeze", "--interval", "1s"]);
    agent.wait_until_protected();
    let (guard, log) = (guard_of(&agent), rig.setup.open_log());
    wait_for_a_freeze(&rig.pulse);
    // First so that neither notices that the other is gone.
    agent.signal(Signal::STOP);
    kill_process(guard, Signal::KILL).unwrap();
    agent.kill();
    let left = rig.pulse.waiting() >= HELD;
    let mut next = rig.start_with(&["--cut", "freeze", "--interval", "1s"], log);
    rig.pulse.goes_on(Duration::from_secs(10));
    next.wait_until_protected();
    next.wait_for_points(2);
    next.terminate();
    let log = fs::read_to_string(&rig.setup.log).unwrap();
    tell(&format!(
        "agent and guard killed together: {}",
        if left { "left frozen" } else { "not frozen any more" }
    ));
    assert_eq!(left, log.contains("it is thawed"), "{log}");
}

#[test]
fn root_a_stopped_agent_holds_nothing_beyond_the_limit_and_claims_no_freeze_that_was_over() {
    let Some(rig) = RootRig::new() else { return };
    eventually("the writer alone", Duration::from_secs(60), || (rig.pulse.count() > 300).then_some(()));
    let alone = rig.pulse.longest();
    let mut agent = rig.start(&["--cut", "freeze", "--interval", "1s"]);
    agent.wait_until_protected();
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let _ = rig.pulse.longest();
        wait_for_a_freeze(&rig.pulse);
        agent.signal(Signal::STOP);
        rig.pulse.goes_on(Duration::from_secs(10));
        longest = longest.max(rig.pulse.longest().write);
        agent.signal(Signal::CONT);
        agent.wait_for_points(1);
    }
    agent.terminate();
    rig.pulse.goes_on(Duration::from_secs(10));
    let points = rig.setup.points();
    let claimed = points.iter().filter(|point| point.cut("method") == "freeze");
    let lies: Vec<_> = claimed.filter(|point| !rig.pulse.was_held_at(point.time)).collect();
    tell(&format!("stopped agents: the writer's longest pause {longest:?}, alone {:?}", alone.write));
    assert!(longest <= LIMIT + SLACK + alone.write, "{longest:?}");
    assert!(lies.is_empty(), "nothing was frozen at their time: {lies:#?}");
}
