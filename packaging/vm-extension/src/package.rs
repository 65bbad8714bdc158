//! The agent's package, from the handler's archive into the system and out again.
//!
//! Whichever of dpkg and rpm the system lives by is asked, and waited for while somebody else holds its lock. Nothing is fetched, and
//! nothing is made older. Deliberately not here: what the package does.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    child::{self, Outcome},
    failure::{Cause, Failure},
    files::read,
    place::Place,
};

const NAME: &str = "mobility-agent";
/// The first and the longest wait for a lock.
const WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Families of systems, as `os-release` names them.
const DEBIAN: [&str; 2] = ["debian", "ubuntu"];
const RED_HAT: [&str; 9] =
    ["rhel", "fedora", "centos", "suse", "opensuse", "sles", "amzn", "mariner", "azurelinux"];

/// How packages are kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Deb,
    Rpm,
}

impl Kind {
    /// What this system lives by.
    pub(crate) fn of_system(place: &Place) -> Result<Kind, Failure> {
        let text = read(&place.path("/etc/os-release"), 64 << 10).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let family = |line: &str| {
            let value = line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE="))?;
            let words: Vec<_> =
                value.trim_matches('"').split_whitespace().map(str::to_ascii_lowercase).collect();
            let any = |of: &[&str]| words.iter().any(|word| of.contains(&word.as_str()));
            if any(&DEBIAN) { Some(Kind::Deb) } else { any(&RED_HAT).then_some(Kind::Rpm) }
        };
        let on_path = |name: &str| {
            env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).exists())
        };
        text.lines()
            .find_map(family)
            .or(on_path("dpkg").then_some(Kind::Deb))
            .or(on_path("rpm").then_some(Kind::Rpm))
            .ok_or_else(|| {
                Failure::new(
                    Cause::System,
                    "this system has neither dpkg nor rpm: the agent cannot be installed on it",
                )
            })
    }

    /// The package in `dir` that fits this machine.
    fn choose(self, dir: &Path) -> Result<PathBuf, Failure> {
        let (suffixes, family): (&[&str], _) = match (self, env::consts::ARCH) {
            (Kind::Deb, "x86_64") => (&["_amd64.deb", "_all.deb"], "deb"),
            (Kind::Deb, "aarch64") => (&["_arm64.deb", "_all.deb"], "deb"),
            (Kind::Rpm, "x86_64") => (&[".x86_64.rpm", ".noarch.rpm"], "rpm"),
            (Kind::Rpm, "aarch64") => (&[".aarch64.rpm", ".noarch.rpm"], "rpm"),
            _ => (&[], ""),
        };
        let entries = fs::read_dir(dir).map_err(|err| Failure::other(dir.display(), err))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // Not that of its debugging symbols, whose name begins alike.
        let ours = |name: &str| {
            let rest = name.strip_prefix(NAME).unwrap_or_default();
            rest.starts_with('_')
                || rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let fits = |name: &String| ours(name) && suffixes.iter().any(|suffix| name.ends_with(suffix));
        let found: Vec<_> = names.filter(fits).collect();
        match found.as_slice() {
            [one] => Ok(dir.join(one)),
            [] => Err(Failure::new(
                Cause::System,
                format!("there is no {family} package for {} in this extension", env::consts::ARCH),
            )),
            _ => Err(Failure::new(
                Cause::Missing,
                format!("several packages fit this machine: {}", found.join(", ")),
            )),
        }
    }
}

/// What became of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    Now(String),
    /// This version was there already, or a later one.
    Before(String),
}

/// Installs the package from `dir`, unless it is there already or a later one is.
pub(crate) fn install(place: &Place, dir: &Path) -> Result<Installed, Failure> {
    let kind = Kind::of_system(place)?;
    let package = kind.choose(dir)?;
    let offered = offered(kind, place, &package)?;
    if let Some(there) = installed(kind, place)?
        && is_as_new(kind, place, &there, &offered)?
    {
        return Ok(Installed::Before(there));
    }
    let outcome = locked(place, || {
        let mut command = match kind {
            Kind::Deb => program("dpkg", &["--force-confdef", "--force-confold", "--install"]),
            Kind::Rpm => program("rpm", &["--upgrade", "--replacepkgs"]),
        };
        command.env("DEBIAN_FRONTEND", "noninteractive").arg(&package);
        child::run(command, b"", place.end)
    })?;
    match outcome.succeeded() {
        true => Ok(Installed::Now(offered)),
        false => {
            Err(Failure::new(Cause::Missing, format!("the agent cannot be installed: {}", outcome.reason())))
        }
    }
}

/// Removes the package and its configuration, if it is there. Whether it was.
pub(crate) fn remove(place: &Place) -> Result<bool, Failure> {
    let kind = Kind::of_system(place)?;
    let there = match kind {
        // Also what was left of one that was removed, or installed by half.
        Kind::Deb => {
            query(place, program("dpkg-query", &["--show", "--showformat=${db:Status-Abbrev}", NAME]))?
                .is_some()
        }
        Kind::Rpm => installed(kind, place)?.is_some(),
    };
    if !there {
        return Ok(false);
    }
    let outcome = locked(place, || {
        let command = match kind {
            Kind::Deb => program("dpkg", &["--purge", NAME]),
            Kind::Rpm => program("rpm", &["--erase", NAME]),
        };
        child::run(command, b"", place.end)
    })?;
    match outcome.succeeded() {
        true => Ok(true),
        false => {
            Err(Failure::new(Cause::Other, format!("the agent cannot be removed: {}", outcome.reason())))
        }
    }
}

