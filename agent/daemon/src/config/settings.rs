//! The configuration as a whole, checked: what the rest of the program works with.
//!
//! Deliberately not here: whether the disks and the vault are really there, which is found out when they are opened.

use std::{
    path::{self, PathBuf},
    time::Duration,
};

use mobility_engine::Limits;

use super::{
    fragment::{Fragment, LimitsFragment, ScriptsFragment, ServiceFragment, StopFragment},
    limits::{limits, scripts, service, stop},
};
use crate::{
    cli::{Capture, Cut, RunArgs},
    exit::Failure,
    service::Options,
    stop::StopSettings,
};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where cache and target storage are in debug mode; a recovery service is used without it.
    pub(crate) vault: Option<PathBuf>,
    /// The disks to protect, as they were named; the service's policy says which where there are none.
    pub(crate) disks: Vec<PathBuf>,
    /// How changes are found.
    pub(crate) capture: Capture,
    /// The engine's limits.
    pub(crate) limits: Limits,
    /// What makes applications ready for a point.
    pub(crate) scripts: ScriptSettings,
    /// The way to the recovery service.
    pub(crate) service: ServiceSettings,
    /// Whether and how the machine is stopped for a failover.
    pub(crate) stop: StopSettings,
    /// What it was made from.
    source: Fragment,
}

/// Where the scripts of applications are, and how long each of them may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScriptSettings {
    /// Their directory. It need not be there.
    pub(crate) dir: PathBuf,
    /// The time limit of each call.
    pub(crate) timeout: Duration,
}

/// Where the identity is that was enrolled, and how the recovery service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceSettings {
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// The rest.
    pub(crate) options: Options,
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
            cut: args.cut,
            app_consistent_interval: args.app_consistent_interval,
            limits: LimitsFragment { freeze_limit: args.freeze_limit, ..LimitsFragment::default() },
            // Where the agent is started from says nothing about where it looks later.
            scripts: ScriptsFragment {
                dir: args.scripts.as_ref().map(|dir| path::absolute(dir).unwrap_or_else(|_| dir.clone())),
                timeout: None,
            },
            service: ServiceFragment { state_dir: args.state_dir.clone(), ..ServiceFragment::default() },
            stop: StopFragment::default(),
        });
        Settings::check(fragment)
    }

    fn check(fragment: Fragment) -> Result<Settings, Failure> {
        let invalid = |what: &str| Err(Failure::Config(what.to_owned()));
        let debug = fragment.debug == Some(true);
        let vault = fragment.vault.clone();
        if vault.is_some() && !debug {
            return invalid(
                "a vault is for local debug mode: add --debug (or `debug = true` to the configuration)",
            );
        }
        if vault.is_none() && debug {
            return invalid("debug mode needs a directory to keep recovery points in: add --vault DIR");
        }
        let disks = fragment.disks.clone().unwrap_or_default();
        if disks.is_empty() && debug {
            return invalid(
                "there is no disk to protect: add --disk PATH (`mobility-agent check` lists the disks)",
            );
        }
        let (limits, scripts, service) = (limits(&fragment)?, scripts(&fragment)?, service(&fragment)?);
        let (capture, stop) = (fragment.capture.unwrap_or_default(), stop(&fragment)?);
        Ok(Settings { vault, disks, capture, limits, scripts, service, stop, source: fragment })
    }

    /// The configuration as a fragment would have it, with the defaults filled in.
    pub(crate) fn to_toml(&self) -> Result<String, Failure> {
        let limits = &self.limits;
        let shown = Fragment {
            capture: Some(self.capture),
            interval: Some(limits.interval),
            cut: Some(self.source.cut.unwrap_or(Cut::Auto)),
            limits: LimitsFragment {
                cut_size: Some(limits.cut_bytes),
                cut_tries: Some(limits.tries),
                copy_passes: Some(limits.passes),
                freeze_limit: Some(limits.freeze_limit),
                freeze_size: Some(limits.freeze_bytes),
                checkpoint_size: Some(limits.checkpoint_bytes),
                upload_rate: limits.upload_rate,
                segments_in_memory: u32::try_from(limits.segments).ok(),
                retry_wait: Some(limits.retry_last),
                audit_round: Some(limits.audit_round),
            },
            scripts: ScriptsFragment {
                dir: Some(self.scripts.dir.clone()),
                timeout: Some(self.scripts.timeout),
            },
            service: self.source.service.shown(),
            stop: StopFragment {
                allow: Some(self.stop.allow),
                keep: Some(self.stop.keep.clone()),
                limit: Some(self.stop.limit),
                manager: Some(self.stop.manager.clone()),
            },
            ..self.source.clone()
        };
        toml::to_string(&shown)
            .map_err(|err| Failure::Config(format!("the configuration cannot be shown: {err}")))
    }
}

#[cfg(test)]
mod tests {
    use mobility_engine::CutPolicy;

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
        let again = Settings::check(again).unwrap();
        assert_eq!(
            (again.limits, again.scripts, again.stop),
            (settings.limits, settings.scripts, settings.stop)
        );
    }

    #[test]
    fn consistency_is_set_as_it_was_asked_for() {
        let text = "cut = 'freeze'\napp-consistent-interval = '1h'\n[limits]\nfreeze-limit = '150ms'\n\
                    [scripts]\ndir = '/srv/scripts'\ntimeout = '2min'\n";
        let mut fragment = fragment();
        fragment.merge(toml::from_str(text).unwrap());
        let shown = Settings::check(fragment).unwrap().to_toml().unwrap();
        let settings = Settings::check(toml::from_str(&shown).unwrap()).unwrap();
        assert_eq!(settings.limits.cut_policy, CutPolicy::Freeze);
        assert_eq!(settings.limits.freeze_limit, Duration::from_millis(150));
        assert_eq!(settings.limits.application_interval, Some(Duration::from_secs(3600)));
        let scripts = ScriptSettings { dir: "/srv/scripts".into(), timeout: Duration::from_secs(120) };
        assert_eq!(settings.scripts, scripts);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_remedy() {
        type Spoil = fn(&mut Fragment);
        let cases: [(&str, Spoil); 13] = [
            ("--debug", |f| f.debug = None),
            ("--vault", |f| f.vault = None),
            ("--disk", |f| f.disks = None),
            ("between 1s and 1day", |f| f.interval = Some(Duration::from_millis(10))),
            ("limits.cut-tries", |f| f.limits.cut_tries = Some(0)),
            ("between 10ms and 10s", |f| f.limits.freeze_limit = Some(Duration::from_millis(9))),
            ("between 10s and 30days", |f| f.app_consistent_interval = Some(Duration::from_secs(9))),
            ("app-consistent-interval", |f| f.app_consistent_interval = Some(Duration::from_secs(14))),
            ("scripts.timeout", |f| f.scripts.timeout = Some(Duration::from_millis(999))),
            ("scripts.timeout", |f| f.scripts.timeout = Some(Duration::from_secs(601))),
            ("stop.limit", |f| f.stop.limit = Some(Duration::from_millis(999))),
            ("stop.manager", |f| f.stop.manager = Some("private".into())),
            ("scripts.dir", |f| f.scripts.dir = Some("scripts.d".into())),
        ];
        for (hint, spoil) in cases {
            let mut fragment = fragment();
            spoil(&mut fragment);
            let message = Settings::check(fragment).unwrap_err().to_string();
            assert!(message.contains(hint), "{message}");
        }
    }
}
