//! Whose sessions may begin while a machine is failed over: a machine and what was made of its disks share an identity, and only
//! one of them may write.
//!
//! They are told apart by their hardware, which an agent reports and which a failover gives the new machine anew. Deliberately not
//! here: telling apart what was copied behind our back (`database::sessions`).

use mobility_format::SessionId;
use serde::{Deserialize, Serialize};

/// Hardware that is remembered to be fenced. A machine is failed over a few times in its life.
const MOST_FENCED: usize = 64;

/// Whose sessions may begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gate {
    /// Hardware that was the machine before it was failed over, and is not any more.
    #[serde(default)]
    pub(crate) fenced: Vec<String>,
    /// Where it is not decided yet which one is the real one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Held>,
}

/// While it is not decided which one is the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// By which failover.
    pub(crate) failover: String,
    /// The only hardware that may go on; none where nobody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<String>,
    /// The session that goes on when the machine is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<SessionId>,
}

/// What becomes of an agent that wants to begin a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It may.
    Free,
    /// It may ask again later.
    Later,
    /// It may not, ever: another machine goes on with its identity.
    Never,
}

impl Gate {
    /// What becomes of an agent on this hardware.
    pub(crate) fn passage(&self, hardware: &str) -> Passage {
        if self.fenced.iter().any(|fenced| fenced == hardware) {
            return Passage::Never;
        }
        match &self.held {
            Some(held) if held.only.as_deref() != Some(hardware) => Passage::Later,
            _ => Passage::Free,
        }
    }

    /// As it is when this failover does not hold the machine any more.
    #[must_use]
    pub(crate) fn released(mut self, failover: &str) -> Gate {
        self.held = self.held.filter(|held| held.failover != failover);
        self
    }

    /// As it is when the machine is somewhere else for good, and not on this hardware any more.
    #[must_use]
    pub(crate) fn moved(mut self, failover: &str, from: Option<&str>) -> Gate {
        if let Some(from) = from.filter(|from| !self.fenced.iter().any(|fenced| fenced == from)) {
            self.fenced.push(from.to_owned());
            let surplus = self.fenced.len().saturating_sub(MOST_FENCED);
            self.fenced.drain(..surplus);
        }
        self.released(failover)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(only: Option<&str>) -> Gate {
        let held = Held { failover: "f".to_owned(), only: only.map(str::to_owned), session: None };
        Gate { fenced: vec!["before".to_owned()], held: Some(held) }
    }

    #[test]
    fn one_of_two_machines_with_one_identity_may_write() {
        let moved = held(None).moved("f", Some("here"));
        let table = [
            (Gate::default(), Passage::Free, Passage::Free),
            (held(None), Passage::Later, Passage::Later),
            (held(Some("here")), Passage::Free, Passage::Later),
            (held(None).released("f"), Passage::Free, Passage::Free),
            (held(None).released("another"), Passage::Later, Passage::Later),
            (moved.clone(), Passage::Never, Passage::Free),
        ];
        for (gate, here, there) in table {
            assert_eq!((gate.passage("here"), gate.passage("there")), (here, there), "{gate:?}");
        }
        assert_eq!(held(Some("before")).passage("before"), Passage::Never, "what was fenced stays fenced");
        assert_eq!(moved.clone().moved("f", Some("here")), moved, "asked for twice");
    }
}
