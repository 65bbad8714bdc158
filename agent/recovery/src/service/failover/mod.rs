//! Failover: from a recovery point to a running machine, and back.
//!
//! A *failover* is a record in the database ([`Failover`]) that says which steps are done and which is next. An instance that has
//! the place claims it (`stepwise`) and does its steps (`run`, `steps`) by the place's provider (`provider`) and the machine's agent
//! (`source`); when that instance is killed, another one or the same goes on at the step that was begun. While a machine is failed over, its gate says whose sessions may
//! begin (`gate`), so that of two machines with one identity only one writes. Deliberately not here: restoring (`crate::restore`),
//! and what administrators ask (`admin::failovers`).

mod gate;
mod mend;
mod mending;
mod place;
mod point;
pub mod provider;
mod record;
mod run;
mod source;
mod step;
mod steps;

pub(crate) use gate::{Gate, Held, Passage};
pub use place::providers;
pub(crate) use place::{Place, Table, place};
pub(crate) use provider::Failure;
pub(crate) use record::{Action, Chosen, Failover, Kind, Line, NotNow, Phase, Written};
