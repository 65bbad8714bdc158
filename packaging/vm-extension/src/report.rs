//! What the guest agent reads: the status of a sequence number, and the heartbeat.
//!
//! It parses both by the letter and cuts what is too long, so everything is bounded here. Deliberately not here: what is worth
//! reporting (`health`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{environment::Environment, failure::Failure, files::replace};

/// The longest message, in characters; the guest agent cuts what is longer than 1024.
const LONGEST: usize = 1000;
const LONGEST_NAME: usize = 100;
/// The most parts of a status: with these and the longest messages the file stays below the 128 KiB that are read.
const MOST_PARTS: usize = 24;

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Transitioning,
    Success,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Transitioning => "transitioning",
            Level::Success => "success",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One thing among several that a status is about, such as a disk.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) message: String,
}

/// What to report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) level: Level,
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) parts: Vec<Part>,
    /// Whether the agent works.
    pub(crate) ready: bool,
}

impl Report {
    pub(crate) fn new(level: Level, message: impl Into<String>) -> Report {
        Report { level, code: 0, message: message.into(), parts: Vec::new(), ready: level == Level::Success }
    }

    pub(crate) fn of(failure: &Failure) -> Report {
        Report { code: failure.code(), ..Report::new(Level::Error, failure.message.clone()) }
    }

    /// Writes the status of `sequence`, whose texts have been through `hide`.
    pub(crate) fn write_status(
        &self,
        environment: &Environment,
        sequence: &str,
        operation: &str,
        hide: impl Fn(&str) -> String,
    ) -> Result<(), Failure> {
        let parts = self.parts.iter().take(MOST_PARTS).map(|part| {
            let name = shortened(&hide(&part.name), LONGEST_NAME);
            json!({"name": name, "status": part.level.name(), "code": 0, "formattedMessage": message(&hide(&part.message))})
        });
        let status = json!([{"version": "1.0", "timestampUTC": now(), "status": {
            "name": "MobilityAgentLinux",
            "operation": operation,
            "status": self.level.name(),
            "code": self.code,
            "formattedMessage": message(&hide(&self.message)),
            "substatus": parts.collect::<Vec<_>>(),
        }}]);
        let path = environment.status.join(format!("{sequence}.status"));
        replace(&path, status.to_string().as_bytes(), false)
            .map_err(|err| Failure::other(path.display(), err))
    }

    /// Writes the heartbeat.
    pub(crate) fn write_heartbeat(
        &self,
        environment: &Environment,
        hide: impl Fn(&str) -> String,
    ) -> Result<(), Failure> {
        let heartbeat = json!([{"version": "1.0", "heartbeat": {
            "status": if self.ready { "Ready" } else { "NotReady" },
            "code": self.code,
            "formattedMessage": message(&hide(&self.message)),
        }}]);
        let path = &environment.heartbeat;
        replace(path, heartbeat.to_string().as_bytes(), false)
            .map_err(|err| Failure::other(path.display(), err))
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn message(text: &str) -> Value {
    json!({"lang": "en-US", "message": shortened(text, LONGEST)})
}

fn shortened(text: &str, longest: usize) -> String {
    let plain = text.trim().replace(|c: char| c.is_control(), " ");
    match plain.char_indices().nth(longest) {
        Some((at, _)) => format!("{} …", &plain[..at]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_status_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let [logs, config, status, heartbeat] = ["", "", "", "heartbeat"].map(|name| dir.path().join(name));
        let environment = Environment { base: dir.path().to_owned(), logs, config, status, heartbeat };
        let long = "\"é\u{1}\n".repeat(5000);
        let mut report = Report::new(Level::Success, long.clone());
        let part = || Part { name: long.clone(), level: Level::Warning, message: long.clone() };
        report.parts = std::iter::repeat_with(part).take(500).collect();
        report.write_status(&environment, "7", "Enable", str::to_owned).unwrap();
        report.write_heartbeat(&environment, str::to_owned).unwrap();
        let text = std::fs::read_to_string(dir.path().join("7.status")).unwrap();
        assert!(text.len() < 128 << 10, "{} bytes", text.len());
        let value: Value = serde_json::from_str(&text).unwrap();
        let shown = value[0]["status"]["formattedMessage"]["message"].as_str().unwrap();
        assert!(shown.chars().count() <= 1024 && shown.ends_with('…'));
    }
}
