//! What the agent says of itself, in the words of a status.
//!
//! From `mobility-agent status --json`, of which only what is shown is looked at: the agent may be newer or older than this
//! program. Deliberately not here: asking for it.

use jiff::Timestamp;
use serde_json::Value;

use crate::report::{Level, Part, Report};

/// What to report of a running agent.
pub(crate) fn of(status: &Value, now: Timestamp) -> Report {
    let agents = status["agents"].as_array().map_or(&[][..], Vec::as_slice);
    // Somebody may run another one, in debug mode.
    let Some(agent) = agents.iter().find(|agent| agent["vault"].is_null()).or(agents.first()) else {
        return Report::new(Level::Error, "the agent says nothing about itself");
    };
    let disks = agent["disks"].as_array().map_or(&[][..], Vec::as_slice);
    let mut report = Report::new(Level::Success, summary(agent, disks, now));
    if let Some(outage) = agent["outage"]["message"].as_str() {
        report.ready = false;
        report.parts.push(Part {
            name: "service".to_owned(),
            level: Level::Warning,
            message: outage.to_owned(),
        });
    }
    report.parts.extend(disks.iter().map(disk));
    report
}

fn summary(agent: &Value, disks: &[Value], now: Timestamp) -> String {
    let state = |disk: &Value, wanted: &str| disk["state"] == *wanted;
    let protected = disks.iter().filter(|disk| state(disk, "protected")).count();
    let point = agent["last_point"]["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let point = match point {
        Some(time) => format!("newest point {} s old", now.duration_since(time).as_secs().max(0)),
        None => "no point yet".to_owned(),
    };
    let remaining: u64 = disks.iter().filter_map(|disk| disk["remaining"].as_u64()).sum();
    let left = match remaining {
        0 => String::new(),
        bytes => format!(", {} MiB left to compare or send", bytes.div_ceil(1 << 20)),
    };
    let machine = agent["machine"].as_str().unwrap_or("unknown");
    format!("machine {machine}: {protected} of {} disks protected, {point}{left}", disks.len())
}

fn disk(disk: &Value) -> Part {
    let state = disk["state"].as_str().unwrap_or("unknown");
    let level = match state {
        "protected" => Level::Success,
        "initial-replication" | "resync" => Level::Transitioning,
        _ => Level::Warning,
    };
    let mut message = state.to_owned();
    let remaining = disk["remaining"].as_u64().unwrap_or(0);
    if let (Some(size @ 1..), 1..) = (disk["size"].as_u64(), remaining) {
        let done = 100 * u128::from(size.saturating_sub(remaining)) / u128::from(size);
        message.push_str(&format!(", {done} %"));
    }
    for more in ["resync_reason", "problem"] {
        if let Some(text) = disk[more].as_str() {
            message.push_str(&format!("; {text}"));
        }
    }
    if disk["missed_blocks"].as_u64().is_some_and(|missed| missed > 0) {
        message.push_str("; blocks had changed unseen");
    }
    Part { name: format!("disk {}", disk["path"].as_str().unwrap_or("unknown")), level, message }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_running_agent_is_success_and_says_how_far_it_is() {
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        let status = json!({"agents": [{"vault": "/v"}, {
            "vault": null, "machine": "ab", "last_point": {"time": "2026-01-01T00:00:08Z"}, "outage": null,
            "disks": [
                {"path": "/dev/sda", "state": "protected", "remaining": 0, "size": 4096},
                {"path": "/dev/sdb", "state": "initial-replication", "remaining": 3145728, "size": 4194304},
            ],
        }]});
        let report = of(&status, now);
        assert_eq!(
            report.message,
            "machine ab: 1 of 2 disks protected, newest point 12 s old, 3 MiB left to compare or send"
        );
        assert!(report.ready && report.level == Level::Success);
        assert_eq!(report.parts[1].message, "initial-replication, 25 %");
        assert_eq!(report.parts[1].level, Level::Transitioning);
    }

    #[test]
    fn an_outage_is_no_failure_and_yet_not_ready() {
        let status = json!({"agents": [{"disks": [{"state": "gone", "problem": "it was unplugged"}],
            "outage": {"message": "no answer"}}]});
        let report = of(&status, Timestamp::UNIX_EPOCH);
        assert!(!report.ready && report.level == Level::Success);
        assert_eq!((report.parts[0].level, report.parts[1].level), (Level::Warning, Level::Warning));
        assert_eq!(of(&json!({}), Timestamp::UNIX_EPOCH).level, Level::Error);
        assert_eq!(of(&json!({"agents": [7]}), Timestamp::UNIX_EPOCH).level, Level::Success);
    }
}
