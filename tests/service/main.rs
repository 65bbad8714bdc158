//! The recovery service as a process, spoken to over real TLS by a small agent of the tests' own.
//!
//! Deliberately not here: the real agent, and stores other than the service's own.

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod administration;
mod agent;
mod clerk;
mod client;
mod commits;
mod database;
mod document;
mod enrolment;
mod exports;
mod failover;
mod failover_azure;
mod failover_faults;
mod failover_reindexed;
mod failover_steps;
mod failover_stores;
mod fleet;
mod grants;
mod kills;
mod losses;
mod mending;
mod mending_dracut;
mod openapi;
mod plan_instances;
mod plan_reindexed;
mod plan_site;
mod plan_steps;
mod planned;
mod plans;
mod quota;
mod rig;
mod sessions;
mod stores;
mod targets;
