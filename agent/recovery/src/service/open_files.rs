//! How many connections the limit on open files allows: each of them is an open file.
//!
//! A service that finds out in the middle of its work that it may open no more files refuses machines by chance, and cannot read its
//! own storage. So it is looked at once, at the start. Deliberately not here: the limit on connections itself (`listen`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::ConfigError;

/// Files that are open beside connections: the database, storage, objects that arrive.
const BESIDE: u64 = 512;
/// With fewer connections than these it makes no sense to begin.
const LEAST: u64 = 64;

/// Raises the limit as far as is needed and allowed. Returns as many connections as there may be: those that are wanted, or fewer
/// where nobody has `said` how many.
///
/// # Errors
/// When the limit is too small.
pub(super) fn connections(wanted: usize, said: bool) -> Result<usize, ConfigError> {
    let needed = wanted as u64 + BESIDE;
    let before = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if !enough(before.maximum) {
        // Root may; it is no harm if nobody else does.
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: Some(needed) }).ok();
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    within(getrlimit(Resource::Nofile).current, wanted, said)
}

fn within(limit: Option<u64>, wanted: usize, said: bool) -> Result<usize, ConfigError> {
    let Some(limit) = limit else { return Ok(wanted) };
    let room = limit.saturating_sub(BESIDE);
    if room >= wanted as u64 {
        return Ok(wanted);
    }
    let problem = format!(
        "this process may open {limit} files, and {wanted} connections need {}: raise the limit (LimitNOFILE= of the unit, \
         `ulimit -Hn`)",
        wanted as u64 + BESIDE
    );
    if said || room < LEAST {
        return Err(ConfigError::Value(format!("{problem}, or lower limits.connections")));
    }
    tracing::warn!("{problem}; until then {room} connections are taken, two for each machine");
    Ok(usize::try_from(room).unwrap_or(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_where_it_was_said_and_lowered_where_it_was_not() {
        assert_eq!(within(None, 30_000, true).unwrap(), 30_000);
        assert_eq!(within(Some(30_000 + BESIDE), 30_000, true).unwrap(), 30_000);
        assert_eq!(within(Some(30_000 + BESIDE - 1), 30_000, false).unwrap(), 29_999);
        assert_eq!(within(Some(LEAST + BESIDE), 30_000, false).unwrap(), 64);
        for (limit, said) in [(30_000 + BESIDE - 1, true), (LEAST + BESIDE - 1, false), (0, false)] {
            let refused = within(Some(limit), 30_000, said).unwrap_err().to_string();
            let hints =
                [format!("may open {limit} files"), "LimitNOFILE=".into(), "limits.connections".into()];
            assert!(hints.iter().all(|hint| refused.contains(hint)), "{refused}");
        }
    }
}
