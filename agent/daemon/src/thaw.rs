//! `mobility-agent thaw`: thaws what an agent that is gone left frozen, as the next start of an agent would. For the service
//! manager, which may not start another one, and for operators.
//!
//! Deliberately not here: what an agent that runs has frozen, which is its own to thaw.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::{cli::ThawArgs, log, replicate, state_file};

pub(crate) fn run(args: &ThawArgs) -> anyhow::Result<()> {
    log::start(&ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
    match replicate::thaw_what_was_left(&state_file::runtime_dir(args.runtime_dir.as_deref())) {
        0 => Ok(()),
        failed => Err(anyhow::anyhow!("{failed} of the file systems may still be frozen"))
            .context("thaw them with `fsfreeze --unfreeze`"),
    }
}
