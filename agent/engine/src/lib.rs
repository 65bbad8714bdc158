//! Decides what the agent does next: what to read, when to try a cut, when a point is complete, how long to wait after
//! a failure.
//!
//! Pure: no I/O, no clock, no threads, no randomness but a seed. Bulk data does not pass through it either: sets of
//! blocks do, and names of segments. So a simulation can run years of faults in seconds. The calls, in the order in which
//! a caller makes them:
//!
//! 1. [`Engine::new`];
//! 2. [`Engine::poll`] until there is nothing to do, starting each action;
//! 3. wait for the answer to any of them, or until [`Engine::wakeup`];
//! 4. [`Engine::handle`] or [`Engine::tick`], then 2 again, until [`Action::Stop`].
//!
//! Deliberately not here: how anything is done.

mod action;
mod audit;
mod config;
mod cut;
mod cycle;
mod disk;
mod engine;
mod event;
mod hot;
mod misses;
mod retry;
mod status;
mod suspects;
mod time;
mod unconfirmed;
mod upload;

pub use action::{Action, CommitDisk, CommitKind, PointFigures};
pub use config::{CutPolicy, Limits};
pub use cut::{CutDisk, CutPlan};
pub use engine::{Engine, Start};
pub use event::{
    CommitFault, CutDiskOutcome, CutFigures, DiskStart, Doubt, Drained, Event, Fault, FaultKind, Known,
    NewGeneration, Request, SegmentId, Tracking, Verdict,
};
pub use status::{DiskPhase, DiskStatus, Status};
pub use time::Time;
pub use upload::Outage;
