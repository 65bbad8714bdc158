//! Enrolment tokens: made, listed, revoked. A token is shown once, when it is made.
//!
//! Deliberately not here: what a token is good for (`api::enrol`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Administrator, policies};
use crate::service::{
    api::{InPath, Read},
    database::Token,
    refusal::{Answer, Refusal},
    secret,
    state::Service,
};

/// How long a token is good, unless it is said, in seconds.
const VALID_S: u64 = 24 * 3600;
const MOST_VALID_S: u64 = 366 * 24 * 3600;
const MOST_USES: u64 = 100_000;
/// What tokens start with, so that they are known for what they are where they should not be.
const PREFIX: &str = "mobility-token-";

/// What kind of token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Wanted {
    /// For how many machines.
    #[serde(default = "one")]
    uses: u64,
    /// For how long, in seconds.
    #[serde(default = "day")]
    valid_s: u64,
    /// For which policy.
    #[serde(default = "first")]
    policy: String,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted { uses: one(), valid_s: day(), policy: first() }
    }
}

fn one() -> u64 {
    1
}

fn day() -> u64 {
    VALID_S
}

fn first() -> String {
    policies::FIRST.to_owned()
}

/// A token that was made.
#[derive(Serialize)]
pub(in crate::service) struct Made {
    #[serde(flatten)]
    kept: Token,
    /// The token itself.
    token: String,
    /// SHA-256 of the authority's certificate.
    ca_fingerprint: String,
    /// What to run on a machine.
    pub(in crate::service) command: String,
}

/// Makes a token.
pub(in crate::service) async fn make(service: &Service, wanted: Wanted) -> Answer<Made> {
    if !(1..=MOST_USES).contains(&wanted.uses) || !(1..=MOST_VALID_S).contains(&wanted.valid_s) {
        return Err(Refusal::bad(format!(
            "a token is good for 1 to {MOST_USES} machines and 1 to {MOST_VALID_S} seconds"
        )));
    }
    let token = format!("{PREFIX}{}", secret::hex(&secret::random::<32>()?));
    let created = Timestamp::now();
    let valid = SignedDuration::from_secs(i64::try_from(wanted.valid_s).unwrap_or(0));
    let kept = Token {
        id: secret::hex(&secret::random::<6>()?),
        policy: wanted.policy,
        uses: wanted.uses,
        uses_left: wanted.uses,
        created,
        expires: created + valid,
        revoked: None,
    };
    if !service.database.create_token(&kept, &secret::sha256(token.as_bytes())).await? {
        return Err(Refusal::not_found("policy"));
    }
    let ca_fingerprint = service.authority.fingerprint();
    let address = service.addresses.first().map_or("", String::as_str);
    let command = format!(
        "echo {token} | sudo mobility-agent enroll --service {address} --ca-fingerprint {ca_fingerprint} --token-file /dev/stdin"
    );
    Ok(Made { kept, token, ca_fingerprint, command })
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Read(wanted): Read<Wanted>,
) -> Answer<Json<Made>> {
    Ok(Json(make(&service, wanted).await?))
}

pub(super) async fn list(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Json<Value>> {
    Ok(Json(json!({ "tokens": service.database.tokens().await? })))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
) -> Answer<Json<Value>> {
    match service.database.revoke_token(&id, Timestamp::now()).await? {
        true => Ok(Json(json!({ "revoked": id }))),
        false => Err(Refusal::not_found("token")),
    }
}
