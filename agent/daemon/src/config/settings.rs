//! The configuration as a whole, checked: what the rest of the program works with.
//!
//! Deliberately not here: whether the disks and the vault are really there, which is found out when they are opened.

use std::{path::PathBuf, time::Duration};

use mobility_engine::Limits;
use mobility_format::ByteCount;

use super::fragment::{Fragment, LimitsFragment};
use crate::{
    cli::{Capture, RunArgs},
    exit::Failure,
};

/// The shortest and the longest interval between recovery points.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where cache and target storage are.
    pub(crate) vault: PathBuf,
    /// The disks to protect, as they were named.
    pub(crate) disks: Vec<PathBuf>,
    /// How changes are found.
    pub(crate) capture: Capture,
    /// The engine's limits.
    pub(crate) limits: Limits,
    /// What it was made from.
    source: Fragment,
}

impl Settings {
    /// The configuration from the fragments below the given root and the flags.
    pub(crate) fn load(args: &RunArgs) -> Result<Settings, Failure> {
        let mut fragment = Fragment::load(&args.config_root)?;
        fragment.merge(Fragment {
            debug: args.debug.then_some(true),
            vault: args.vault.clone(),
            disks: (!args.disks.is_empty()).then(|| args.disks.clone()),
            interval: args.interval,
            capture: args.capture,
            limits: LimitsFragment::default(),
        });
        Settings::check(fragment)
    }

    fn check(fragment: Fragment) -> Result<Settings, Failure> {
        let invalid = |what: &str| Err(Failure::Config(what.to_owned()));
        if fragment.debug != Some(true) {
            return invalid(
                "only local debug mode is there so far: add --debug (or `debug = true` to the configuration), with --vault",
            );
        }
        let Some(vault) = fragment.vault.clone() else {
            return invalid("debug mode needs a directory to keep recovery points in: add --vault DIR");
        };
        let disks = fragment.disks.clone().unwrap_or_default();
        if disks.is_empty() {
            return invalid(
                "there is no disk to protect: add --disk PATH (`mobility-agent check` lists the disks)",
            );
        }
        let limits = limits(&fragment)?;
        Ok(Settings { vault, disks, capture: fragment.capture.unwrap_or_default(), limits, source: fragment })
    }

    /// The configuration as a fragment would have it, with the defaults filled in.
    pub(crate) fn to_toml(&self) -> Result<String, Failure> {
        let limits = &self.limits;
        let shown = Fragment {
            capture: Some(self.capture),
            interval: Some(limits.interval),
            limits: LimitsFragment {
                cut_size: Some(limits.cut_bytes),
                cut_tries: Some(limits.tries),
                copy_passes: Some(limits.passes),
                checkpoint_size: Some(limits.checkpoint_bytes),
                upload_rate: limits.upload_rate,
                segments_in_memory: u32::try_from(limits.segments).ok(),
                retry_wait: Some(limits.retry_last),
                audit_round: Some(limits.audit_round),
            },
            ..self.source.clone()
        };
        toml::to_string(&shown)
            .map_err(|err| Failure::Config(format!("the configuration cannot be shown: {err}")))
    }
}

fn limits(fragment: &Fragment) -> Result<Limits, Failure> {
    let default = Limits::default();
    let given = &fragment.limits;
    let limits = Limits {
        interval: fragment.interval.unwrap_or(default.interval),
        cut_bytes: given.cut_size.unwrap_or(default.cut_bytes),
        tries: given.cut_tries.unwrap_or(default.tries),
        passes: given.copy_passes.unwrap_or(default.passes),
        checkpoint_bytes: given.checkpoint_size.unwrap_or(default.checkpoint_bytes),
        upload_rate: given.upload_rate.or(default.upload_rate),
        segments: given.segments_in_memory.map_or(default.segments, |n| n as usize),
        retry_last: given.retry_wait.unwrap_or(default.retry_last),
        audit_round: given.audit_round.unwrap_or(default.audit_round),
        ..default
    };
    let mib = |n: u64| ByteCount(n << 20);
    within("interval", limits.interval, INTERVAL, |d| humantime::format_duration(d).to_string())?;
    within("limits.cut-size", limits.cut_bytes, (ByteCount(64 << 10), mib(1024)), |b| b.to_string())?;
    within("limits.cut-tries", limits.tries, (1, 100), |n| n.to_string())?;
    within("limits.copy-passes", limits.passes, (1, 1000), |n| n.to_string())?;
    within("limits.checkpoint-size", limits.checkpoint_bytes, (mib(64), mib(1 << 20)), |b| b.to_string())?;
    within("limits.segments-in-memory", limits.segments, (2, 64), |n| n.to_string())?;
    within("limits.retry-wait", limits.retry_last, (Duration::from_secs(1), INTERVAL.1), |d| {
        humantime::format_duration(d).to_string()
    })?;
    within(
        "limits.audit-round",
        limits.audit_round,
        (Duration::from_secs(1), Duration::from_secs(366 * 86400)),
        |d| humantime::format_duration(d).to_string(),
    )?;
    if let Some(rate) = limits.upload_rate {
        within("limits.upload-rate", rate, (ByteCount(16 << 10), ByteCount(1 << 40)), |b| b.to_string())?;
    }
    Ok(limits)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment() -> Fragment {
        Fragment {
            debug: Some(true),
            vault: Some("/vault".into()),
            disks: Some(vec!["/dev/sdb".into()]),
            ..Fragment::default()
        }
    }

    #[test]
    fn what_is_shown_is_what_it_would_be_made_from() {
        let settings = Settings::check(fragment()).unwrap();
        let again: Fragment = toml::from_str(&settings.to_toml().unwrap()).unwrap();
        assert_eq!(Settings::check(again).unwrap().limits, settings.limits);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_remedy() {
        type Spoil = fn(&mut Fragment);
        let cases: [(&str, Spoil); 5] = [
            ("--debug", |f| f.debug = None),
            ("--vault", |f| f.vault = None),
            ("--disk", |f| f.disks = None),
            ("between 1s and 1day", |f| f.interval = Some(Duration::from_millis(10))),
            ("limits.cut-tries", |f| f.limits.cut_tries = Some(0)),
        ];
        for (hint, spoil) in cases {
            let mut fragment = fragment();
            spoil(&mut fragment);
            let message = Settings::check(fragment).unwrap_err().to_string();
            assert!(message.contains(hint), "{message}");
        }
    }
}
