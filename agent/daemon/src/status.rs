//! `mobility-agent status`: what the running agents are doing, from the files they keep for it.
//!
//! Deliberately not here: any way to change what they do.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::{
    cli::StatusArgs,
    clock,
    exit::Failure,
    state_file::{self, State},
};

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let dir = state_file::runtime_dir(args.runtime_dir.as_deref());
    let not_running =
        || Failure::NotRunning(format!("no agent is running (none keeps its state in {})", dir.display()));
    let states = State::read_all(&dir).map_err(|_| not_running())?;
    let running: Vec<State> = states.into_iter().filter(State::is_running).collect();
    if running.is_empty() {
        return Err(not_running().into());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "agents": running }))?);
        return Ok(());
    }
    for state in &running {
        print!("{}", show(state, clock::wall()));
    }
    Ok(())
}

fn show(state: &State, now: Timestamp) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = describe(&mut out, state, now);
    out
}

fn describe(out: &mut String, state: &State, now: Timestamp) -> std::fmt::Result {
    writeln!(out, "machine      {} (process {})", state.machine, state.pid)?;
    match &state.vault {
        Some(vault) => writeln!(out, "vault        {}", vault.display())?,
        None => writeln!(out, "vault        none; a recovery service keeps the points")?,
    }
    writeln!(out, "state        {}, generation {}, epoch {}", state.phase, state.generation, state.epoch)?;
    match &state.last_point {
        None => writeln!(out, "last point   none yet")?,
        Some(point) => {
            let age = now.duration_since(point.time).as_secs();
            let (consistency, cut) = (point.consistency.name(), &point.cut);
            writeln!(
                out,
                "last point   epoch {}, {consistency}, {age} s ago; {} changed, {}/s; of {}",
                point.epoch, point.changed, cut.dirty_rate, cut.t0
            )?;
            writeln!(
                out,
                "cut          {}, window {} µs, try {}, writes held for {} µs",
                cut.method.name(),
                cut.window_us,
                cut.tries,
                cut.held_us
            )?;
            if let Some(reason) = &cut.reason {
                writeln!(out, "             {consistency}, because {reason}")?;
            }
        }
    }
    writeln!(out, "interval     {} s", state.interval_s)?;
    writeln!(
        out,
        "churn        {}/s, {} to send, {} sent",
        state.churn_per_s, state.backlog, state.uploaded
    )?;
    for disk in &state.disks {
        writeln!(
            out,
            "disk         {} ({}, {}): {}",
            disk.path.display(),
            disk.size,
            disk.capture,
            disk.state
        )?;
        if disk.remaining.0 > 0 {
            writeln!(out, "             {} left to compare or send", disk.remaining)?;
        }
        if let Some(reason) = &disk.resync_reason {
            writeln!(out, "             because {reason}")?;
        }
        if let Some(problem) = &disk.problem {
            writeln!(out, "             {problem}")?;
        }
        writeln!(
            out,
            "             missed blocks: {} of {} checked",
            disk.missed_blocks, disk.audited_blocks
        )?;
    }
    if let Some(outage) = &state.outage {
        writeln!(out, "storage      failing since {:.0}: {}", outage.since, outage.message)?;
    }
    if let Some(error) = &state.last_error {
        writeln!(out, "last error   {:.0}: {}", error.since, error.message)?;
    }
    Ok(())
}
