//! Where the guest agent wants things, and which settings are in force: `HandlerEnvironment.json` and the sequence number.
//!
//! Both may be written while they are read, so reading is tried again for a while. Deliberately not here: what the settings say.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use crate::{
    failure::Failure,
    files::{self, read},
};

const FILE: &str = "HandlerEnvironment.json";
/// The longest that such a file is.
const LONGEST: u64 = 64 << 10;
/// How long it may be missing or half written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where things are.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Where the handler was unpacked.
    pub(crate) base: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) status: PathBuf,
    pub(crate) heartbeat: PathBuf,
}

impl Environment {
    /// What the file beside `program`, or above it, says.
    pub(crate) fn find(program: &Path, end: Instant) -> Result<Environment, Failure> {
        let end = end.min(Instant::now() + PATIENCE);
        let mut wait = Duration::from_millis(50);
        loop {
            let failure = match Environment::try_find(program) {
                Ok(environment) => return Ok(environment),
                Err(failure) => failure,
            };
            if Instant::now() + wait > end {
                return Err(failure);
            }
            thread::sleep(wait);
            wait *= 2;
        }
    }

    fn try_find(program: &Path) -> Result<Environment, Failure> {
        let dirs: Vec<_> = program.ancestors().skip(1).take(3).collect();
        let Some(base) = dirs.iter().find(|dir| dir.join(FILE).exists()) else {
            let beside = dirs.first().map_or(Path::new(""), |dir| dir);
            let message = "there is none, nor above it; the guest agent writes it before it calls a handler";
            return Err(Failure::other(beside.join(FILE).display(), message));
        };
        let path = base.join(FILE);
        let fail = |why: String| Failure::other(path.display(), why);
        let text = read(&path, LONGEST).map_err(|err| fail(err.to_string()))?;
        let value: Value = serde_json::from_slice(&text).map_err(|err| fail(err.to_string()))?;
        // Old agents write one object, others a list of one.
        let object = value.get(0).unwrap_or(&value);
        let folder = |name: &str| {
            let folder = object["handlerEnvironment"][name].as_str().map(PathBuf::from);
            folder
                .filter(|path| path.is_absolute())
                .ok_or_else(|| fail(format!("it does not say where {name} is")))
        };
        Ok(Environment {
            logs: folder("logFolder")?,
            config: folder("configFolder")?,
            status: folder("statusFolder")?,
            heartbeat: folder("heartbeatFile")?,
            base: (*base).to_owned(),
        })
    }

    /// Where the certificates are that settings are encrypted for.
    pub(crate) fn certificates(&self) -> Option<&Path> {
        self.config.parent()?.parent()
    }

    /// The sequence number that this run is about.
    pub(crate) fn sequence(&self) -> String {
        env::var("ConfigSequenceNumber")
            .ok()
            .and_then(|text| number(&text))
            .or_else(|| self.newest_settings())
            .unwrap_or_else(|| "0".to_owned())
    }

    /// The number of the settings that were changed last. Numbers need not grow, so it is not the highest.
    fn newest_settings(&self) -> Option<String> {
        let entries = fs::read_dir(&self.config).ok()?.flatten();
        let settings = entries.filter_map(|entry| {
            let sequence = number(entry.file_name().to_str()?.strip_suffix(".settings")?)?;
            let changed = entry.metadata().ok()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Some((changed, sequence))
        });
        settings.max().map(|(_, sequence)| sequence)
    }

    /// The settings of this number.
    pub(crate) fn settings(&self, sequence: &str) -> PathBuf {
        self.config.join(format!("{sequence}.settings"))
    }

    /// The number that was last acted on. The guest agent carries this file over when it updates the handler.
    pub(crate) fn last_sequence(&self) -> Option<String> {
        number(std::str::from_utf8(&read(&self.base.join("mrseq"), 64).ok()?).ok()?)
    }

    pub(crate) fn remember_sequence(&self, sequence: &str) -> Result<(), Failure> {
        let path = self.base.join("mrseq");
        files::replace(&path, sequence.as_bytes(), false).map_err(|err| Failure::other(path.display(), err))
    }
}

/// A sequence number, as it stands in names of files.
fn number(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &Path) -> Environment {
        let [logs, config, status, heartbeat] =
            ["log", "config", "status", "heartbeat"].map(|name| dir.join(name));
        Environment { base: dir.to_owned(), logs, config, status, heartbeat }
    }

    #[test]
    fn the_file_is_found_beside_the_program_or_above() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin/handler");
        let soon = Instant::now();
        assert!(Environment::find(&program, soon).unwrap_err().message.contains(FILE));
        let text = r#"{"handlerEnvironment":{"logFolder":"/l","configFolder":"/a/b/c","statusFolder":"/s","heartbeatFile":"/h"}}"#;
        for text in [text.to_owned(), format!("\u{feff}[{text}]")] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let found = Environment::find(&program, soon).unwrap();
            assert_eq!((found.base.as_path(), found.certificates()), (dir.path(), Some(Path::new("/a"))));
        }
        for bad in ["", "[]", "null", "[{}]", "\u{0}", &text.replace("\"/s\"", "5"), &text.replace("/s", "s")]
        {
            fs::write(dir.path().join(FILE), bad).unwrap();
            assert!(Environment::find(&program, soon).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_newest_settings_count_and_not_the_highest() {
        let dir = tempfile::tempdir().unwrap();
        let environment = at(dir.path());
        assert_eq!(environment.newest_settings(), None);
        fs::create_dir(&environment.config).unwrap();
        for (name, age) in [("7.settings", 20), ("3.settings", 10), ("x.settings", 0), ("HandlerState", 0)] {
            let path = environment.config.join(name);
            fs::write(&path, "").unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(environment.newest_settings().as_deref(), Some("3"));
        assert_eq!(environment.last_sequence(), None);
        environment.remember_sequence("3").unwrap();
        assert_eq!(environment.last_sequence().as_deref(), Some("3"));
    }

    #[test]
    fn a_sequence_number_is_nothing_but_digits() {
        assert_eq!(number(" 12\n").as_deref(), Some("12"));
        for bad in ["", "-1", "../../x", "1/2", &"9".repeat(21)] {
            assert_eq!(number(bad), None);
        }
    }
}
