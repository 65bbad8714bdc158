//! What came of looking at a machine's disks: what was changed in which file, and what was found that could not be.
//!
//! Deliberately not here: finding it.

use serde::{Deserialize, Serialize};

/// Things that are said of one machine.
const MOST: usize = 200;
/// How much is said of one change, in bytes.
const LONGEST: usize = 2000;

/// A change of a file on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// The file, as the machine sees it.
    pub(crate) file: String,
    /// Those of its lines that are gone.
    pub(crate) was: String,
    /// Those that are there instead.
    pub(crate) now: String,
}

impl Change {
    /// What differs between a file's content before and after.
    pub(super) fn between(file: &str, before: &str, after: &str) -> Change {
        let lines = |text: &str, other: &str| {
            let there: std::collections::BTreeSet<&str> = other.lines().collect();
            let only: Vec<&str> = text.lines().filter(|line| !there.contains(line)).collect();
            shortened(only.join("\n"))
        };
        Change { file: file.to_owned(), was: lines(before, after), now: lines(after, before) }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push_str(" ...");
    }
    text
}

/// What was found, and is said to whoever fails the machine over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings(Vec<String>);

impl Findings {
    /// Adds one, once.
    pub(super) fn add(&mut self, finding: impl Into<String>) {
        let finding = shortened(finding.into());
        if self.0.len() < MOST && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn all(&self) -> &[String] {
        &self.0
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Report {
    /// Which system it is.
    pub(in super::super) system: String,
    /// What was changed, or would be where nothing may be.
    pub(in super::super) changes: Vec<Change>,
    pub(in super::super) findings: Vec<String>,
}

impl Report {
    /// Nothing was looked at; why.
    pub(in super::super) fn nothing(why: impl Into<String>) -> Report {
        Report { findings: vec![why.into()], ..Report::default() }
    }

    pub(super) fn new(system: String, mut changes: Vec<Change>, found: Findings) -> Report {
        changes.truncate(MOST);
        Report { system, changes, findings: found.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_which_lines() {
        let change = Change::between("/etc/fstab", "# a\n/dev/sda1 /\nend\n", "# a\nUUID=1 /\nend\n");
        assert_eq!((change.was.as_str(), change.now.as_str()), ("/dev/sda1 /", "UUID=1 /"));
        assert_eq!(Change::between("/new", "", "x\n").was, "");
    }

    #[test]
    fn what_is_said_has_an_end() {
        let mut found = Findings::default();
        for number in 0..3 * MOST {
            found.add("é".repeat(LONGEST) + &number.to_string());
            found.add(number.to_string());
        }
        assert_eq!(found.all().len(), MOST - 1 + 1);
        assert!(found.all().iter().all(|finding| finding.len() <= LONGEST + 4));
    }
}