/// The version that is installed completely.
fn installed(kind: Kind, place: &Place) -> Result<Option<String>, Failure> {
    let command = match kind {
        Kind::Deb => program("dpkg-query", &["--show", "--showformat=${db:Status-Abbrev}${Version}", NAME]),
        Kind::Rpm => program("rpm", &["--query", "--queryformat", "ii %{VERSION}-%{RELEASE}", NAME]),
    };
    let said = query(place, command)?;
    Ok(said.and_then(|said| said.strip_prefix("ii ").map(|version| version.trim().to_owned())))
}

fn offered(kind: Kind, place: &Place, package: &Path) -> Result<String, Failure> {
    let mut command = match kind {
        Kind::Deb => program("dpkg-deb", &["--show", "--showformat=${Version}"]),
        Kind::Rpm => program("rpm", &["--query", "--queryformat", "%{VERSION}-%{RELEASE}", "--package"]),
    };
    command.arg(package);
    let broken =
        || Failure::new(Cause::Missing, format!("{} cannot be read as a package", package.display()));
    query(place, command)?.ok_or_else(broken)
}

/// Whether what is `there` is the same as what is offered, or later.
fn is_as_new(kind: Kind, place: &Place, there: &str, offered: &str) -> Result<bool, Failure> {
    let command = match kind {
        Kind::Deb => program("dpkg", &["--compare-versions", there, "ge", offered]),
        Kind::Rpm if there == offered => return Ok(true),
        Kind::Rpm => {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_~^".contains(c);
            if !there.chars().chain(offered.chars()).all(plain) {
                return Ok(false);
            }
            let script = format!("%{{lua:print(rpm.vercmp('{there}', '{offered}'))}}");
            let said = query(place, program("rpm", &["--eval", &script]))?;
            return Ok(said.is_some_and(|said| matches!(said.trim(), "0" | "1")));
        }
    };
    Ok(child::run(command, b"", place.end)?.succeeded())
}

/// What a question was answered with; nothing where it failed.
fn query(place: &Place, command: Command) -> Result<Option<String>, Failure> {
    let outcome = child::run(command, b"", place.end)?;
    let said = String::from_utf8_lossy(&outcome.output).trim_end().to_owned();
    Ok(outcome.succeeded().then_some(said))
}

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// Tries until nobody else holds the lock, as long as there is time.
fn locked(place: &Place, mut run: impl FnMut() -> Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    let mut wait = WAIT;
    loop {
        let outcome = run()?;
        let is_locked = !outcome.succeeded() && !outcome.late && speaks_of_a_lock(&outcome.errors);
        if !is_locked {
            return Ok(outcome);
        }
        if Instant::now() + wait > place.end {
            return Err(Failure::new(
                Cause::Locked,
                format!("another program holds the lock of the package manager: {}", outcome.reason()),
            ));
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn speaks_of_a_lock(errors: &str) -> bool {
    let errors = errors.to_ascii_lowercase();
    // "dpkg frontend lock was locked by another process", "can't create transaction lock on /var/lib/rpm/.rpm.lock"
    errors.contains("lock")
        && [
            "locked by another process",
            "is locked",
            "unable to lock",
            "unable to acquire",
            "transaction lock",
            "unable to access",
        ]
        .iter()
        .any(|words| errors.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_told_from_other_trouble() {
        for locked in [
            "dpkg: error: dpkg frontend lock was locked by another process with pid 12",
            "dpkg: error: dpkg database lock is locked by another process",
            "error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)",
        ] {
            assert!(speaks_of_a_lock(locked), "{locked}");
        }
        for other in ["", "dpkg: error processing archive x.deb: cannot access archive", "block device"] {
            assert!(!speaks_of_a_lock(other), "{other}");
        }
    }

    #[test]
    fn one_package_must_fit() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "mobility-agent_1_amd64.deb",
            "mobility-agent_1_arm64.deb",
            "mobility-agent-1.x86_64.rpm",
            "mobility-agent-1.aarch64.rpm",
            "recovery-service_1_amd64.deb",
            "mobility-agent-dbgsym_1_amd64.deb",
            "mobility-agent-debuginfo-1.x86_64.rpm",
        ];
        for name in names {
            assert!(fs::write(dir.path().join(name), "").is_ok());
        }
        assert!(Kind::Deb.choose(dir.path()).is_ok() && Kind::Rpm.choose(dir.path()).is_ok());
        fs::write(dir.path().join("mobility-agent_2_all.deb"), "").unwrap();
        assert_eq!(Kind::Deb.choose(dir.path()).unwrap_err().cause, Cause::Missing);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Kind::Deb.choose(empty.path()).unwrap_err().cause, Cause::System);
    }
}
