//! The report of a plan run, for people: what was measured, each step with its time, each machine with its point.
//!
//! Deliberately not here: asking for it (`plan`).

use std::fmt::Write;

use serde_json::Value;

use super::{
    service::{list, text},
    table::{Align, render as table},
};

/// Lines of a program's output that are shown; all that is kept of it is in the report's JSON.
const LINES: usize = 20;

/// The report as it is printed.
pub(super) fn render(report: &Value) -> String {
    let mut out = String::new();
    let machines = list(report, "machines");
    writeln!(
        out,
        "run {} of plan '{}' ({}, {}): {}",
        text(&report["run"]),
        text(&report["plan"]),
        text(&report["kind"]),
        text(&report["wanted"]),
        text(&report["phase"])
    )
    .ok();
    writeln!(
        out,
        "asked {}, {} of {} machines up",
        text(&report["asked"]),
        report["machines_up"],
        machines.len()
    )
    .ok();
    writeln!(
        out,
        "RTO {}, RPO {}, from the oldest point to the newest {}",
        seconds(&report["rto_ms"]),
        seconds(&report["rpo_ms"]),
        seconds(&report["spread_ms"])
    )
    .ok();
    out.push('\n');
    out += &steps(list(report, "steps"));
    out.push('\n');
    out += &of_machines(machines);
    for step in list(report, "steps").iter().filter(|step| !step["output"].is_null()) {
        writeln!(out, "\n{} of group {} printed:", what(step), step["group"]).ok();
        let output = text(&step["output"]);
        let lines: Vec<_> = output.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            writeln!(out, "  {line}").ok();
        }
    }
    if !report["hint"].is_null() && report["hint"] != "" {
        writeln!(out, "\n{}", text(&report["hint"])).ok();
    }
    out
}

fn steps(steps: &[Value]) -> String {
    let head = [
        ("GROUP", Align::Left),
        ("STEP", Align::Left),
        ("BEGAN", Align::Left),
        ("ENDED", Align::Left),
        ("TOOK", Align::Right),
        ("RESULT", Align::Left),
    ];
    let row = |step: &Value| {
        let group = match step["group_name"].as_str() {
            Some(name) if !name.is_empty() => format!("{} {name}", step["group"]),
            _ => step["group"].to_string(),
        };
        let result = text(&step["result"]);
        [
            group,
            what(step),
            text(&step["began"]),
            text(&step["ended"]),
            seconds(&step["took_ms"]),
            result.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    table(head, &steps.iter().map(row).collect::<Vec<_>>())
}

fn of_machines(machines: &[Value]) -> String {
    let head = [
        ("GROUP", Align::Left),
        ("MACHINE", Align::Left),
        ("FAILOVER", Align::Left),
        ("TO", Align::Left),
        ("STATE", Align::Left),
        ("POINT", Align::Left),
        ("OF", Align::Left),
        ("RPO", Align::Right),
        ("RTO", Align::Right),
        ("DISKS", Align::Left),
    ];
    let row = |machine: &Value| {
        let root = |disk: &Value| {
            let root = text(&disk["root"]);
            format!("{} {}", text(&disk["name"]), root.get(..12).unwrap_or(&root))
        };
        [
            machine["group"].to_string(),
            text(&machine["name"]),
            text(&machine["failover"]),
            text(&machine["place"]),
            text(&machine["phase"]),
            text(&machine["point"]["id"]),
            text(&machine["point"]["time"]),
            seconds(&machine["rpo_ms"]),
            seconds(&machine["rto_ms"]),
            list(machine, "disks").iter().map(root).collect::<Vec<_>>().join(", "),
        ]
    };
    table(head, &machines.iter().map(row).collect::<Vec<_>>())
}

/// What is done now, in one line.
pub(super) fn current(run: &Value) -> String {
    let step = list(run, "steps").iter().find(|step| step["ended"].is_null());
    let Some(step) = step else { return format!("plan run {}", text(&run["phase"])) };
    let mut line = format!("group {}: {}", step["group"], what(step));
    if matches!(step["step"].as_str(), Some("fail-over" | "commit" | "cancel")) {
        let of = |machine: &&Value| machine["group"] == step["group"];
        let states = list(run, "machines")
            .iter()
            .filter(of)
            .map(|machine| format!("{} {}", text(&machine["name"]), text(&machine["phase"])));
        write!(line, ": {}", states.collect::<Vec<_>>().join(", ")).ok();
    }
    line
}

/// What a step does, in a few words.
fn what(step: &Value) -> String {
    match step["step"].as_str() {
        Some("script") => format!("script {}", text(&step["script"])),
        Some("manual") => {
            let line = text(&step["text"]);
            format!(
                "manual: {}",
                line.lines().next().unwrap_or_default().chars().take(40).collect::<String>()
            )
        }
        Some("fail-over") => "fail over".to_owned(),
        Some("cancel") => "undo".to_owned(),
        _ => text(&step["step"]),
    }
}

fn seconds(millis: &Value) -> String {
    millis.as_f64().map_or_else(|| "-".to_owned(), |millis| format!("{:.1} s", millis / 1e3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_shows_steps_machines_and_what_was_measured() {
        let report = json!({
            "run": "00ff", "plan": "shop", "kind": "test", "wanted": "latest", "phase": "failed",
            "asked": "2026-11-22T23:57:00Z", "machines_up": 1, "hint": "mend that",
            "rto_ms": 65_400, "rpo_ms": 15_000, "spread_ms": null,
            "steps": [
                { "group": 1, "group_name": "data", "step": "fail-over", "took_ms": 61_000, "result": "1 of 1" },
                { "group": 1, "group_name": "data", "step": "script", "script": "dns", "result": "bad\nworse",
                  "output": (0..30).map(|line| format!("line {line}\n")).collect::<String>() },
            ],
            "machines": [{ "group": 1, "name": "db1", "phase": "ready", "rpo_ms": 15_000,
                           "disks": [{ "name": "vda", "root": "0123456789abcdef" }] }],
        });
        let shown = render(&report);
        for part in [
            "run 00ff of plan 'shop' (test, latest): failed",
            "1 of 1 machines up",
            "RTO 65.4 s, RPO 15.0 s, from the oldest point to the newest -",
            "1 data",
            "61.0 s",
            "script dns of group 1 printed:",
            "  line 29",
            "vda 0123456789ab",
            "mend that",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("worse") && !shown.contains("line 9\n"), "{shown}");
    }
}
