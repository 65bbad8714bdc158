//! `mobility-agent guard`: the process that thaws when the agent cannot; see `mobility_capture::freeze`.
//!
//! The agent starts it with a socket as its standard input. Deliberately not here: everything else.

use anyhow::Context;

/// Serves the agent that started this process until it is gone and nothing is left frozen.
pub(crate) fn run() -> anyhow::Result<()> {
    mobility_capture::freeze::guard_process()
        .context("the guard is started by the agent alone, with a socket as its standard input")
}
