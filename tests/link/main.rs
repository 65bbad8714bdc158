//! The way to the recovery service: whom the agent trusts, what it makes of servers that misbehave, and by which proxies it
//! goes. The server is this test's own, so that it can do everything wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod agent;
mod authority;
mod enrol;
mod misbehaviour;
mod proxy;
mod real;
mod server;
mod trust;
