//! Policies: listed, shown and set. A change reaches each machine with its next heartbeat.
//!
//! Deliberately not here: how an agent follows one.

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    ByteCount,
    control::{Limited, Policy},
};
use serde_json::{Value, json};

use super::Administrator;
use crate::{
    ladder::{DEFAULT_LADDER, Ladder},
    service::{
        api::{InPath, Said},
        database::{EventKind, Job},
        refusal::{Answer, Refusal},
        state::Service,
    },
};

/// The policy of machines for which no other is named.
pub(super) const FIRST: &str = "default";
const MAX_NAME: usize = 64;
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=86_400;
const DAY_MINUTES: u16 = 24 * 60;

/// The policy that there is from the beginning.
pub(in crate::service) fn first() -> Policy {
    Policy {
        version: 0,
        name: FIRST.to_owned(),
        interval_s: 15,
        application_interval_s: None,
        include: Vec::new(),
        exclude: Vec::new(),
        temporary_disks: false,
        retention: DEFAULT_LADDER.to_owned(),
        upload_rate: None,
        rate_windows: Vec::new(),
        quota: None,
        scripts: true,
        paused: false,
    }
}

/// Whether a policy makes sense; what is wrong with it.
fn check(policy: &Policy) -> Result<(), String> {
    policy.check().map_err(|err| err.to_string())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if policy.name.is_empty() || policy.name.len() > MAX_NAME || !policy.name.chars().all(plain) {
        return Err(format!("a name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores"));
    }
    let intervals = [Some(policy.interval_s), policy.application_interval_s];
    if intervals.into_iter().flatten().any(|seconds| !INTERVALS.contains(&seconds)) {
        return Err(format!("an interval has {} to {} seconds", INTERVALS.start(), INTERVALS.end()));
    }
    policy.retention.parse::<Ladder>().map_err(|err| err.to_string())?;
    let rates = policy.rate_windows.iter().map(|window| window.upload_rate).chain([policy.upload_rate]);
    if rates.flatten().any(|rate| rate.0 == 0) {
        return Err("an upload rate of 0 would stop replication: set `paused` for that".to_owned());
    }
    if policy.quota == Some(ByteCount(0)) {
        return Err("a quota of 0 would let no point be made: leave it out for none".to_owned());
    }
    let sound = |window: &mobility_format::control::RateWindow| {
        window.from_min < DAY_MINUTES
            && window.to_min <= DAY_MINUTES
            && window.days.iter().all(|day| (1..=7).contains(day))
    };
    match policy.rate_windows.iter().all(sound) {
        true => Ok(()),
        false => Err("a rate window has days from 1 to 7 and minutes from 0 to 1440".to_owned()),
    }
}

pub(super) async fn list(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Json<Value>> {
    Ok(Json(json!({ "policies": service.database.policies().await? })))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
) -> Answer<Json<Policy>> {
    let policy = service.database.policy(&name).await?;
    Ok(Json(policy.ok_or_else(|| Refusal::not_found("policy"))?))
}

pub(super) async fn set(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
    Said(policy): Said<Policy>,
) -> Answer<Json<Policy>> {
    let policy = Policy { name, ..policy };
    check(&policy).map_err(Refusal::bad)?;
    let policy = service.database.set_policy(&policy).await?;
    // Another ladder may let points go, and what waits for room is taken in after that.
    service.database.want_for_policy(Job::Prune, &policy.name, Timestamp::now()).await?;
    let message = format!("policy '{}' is now version {}", policy.name, policy.version);
    service.event(EventKind::PolicyChanged, None, message).await;
    Ok(Json(policy))
}

#[cfg(test)]
mod tests {
    use mobility_format::control::RateWindow;

    use super::*;

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        check(&first()).unwrap();
        let window = RateWindow { days: vec![8], from_min: 0, to_min: 60, upload_rate: None };
        let bad = [
            Policy { name: String::new(), ..first() },
            Policy { name: "a/b".to_owned(), ..first() },
            Policy { interval_s: 0, ..first() },
            Policy { interval_s: 86_401, ..first() },
            Policy { application_interval_s: Some(0), ..first() },
            Policy { retention: "often".to_owned(), ..first() },
            Policy { upload_rate: Some(ByteCount(0)), ..first() },
            Policy { quota: Some(ByteCount(0)), ..first() },
            Policy { rate_windows: vec![window], ..first() },
        ];
        for policy in bad {
            assert!(check(&policy).is_err(), "{policy:?}");
        }
    }
}
