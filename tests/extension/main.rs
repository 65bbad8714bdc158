//! The VM extension: its archive, and its handler as a program, called as guest agents call it.
//!
//! Everything that the handler would change on a machine is below a directory of the test's own, and what it would ask of systemd is
//! asked of a stand-in, because the machines that run these tests have no systemd that could be played with. Packages are real and are
//! installed by the real dpkg, into a root of the test's own: this machine's database of packages stays as it is. They hold
//! a script in the agent's place: the scripts of the agent's own package act on the machine on which they run. Deliberately not here:
//! the handler's own rules, which are tested beside its code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod archive;
mod guest_agent;
mod limits;
mod repeats;
mod rig;
mod secrets;
mod settings;
mod systems;
mod updates;
