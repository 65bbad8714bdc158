//! Configuration in three steps: *fragments* (TOML files, everything optional), merged into one, then checked as a whole
//! into [`Settings`]. Nothing half-valid goes further into the program.
//!
//! Fragments are read from `/usr/lib`, `/run` and `/etc`, in this order, each directory in the order of names: packages,
//! tools and the operator each have a place, and the operator has the last word. Flags come after all of them.
//! Deliberately not here: watching the directories (`watch`).

mod fragment;
mod limits;
mod settings;
mod values;
mod watch;

use fragment::DIRECTORIES;
pub(crate) use settings::Settings;
pub(crate) use values::parse_duration;
pub(crate) use watch::watch;
