//! Packages and units, as an administrator meets them: what is in a package, what its scripts do when it is installed,
//! upgraded, removed and purged, how much a unit exposes, and what the distributions' own judges say.
//!
//! The packages are made here, from the programs that the other tests use, too; `MOBILITY_RELEASE_PROGRAMS` names a directory of
//! those that would be shipped. Deliberately not here: a real service manager, which `tests/vm` has.

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contents;
mod lint;
mod made;
mod root_install;
mod units;
