//! What a plan run is made of.
//!
//! Deliberately not here: how a step is done (`steps`), and which is next (`record`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Runs a program, before or after the group's machines are failed over.
    Script { when: When, script: String, limit_s: u64 },
    /// Waits for a person.
    Manual { when: When, text: String },
    /// Fails the group's machines over.
    FailOver,
    /// Commits their failovers.
    Commit,
    /// Undoes their failovers.
    Cancel,
}

/// When, as seen from failing the group's machines over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum When {
    Before,
    After,
}

impl When {
    /// The word for it, as it is written everywhere.
    pub(crate) fn name(self) -> &'static str {
        match self {
            When::Before => "before",
            When::After => "after",
        }
    }
}

/// A step and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// In which group, from 1.
    pub(crate) group: usize,
    #[serde(flatten)]
    pub(crate) work: Work,
    /// How often it was begun.
    #[serde(default)]
    pub(crate) tries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Timestamp>,
    /// What came of it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) result: String,
    /// The end of what it printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) output: String,
}

impl Step {
    /// One that was not begun.
    pub(super) fn new(group: usize, work: Work) -> Step {
        let (result, output) = (String::new(), String::new());
        Step { group, work, tries: 0, began: None, ended: None, result, output }
    }

    /// What it is, for people.
    pub(crate) fn name(&self) -> String {
        let what = match &self.work {
            Work::Script { script, .. } => format!("script {script}"),
            Work::Manual { .. } => "manual step".to_owned(),
            Work::FailOver => "fail the machines over".to_owned(),
            Work::Commit => "commit the machines".to_owned(),
            Work::Cancel => "undo the machines".to_owned(),
        };
        format!("group {}: {what}", self.group)
    }
}
