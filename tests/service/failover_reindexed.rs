//! The database is lost while machines are failed over, and rebuilt from what is stored: each failover is as far as it was.
//!
//! Deliberately not here: the rest of what comes back (`targets`, `service_stores/reindexed.rs`).

use std::{fs, time::Duration};

use mobility_format::control::ErrorCode;

use crate::{
    agent::Agent,
    commits::{ready, taken_in},
    database::rebuild,
    failover::{Failover, begin, images_are, place, rig},
    rig::Rig,
};

fn machine(rig: &Rig, seed: u64, blocks: u64) -> (Agent, Vec<Vec<u8>>) {
    let mut agent = ready(rig, seed);
    agent.add_disk("large", 20_000);
    agent.write(blocks);
    agent.commit();
    taken_in(rig, &agent, 1);
    let held = agent.disks.iter().map(|disk| disk.content.clone()).collect();
    (agent, held)
}

#[test]
fn a_failover_that_was_under_way_is_under_way() {
    let mut rig = rig();
    let machines: Vec<_> = (1..=3).map(|seed| machine(&rig, seed, 50)).collect();
    let start = |number: usize, arguments: &[&str]| begin(&rig, &machines[number].0, arguments).id;
    // One waits for somebody to decide, one was decided, and one went wrong.
    let waits = start(0, &["--kind", "unplanned"]);
    let decided = start(1, &["--kind", "unplanned"]);
    let wrong = start(2, &["--kind", "test", "--point", "2001-01-01T00:00:00Z"]);
    let over = |id: &str| Failover { rig: &rig, id: id.to_owned() };
    let before = over(&waits).rests("ready");
    over(&decided).rests("ready");
    over(&decided).act(&["commit"], "committed");
    over(&wrong).rests("failed");
    rig.stop();
    let said = rebuild(&mut rig);
    assert_eq!((said["failovers"].as_u64(), &said["problems"]), (Some(3), &serde_json::json!([])));

    let over = |id: &str| Failover { rig: &rig, id: id.to_owned() };
    let shown = over(&waits).rests("ready");
    for field in ["machine", "chosen", "disks", "kind", "place", "holds_point", "asked", "took_ms"] {
        assert_eq!(shown[field], before[field], "{field}");
    }
    let [mut first, mut second, mut third]: [_; 3] = machines.try_into().ok().unwrap();
    images_are(&shown, &first.0, &first.1);
    // Which one goes on is as undecided as it was, and a second failover is refused.
    assert_eq!(first.0.try_session().unwrap_err().code, ErrorCode::NotYet);
    let other = rig.try_admin(&["failover", "start", &first.0.machine.to_string(), "--kind", "test"]);
    assert!(other.unwrap_err().contains("being failed over already"));
    over(&waits).act(&["cancel"], "cancelled");
    first.0.restart();

    assert_eq!(second.0.try_session().unwrap_err().code, ErrorCode::NotYet);
    over(&decided).rests("committed");
    let refused = rig.try_admin(&["failover", "cancel", &decided]).unwrap_err();
    assert!(refused.contains("committed"), "{refused}");
    over(&decided).act(&["remove"], "removed");
    second.0.restart();

    let shown = over(&wrong).act(&["change-point", "--point", "latest"], "ready");
    images_are(&shown, &third.0, &third.1);
    over(&wrong).act(&["cancel"], "cancelled");
    third.0.restart();
    assert!(fs::read_dir(place(rig.data().parent().unwrap())).unwrap().next().is_none());

    // What has come to its end is not brought back.
    rig.stop();
    assert_eq!(rebuild(&mut rig)["failovers"], 0);
    assert_eq!(rig.admin(&["failover", "list"])["failovers"], serde_json::json!([]));
}

#[test]
fn killed_in_the_middle_and_without_its_database_it_comes_to_its_end() {
    let mut rig = rig();
    let (mut agent, held) = machine(&rig, 1, 4000);
    for pause in [0, 150, 400, 800] {
        let id = begin(&rig, &agent, &["--kind", "unplanned"]).id;
        // How long it runs is what differs here.
        std::thread::sleep(Duration::from_millis(pause));
        rig.kill();
        assert_eq!(rebuild(&mut rig)["failovers"], 1);
        let over = Failover { rig: &rig, id };
        images_are(&over.rests("ready"), &agent, &held);
        assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::NotYet);
        over.act(&["cancel"], "cancelled");
        agent.restart();
        assert!(fs::read_dir(place(rig.data().parent().unwrap())).unwrap().next().is_none());
    }
}
