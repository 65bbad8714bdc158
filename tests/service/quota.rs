//! What one machine may take of target storage.
//!
//! Deliberately not here: how the rest of a policy is followed.

use std::path::Path;

use mobility_format::control::ErrorCode;
use reqwest::StatusCode;
use serde_json::Value;

use crate::{
    agent::Agent,
    commits::{newest_point_is, ready, taken_in},
    rig::{Rig, wait_for},
};

/// What the files below a directory take.
fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(
            |entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() },
        )
        .sum()
}

fn shown(rig: &Rig, agent: &Agent) -> Value {
    rig.admin(&["machine", "show", &agent.machine.to_string()])
}

fn set_quota(rig: &Rig, bytes: u64) {
    rig.admin(&["policy", "set", "default", "--quota", &bytes.to_string()]);
}

fn kinds(rig: &Rig, agent: &Agent) -> Vec<String> {
    let events = rig.admin(&["event", "list", "--machine", &agent.machine.to_string()]);
    let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
    events["events"].as_array().unwrap().iter().map(kind).collect()
}

#[test]
fn what_a_quota_leaves_no_room_for_waits_and_nothing_older_goes() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    for epoch in 1..=3 {
        agent.write(20);
        agent.commit();
        taken_in(&rig, &agent, epoch);
    }
    let before = agent.disks.iter().map(|disk| disk.content.clone()).collect::<Vec<_>>();
    let head = agent.head.clone();
    // Whatever it is set to, it is looked how much there is.
    set_quota(&rig, 1 << 40);
    let folder = rig.data().join("storage/target").join(agent.machine.to_string());
    wait_for("what is stored to be measured", || {
        (shown(&rig, &agent)["stored"].as_u64()? == size(&folder)).then_some(())
    });

    set_quota(&rig, size(&folder) + 100_000);
    agent.write(100);
    agent.commit();
    wait_for("the quota to be noticed", || (shown(&rig, &agent)["over_quota"] == true).then_some(()));
    let refused = agent.try_grants(1, agent.next_epoch(), 1).unwrap_err();
    assert_eq!((refused.status, refused.code), (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::QuotaExceeded));
    let resync = agent.try_generation().unwrap_err();
    assert_eq!(resync.code, ErrorCode::QuotaExceeded, "what waits would be lost");
    assert!(agent.try_heartbeat().is_ok(), "it is heard all the same");
    assert_eq!(shown(&rig, &agent)["taken_in"], 3);
    let now = agent.disks.iter_mut().zip(before).map(|(disk, old)| std::mem::replace(&mut disk.content, old));
    let (now, head_now) = (now.collect::<Vec<_>>(), std::mem::replace(&mut agent.head, head));
    newest_point_is(&rig, &agent);

    agent.disks.iter_mut().zip(now).for_each(|(disk, content)| disk.content = content);
    agent.head = head_now;
    set_quota(&rig, 1 << 40);
    taken_in(&rig, &agent, 4);
    newest_point_is(&rig, &agent);
    wait_for("room to be noticed", || (shown(&rig, &agent)["over_quota"] == false).then_some(()));
    agent.write(5);
    agent.commit();
    taken_in(&rig, &agent, 5);
    let kinds = kinds(&rig, &agent);
    for kind in ["quota-exceeded", "quota-kept"] {
        assert_eq!(kinds.iter().filter(|is| *is == kind).count(), 1, "{kind}: {kinds:?}");
    }
    let counted = shown(&rig, &agent)["stored"].as_u64().unwrap();
    let (least, most) = (size(&folder) * 9 / 10, size(&folder) * 11 / 10);
    assert!((least..=most).contains(&counted), "{counted} counted, {least} to {most} expected");
}
