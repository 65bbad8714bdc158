//! How libvirt has a machine, from its words.
//!
//! Deliberately not here: asking it (`virsh`).

/// How libvirt has a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Off,
    On,
    /// It is on, and goes on no more; why.
    Halted(String),
}

impl State {
    /// What a domain's state means, with its reason in parentheses.
    pub(super) fn understood(state: &str) -> State {
        let (state, reason) = state.split_once(" (").unwrap_or((state, ""));
        match (state, reason.trim_end_matches(')')) {
            ("shut off", _) => State::Off,
            // Others are about to go on, or somebody wanted it so.
            ("paused", reason @ ("I/O error" | "watchdog" | "crashed" | "post-copy failed")) => {
                State::Halted(format!("libvirt has paused it: {reason}"))
            }
            ("crashed", _) => State::Halted("libvirt says that it has crashed".to_owned()),
            _ => State::On,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_understood() {
        let halted = |why: &str| State::Halted(format!("libvirt has paused it: {why}"));
        let table = [
            ("running (booted)", State::On),
            ("in shutdown (unknown)", State::On),
            ("paused (user)", State::On),
            ("paused (starting up)", State::On),
            ("paused (I/O error)", halted("I/O error")),
            ("crashed (panicked)", State::Halted("libvirt says that it has crashed".to_owned())),
            ("shut off (destroyed)", State::Off),
            ("shut off (unknown)", State::Off),
        ];
        for (said, expected) in table {
            assert_eq!(State::understood(said), expected, "{said}");
        }
    }
}
