//! Recovery plans: several machines, failed over in ordered groups, with programs and people in between.
//!
//! A *plan* (`definition`) is a setting. A *plan run* (`record`) is a record of steps, as a failover is: an instance claims it
//! (`stepwise`) and does its steps (`run`, `steps`, `script`), and whoever takes it up after a kill goes on at the step that was begun.
//! For its machines it begins ordinary failovers, each under an id that follows from the run and the machine, so that beginning one
//! twice begins one. What came of it all is its report (`report`). It is stored after each step, so that it outlasts the database.
//! Deliberately not here: failing a machine over (`failover`), and what administrators ask (`admin::plans`, `admin::plan_runs`).

mod definition;
mod member;
mod record;
mod report;
mod run;
mod script;
mod settings;
mod steps;

pub(crate) use definition::{Plan, check_name};
pub(crate) use member::Member;
pub(crate) use record::{Action, Phase, PlanRun, Wanted, kind_name};
pub(crate) use report::Report;
pub(crate) use script::{clear as clear_inputs, find as find_script};
pub(crate) use settings::{Settings, Table, settings};
