//! A configuration file as it is written: every key optional, every unknown key an error.
//!
//! Deliberately not here: defaults, and whether the values make sense together.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mobility_format::ByteCount;
use serde::{Deserialize, Serialize};

use super::values;
use crate::{
    cli::{Capture, Cut},
    exit::Failure,
};

/// Where fragments are looked for, the later ones winning.
pub(crate) const DIRECTORIES: [&str; 3] =
    ["usr/lib/mobility-agent/config.d", "run/mobility-agent/config.d", "etc/mobility-agent/config.d"];

/// The longest file that is taken for a fragment.
const MAX_LEN: u64 = 1 << 20;

/// One file, or several merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Fragment {
    /// Local debug mode.
    pub(crate) debug: Option<bool>,
    /// The vault of debug mode.
    pub(crate) vault: Option<PathBuf>,
    /// The disks to protect. The list of a later fragment replaces that of an earlier one.
    pub(crate) disks: Option<Vec<PathBuf>>,
    /// From one recovery point to the next.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<Duration>,
    /// How changes are found.
    pub(crate) capture: Option<Capture>,
    /// Whether writes may be held when a point is made.
    pub(crate) cut: Option<Cut>,
    /// From one application-consistent point to the next.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) app_consistent_interval: Option<Duration>,
    /// Bounds.
    #[serde(default)]
    pub(crate) limits: LimitsFragment,
    /// What makes applications ready.
    #[serde(default)]
    pub(crate) scripts: ScriptsFragment,
    /// The way to the recovery service.
    #[serde(default)]
    pub(crate) service: ServiceFragment,
    /// Stopping the machine.
    #[serde(default)]
    pub(crate) stop: StopFragment,
}

/// The table `[stop]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StopFragment {
    /// Whether the recovery service may have the machine stopped.
    pub(crate) allow: Option<bool>,
    /// Units that go on besides the usual ones. The list of a later fragment replaces that of an earlier one.
    pub(crate) keep: Option<Vec<String>>,
    /// How long stopping may take.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Duration>,
    /// Where the service manager listens.
    pub(crate) manager: Option<PathBuf>,
}

/// The table `[service]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServiceFragment {
    /// Where identity and keys are kept.
    pub(crate) state_dir: Option<PathBuf>,
    /// The proxy to go through; `none` for none.
    pub(crate) proxy: Option<String>,
    /// What is reached without it, as in `NO_PROXY`.
    pub(crate) no_proxy: Option<String>,
    /// Authorities that stores' certificates may come from besides the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// For how long grants to upload are kept ahead.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) grants_ahead: Option<Duration>,
}

/// The table `[scripts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ScriptsFragment {
    /// Where they are.
    pub(crate) dir: Option<PathBuf>,
    /// How long each of them may take.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
}

/// The table `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LimitsFragment {
    /// How much may be read inside a cut.
    #[serde(default, with = "values::size", skip_serializing_if = "Option::is_none")]
    pub(crate) cut_size: Option<ByteCount>,
    /// How many cuts are tried for a point.
    pub(crate) cut_tries: Option<u32>,
    /// How many copy passes are made before a cut is given up.
    pub(crate) copy_passes: Option<u32>,
    /// How long a frozen cut may hold writes.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) freeze_limit: Option<Duration>,
    /// How much may be read while it does.
    #[serde(default, with = "values::size", skip_serializing_if = "Option::is_none")]
    pub(crate) freeze_size: Option<ByteCount>,
    /// How much an epoch may hold before it is committed as a checkpoint.
    #[serde(default, with = "values::size", skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint_size: Option<ByteCount>,
    /// The most to upload each second.
    #[serde(default, with = "values::size", skip_serializing_if = "Option::is_none")]
    pub(crate) upload_rate: Option<ByteCount>,
    /// How many segments may wait in memory.
    pub(crate) segments_in_memory: Option<u32>,
    /// The longest wait after a failure.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) retry_wait: Option<Duration>,
    /// How long one round of the audit takes.
    #[serde(default, with = "values::duration", skip_serializing_if = "Option::is_none")]
    pub(crate) audit_round: Option<Duration>,
}

impl ServiceFragment {
    /// As it may be shown: a proxy's address may hold a password.
    pub(crate) fn shown(&self) -> ServiceFragment {
        let proxy = self.proxy.as_deref().map(|url| match url.rsplit_once('@') {
            Some((_, host)) => format!("http://***@{host}"),
            None => url.to_owned(),
        });
        ServiceFragment { proxy, ..self.clone() }
    }
}

impl Fragment {
    /// All fragments below `root`, merged. A directory that is not there counts as empty.
    pub(crate) fn load(root: &Path) -> Result<Fragment, Failure> {
        let mut merged = Fragment::default();
        for directory in DIRECTORIES {
            for path in files_in(&root.join(directory))? {
                merged.merge(Fragment::read(&path)?);
            }
        }
        Ok(merged)
    }

