//! What every setting may be: its default, its least and its most.
//!
//! Deliberately not here: the default of what the engine knows itself (`mobility_engine::Limits`).

use std::time::Duration;

use mobility_engine::Limits;
use mobility_format::ByteCount;

use super::{
    fragment::Fragment,
    settings::{ScriptSettings, ServiceSettings},
};
use crate::{
    exit::Failure,
    manager,
    service::{DEFAULT_STATE_DIR, Options, ProxySettings},
    stop::StopSettings,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The shortest and the longest interval between recovery points.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), DAY);
/// The same between application-consistent ones: each of them interrupts what runs.
const APPLICATION_INTERVAL: (Duration, Duration) = (Duration::from_secs(10), DAY.saturating_mul(30));
/// How long writes may be held.
const FREEZE_LIMIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));
/// How long one round of the audit may take.
const AUDIT_ROUND: (Duration, Duration) = (Duration::from_secs(1), DAY.saturating_mul(366));
/// How long each call of a script may take.
const SCRIPT_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
const SCRIPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// For how long grants to upload may be kept ahead.
const GRANTS_AHEAD: (Duration, Duration) = (Duration::from_secs(60), DAY);
/// How long it may take until all that writes on the machine was stopped.
const STOP_LIMIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
const STOP_LIMIT_DEFAULT: Duration = Duration::from_secs(300);
/// Units that can be kept by name.
const MOST_KEPT: usize = 64;
/// Where scripts are unless told otherwise.
const SCRIPTS: &str = "/etc/mobility-agent/scripts.d";

/// The engine's limits.
pub(super) fn limits(fragment: &Fragment) -> Result<Limits, Failure> {
    let default = Limits::default();
    let given = &fragment.limits;
    let limits = Limits {
        interval: fragment.interval.unwrap_or(default.interval),
        cut_bytes: given.cut_size.unwrap_or(default.cut_bytes),
        tries: given.cut_tries.unwrap_or(default.tries),
        cut_policy: fragment.cut.map_or(default.cut_policy, Into::into),
        freeze_limit: given.freeze_limit.unwrap_or(default.freeze_limit),
        freeze_bytes: given.freeze_size.unwrap_or(default.freeze_bytes),
        application_interval: fragment.app_consistent_interval.or(default.application_interval),
        passes: given.copy_passes.unwrap_or(default.passes),
        checkpoint_bytes: given.checkpoint_size.unwrap_or(default.checkpoint_bytes),
        upload_rate: given.upload_rate.or(default.upload_rate),
        segments: given.segments_in_memory.map_or(default.segments, |n| n as usize),
        retry_last: given.retry_wait.unwrap_or(default.retry_last),
        audit_round: given.audit_round.unwrap_or(default.audit_round),
        ..default
    };
    let mib = |n: u64| ByteCount(n << 20);
    within("interval", limits.interval, INTERVAL, time)?;
    within("limits.cut-size", limits.cut_bytes, (ByteCount(64 << 10), mib(1024)), |b| b.to_string())?;
    within("limits.cut-tries", limits.tries, (1, 100), |n| n.to_string())?;
    within("limits.copy-passes", limits.passes, (1, 1000), |n| n.to_string())?;
    within("limits.checkpoint-size", limits.checkpoint_bytes, (mib(64), mib(1 << 20)), |b| b.to_string())?;
    within("limits.segments-in-memory", limits.segments, (2, 64), |n| n.to_string())?;
    within("limits.retry-wait", limits.retry_last, (Duration::from_secs(1), INTERVAL.1), time)?;
    within("limits.audit-round", limits.audit_round, AUDIT_ROUND, time)?;
    within("limits.freeze-size", limits.freeze_bytes, (ByteCount(64 << 10), mib(1024)), |b| b.to_string())?;
    within("limits.freeze-limit", limits.freeze_limit, FREEZE_LIMIT, time)?;
    if let Some(interval) = limits.application_interval {
        within("app-consistent-interval", interval, APPLICATION_INTERVAL, time)?;
        if interval < limits.interval {
            return Err(Failure::Config(format!(
                "app-consistent-interval is {}, but must not be shorter than interval, which is {}",
                time(interval),
                time(limits.interval)
            )));
        }
    }
    if let Some(rate) = limits.upload_rate {
        within("limits.upload-rate", rate, (ByteCount(16 << 10), ByteCount(1 << 40)), |b| b.to_string())?;
    }
    Ok(limits)
}

/// Where scripts are, and their time limit.
pub(super) fn scripts(fragment: &Fragment) -> Result<ScriptSettings, Failure> {
    let given = &fragment.scripts;
    let dir = given.dir.clone().unwrap_or_else(|| SCRIPTS.into());
    if !dir.is_absolute() {
        let dir = dir.display();
        return Err(Failure::Config(format!("scripts.dir is {dir}, but must be a whole path, from `/` on")));
    }
    let timeout = given.timeout.unwrap_or(SCRIPT_TIMEOUT_DEFAULT);
    within("scripts.timeout", timeout, SCRIPT_TIMEOUT, time)?;
    Ok(ScriptSettings { dir, timeout })
}

/// Whether and how the machine is stopped for a failover.
pub(super) fn stop(fragment: &Fragment) -> Result<StopSettings, Failure> {
    let given = &fragment.stop;
    let keep = given.keep.clone().unwrap_or_default();
    within("the list stop.keep", keep.len(), (0, MOST_KEPT), |n| n.to_string())?;
    let limit = given.limit.unwrap_or(STOP_LIMIT_DEFAULT);
    within("stop.limit", limit, STOP_LIMIT, time)?;
    let manager = given.manager.clone().unwrap_or_else(|| manager::SOCKET.into());
    if !manager.is_absolute() {
        let manager = manager.display();
        return Err(Failure::Config(format!(
            "stop.manager is {manager}, but must be a whole path, from `/` on"
        )));
    }
    Ok(StopSettings { allow: given.allow.unwrap_or(true), keep, limit, manager })
}

/// The way to the recovery service.
pub(super) fn service(fragment: &Fragment) -> Result<ServiceSettings, Failure> {
    let given = &fragment.service;
    if let Some(ahead) = given.grants_ahead {
        within("service.grants-ahead", ahead, GRANTS_AHEAD, time)?;
    }
    let options = Options {
        proxy: ProxySettings { url: given.proxy.clone(), except: given.no_proxy.clone() },
        ca_file: given.ca_file.clone(),
        grants_ahead: given.grants_ahead,
        retry_wait: fragment.limits.retry_wait,
    };
    options.proxy.check().map_err(|err| Failure::Config(format!("service.proxy: {err}")))?;
    let state_dir = given.state_dir.clone().unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    Ok(ServiceSettings { state_dir, options })
}

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn within<T: PartialOrd + Copy>(
    key: &str,
    value: T,
    (least, most): (T, T),
    show: impl Fn(T) -> String,
) -> Result<(), Failure> {
    if value >= least && value <= most {
        return Ok(());
    }
    let (value, least, most) = (show(value), show(least), show(most));
    Err(Failure::Config(format!("{key} is {value}, but must be between {least} and {most}")))
}
