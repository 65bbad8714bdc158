//! What the commands for failovers and plan runs share: which one is meant, asking something of it, waiting until its steps are done.
//!
//! Deliberately not here: what is shown of one (`failover`, `plan`).

use std::{thread, time::Duration};

use anyhow::Result;
use reqwest::Method;
use serde_json::Value;

use super::{
    exit::{NotFound, Outcome, Unsuccessful},
    service::{NOTHING, Place, Service, list, text},
};

/// How often one is looked at that is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// What is done step by step.
pub(super) struct Steps {
    /// What one is called.
    pub(super) what: &'static str,
    /// Where they are, below the administrators' address.
    pub(super) path: &'static str,
    /// What a list of them is called in an answer.
    pub(super) items: &'static str,
}

/// One of them, at a service.
pub(super) struct Found {
    pub(super) service: Service,
    pub(super) id: String,
    of: &'static Steps,
}

impl Steps {
    /// The one that is meant, by its id or the beginning of its id.
    pub(super) fn find(&'static self, place: &Place, wanted: &str) -> Result<Found> {
        let service = place.connect()?;
        let answer = service.ask(Method::GET, &[self.path], NOTHING)?;
        let ids = list(&answer, self.items).iter().map(|one| text(&one["id"]));
        let found: Vec<_> = ids.filter(|id| !wanted.is_empty() && id.starts_with(wanted)).collect();
        match &found[..] {
            [one] => Ok(self.known(service, one.clone())),
            // Older than what is listed.
            [] if service.ask(Method::GET, &[self.path, wanted], NOTHING).is_ok() => {
                Ok(self.known(service, wanted.to_owned()))
            }
            _ => {
                let (count, what) = (found.len(), self.what);
                Err(NotFound(format!("'{wanted}' is the id of {count} {what}s, not of one")).into())
            }
        }
    }

    /// One whose whole id is known.
    pub(super) fn known(&'static self, service: Service, id: String) -> Found {
        Found { service, id, of: self }
    }
}

impl Found {
    pub(super) fn get(&self) -> Result<Value> {
        self.service.ask(Method::GET, &[self.of.path, &self.id], NOTHING)
    }

    /// Asks something of it; where it is not to be waited for, says so.
    pub(super) fn act(&self, place: &Place, action: &Value, wait: bool) -> Result<()> {
        let answer = self.service.ask(Method::POST, &[self.of.path, &self.id, "actions"], Some(action))?;
        let words = format!("{} {}: asked for {}", self.of.what, self.id, text(&action["action"]));
        if wait { Ok(()) } else { place.say(&answer, &words) }
    }

    /// Waits until nothing more is done: until its phase is none of `busy`. What is known of it meanwhile is told to `each`.
    pub(super) fn rests(&self, busy: &[&str], mut each: impl FnMut(&Value)) -> Result<Value> {
        loop {
            let one = self.get()?;
            if !busy.contains(&text(&one["phase"]).as_str()) && one["waiting"].is_null() {
                return Ok(one);
            }
            each(&one);
            thread::sleep(LOOK);
        }
    }

    /// How a command ends whose steps have ended so.
    pub(super) fn outcome(&self, one: &Value) -> Result<Outcome> {
        match one["phase"] == "failed" {
            true => Err(Unsuccessful(format!("the {} failed: {}", self.of.what, text(&one["hint"]))).into()),
            false => Ok(Outcome::Done),
        }
    }
}