    fn read(path: &Path) -> Result<Fragment, Failure> {
        let fail = |what: String| Failure::Config(format!("{}: {what}", path.display()));
        let meta = fs::metadata(path).map_err(|err| fail(format!("cannot be read: {err}")))?;
        if meta.len() > MAX_LEN {
            return Err(fail(format!(
                "is {} long; a configuration file has {} at most",
                ByteCount(meta.len()),
                ByteCount(MAX_LEN)
            )));
        }
        let text = fs::read_to_string(path).map_err(|err| fail(format!("cannot be read: {err}")))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        toml::from_str(text).map_err(|err| fail(err.to_string()))
    }

    /// Lets `later` have the last word.
    pub(crate) fn merge(&mut self, later: Fragment) {
        let Fragment {
            debug,
            vault,
            disks,
            interval,
            capture,
            cut,
            app_consistent_interval,
            limits,
            scripts,
            service,
            stop,
        } = later;
        self.debug = debug.or(self.debug.take());
        self.vault = vault.or(self.vault.take());
        self.disks = disks.or(self.disks.take());
        self.interval = interval.or(self.interval.take());
        self.capture = capture.or(self.capture.take());
        self.cut = cut.or(self.cut.take());
        self.app_consistent_interval = app_consistent_interval.or(self.app_consistent_interval.take());
        self.scripts.dir = scripts.dir.or(self.scripts.dir.take());
        self.scripts.timeout = scripts.timeout.or(self.scripts.timeout);
        let mine = &mut self.stop;
        mine.allow = stop.allow.or(mine.allow);
        mine.keep = stop.keep.or(mine.keep.take());
        mine.limit = stop.limit.or(mine.limit);
        mine.manager = stop.manager.or(mine.manager.take());
        let mine = &mut self.service;
        mine.state_dir = service.state_dir.or(mine.state_dir.take());
        mine.proxy = service.proxy.or(mine.proxy.take());
        mine.no_proxy = service.no_proxy.or(mine.no_proxy.take());
        mine.ca_file = service.ca_file.or(mine.ca_file.take());
        mine.grants_ahead = service.grants_ahead.or(mine.grants_ahead);
        let mine = &mut self.limits;
        mine.cut_size = limits.cut_size.or(mine.cut_size);
        mine.cut_tries = limits.cut_tries.or(mine.cut_tries);
        mine.copy_passes = limits.copy_passes.or(mine.copy_passes);
        mine.freeze_limit = limits.freeze_limit.or(mine.freeze_limit);
        mine.freeze_size = limits.freeze_size.or(mine.freeze_size);
        mine.checkpoint_size = limits.checkpoint_size.or(mine.checkpoint_size);
        mine.upload_rate = limits.upload_rate.or(mine.upload_rate);
        mine.segments_in_memory = limits.segments_in_memory.or(mine.segments_in_memory);
        mine.retry_wait = limits.retry_wait.or(mine.retry_wait);
        mine.audit_round = limits.audit_round.or(mine.audit_round);
    }
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail =
        |err: std::io::Error| Failure::Config(format!("{} cannot be read: {err}", directory.display()));
    let entries = match fs::read_dir(directory) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let root = root(&[
            ("etc/mobility-agent/config.d/10.toml", "interval = '5s'\n[limits]\ncut-tries = 3\n"),
            ("usr/lib/mobility-agent/config.d/90.toml", "interval = '1min'\ncapture = 'scan'\n"),
            ("run/mobility-agent/config.d/x.conf", "this is not looked at"),
        ]);
        let merged = Fragment::load(root.path()).unwrap();
        assert_eq!(merged.interval, Some(Duration::from_secs(5)));
        assert_eq!((merged.capture, merged.limits.cut_tries), (Some(Capture::Scan), Some(3)));
    }

    #[test]
    fn a_typo_is_named_with_file_and_line() {
        for (text, hint) in [
            ("\nintervall = '5s'", "intervall"),
            ("interval = 5", "invalid type"),
            ("cut = 'always'", "optimistic"),
            ("[scripts]\ntimeout = 30", "invalid type"),
            ("interval = '5'", "such as 15s"),
            ("[limits]\ncut-size = '5MB'", "such as 512KiB"),
            ("disks = '/dev/sda'", "line 1"),
        ] {
            let root = root(&[("etc/mobility-agent/config.d/a.toml", text)]);
            let message = Fragment::load(root.path()).unwrap_err().to_string();
            assert!(
                message.contains("a.toml") && message.contains("line") && message.contains(hint),
                "{message}"
            );
        }
    }
}
