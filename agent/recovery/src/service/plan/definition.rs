//! What a plan says: which machines, in which groups, and what is done before and after each.
//!
//! Deliberately not here: whether its machines are known and its programs are there, which may change after it was said.

use std::collections::BTreeSet;

use mobility_format::MachineId;
use serde::{Deserialize, Serialize};

use super::script;

/// Groups of a plan.
const MOST_GROUPS: usize = 64;
/// Machines of all its groups.
const MOST_MACHINES: usize = 1000;
/// Tasks of a group, before and after its machines together.
const MOST_TASKS: usize = 32;
/// The longest name, in bytes.
const MAX_NAME: usize = 64;
/// The longest text for a person, in bytes.
const MAX_TEXT: usize = 4096;
/// For how long a program may run, in seconds, unless it is said.
const LIMIT_S: u64 = 600;
const MOST_LIMIT_S: u64 = 86_400;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    /// One after the other.
    pub(crate) groups: Vec<Group>,
}

/// Machines that are failed over together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// What it is called, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// What is done before its machines are failed over, one after the other.
    #[serde(default)]
    pub(crate) before: Vec<Task>,
    pub(crate) machines: Vec<MachineId>,
    /// What is done when all of them are up.
    #[serde(default)]
    pub(crate) after: Vec<Task>,
}

/// What is done beside failing machines over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Task {
    /// A program of the service's host runs.
    Script {
        /// Its name in the directory that the configuration says.
        script: String,
        /// For how long it may run, in seconds.
        #[serde(default = "limit_s")]
        limit_s: u64,
    },
    /// A person does something, and confirms it.
    Manual {
        /// What.
        text: String,
    },
}

fn limit_s() -> u64 {
    LIMIT_S
}

impl Plan {
    /// Whether it makes sense; what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let count = self.groups.len();
        if !(1..=MOST_GROUPS).contains(&count) {
            return Err(format!("a plan has 1 to {MOST_GROUPS} groups, and this one {count}"));
        }
        check_text("the description", &self.description)?;
        let mut seen = BTreeSet::new();
        for (group, number) in self.groups.iter().zip(1..) {
            group.check().map_err(|problem| format!("group {number}: {problem}"))?;
            if let Some(twice) = group.machines.iter().find(|machine| !seen.insert(**machine)) {
                return Err(format!("group {number}: machine {twice} is in the plan twice"));
            }
        }
        match seen.len() {
            count if count > MOST_MACHINES => {
                Err(format!("a plan has {MOST_MACHINES} machines at most, and this one {count}"))
            }
            _ => Ok(()),
        }
    }

    /// All its machines, in order.
    pub(crate) fn machines(&self) -> impl Iterator<Item = MachineId> + '_ {
        self.groups.iter().flat_map(|group| group.machines.iter().copied())
    }

    /// The programs that it runs.
    pub(crate) fn scripts(&self) -> BTreeSet<&str> {
        let tasks = self.groups.iter().flat_map(|group| group.before.iter().chain(&group.after));
        tasks.filter_map(Task::script).collect()
    }
}

impl Group {
    fn check(&self) -> Result<(), String> {
        if self.machines.is_empty() {
            return Err("it has no machine".to_owned());
        }
        if self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return Err(format!("its name has {MAX_NAME} bytes at most, in one line"));
        }
        let tasks = self.before.len() + self.after.len();
        if tasks > MOST_TASKS {
            return Err(format!("it has {tasks} steps before and after, and {MOST_TASKS} is the most"));
        }
        self.before.iter().chain(&self.after).try_for_each(Task::check)
    }
}

impl Task {
    fn script(&self) -> Option<&str> {
        match self {
            Task::Script { script, .. } => Some(script),
            Task::Manual { .. } => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Task::Script { script, limit_s } => {
                script::check_name(script)?;
                match (1..=MOST_LIMIT_S).contains(limit_s) {
                    true => Ok(()),
                    false => Err(format!(
                        "script '{script}' has a limit of {limit_s} s, and it has to be from 1 to {MOST_LIMIT_S}"
                    )),
                }
            }
            Task::Manual { text } if text.trim().is_empty() => {
                Err("a manual step has to say what is to be done".to_owned())
            }
            Task::Manual { text } => check_text("the text of a manual step", text),
        }
    }
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    match text.len() <= MAX_TEXT {
        true => Ok(()),
        false => Err(format!("{what} has {MAX_TEXT} bytes at most, and this one {}", text.len())),
    }
}

/// Whether a plan may be called that.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(format!(
            "a plan's name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, and begins with no dot"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(machines: std::ops::Range<u16>) -> Group {
        let machine = |number: u16| {
            let [high, low] = number.to_be_bytes();
            MachineId([high, low, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        };
        let machines = machines.map(machine).collect();
        Group { name: String::new(), before: Vec::new(), machines, after: Vec::new() }
    }

    fn plan(groups: Vec<Group>) -> Plan {
        Plan { description: String::new(), groups }
    }

    fn with(task: Task) -> Plan {
        plan(vec![Group { after: vec![task], ..group(0..1) }])
    }

    fn script(script: &str, limit_s: u64) -> Task {
        Task::Script { script: script.to_owned(), limit_s }
    }

    fn manual(text: String) -> Task {
        Task::Manual { text }
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_with_a_reason() {
        let tasks = |count| (0..count).map(|_| manual("look".to_owned())).collect::<Vec<_>>();
        let at_the_limit = plan((0..64).map(|number| group(number * 15..number * 15 + 15)).collect());
        at_the_limit.check().unwrap();
        plan(vec![group(0..500), group(500..1000)]).check().unwrap();
        plan(vec![Group { before: tasks(16), after: tasks(16), ..group(0..1) }]).check().unwrap();
        with(script("fail-dns.sh", 86_400)).check().unwrap();
        let refused = [
            (plan(Vec::new()), "1 to 64 groups"),
            (plan((0..65).map(|number| group(number..number + 1)).collect()), "1 to 64 groups"),
            (plan(vec![group(0..1), group(1..1)]), "group 2: it has no machine"),
            (plan(vec![group(0..500), group(500..1001)]), "1000 machines at most"),
            (plan(vec![group(0..2), group(1..3)]), "in the plan twice"),
            (plan(vec![Group { before: tasks(16), after: tasks(17), ..group(0..1) }]), "32 is the most"),
            (plan(vec![Group { name: "a\nb".to_owned(), ..group(0..1) }]), "in one line"),
            (with(script("../../bin/sh", 1)), "'../../bin/sh'"),
            (with(script("a", 0)), "from 1 to 86400"),
            (with(script("a", 86_401)), "from 1 to 86400"),
            (with(manual(" ".to_owned())), "has to say"),
            (with(manual("x".repeat(4097))), "4096 bytes"),
        ];
        for (plan, hint) in refused {
            let problem = plan.check().unwrap_err();
            assert!(problem.contains(hint), "{problem}");
        }
    }

    #[test]
    fn a_plans_name_is_a_plain_one() {
        check_name("shop-1.eu_north").unwrap();
        for name in ["", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
