//! The recovery service: enrols machines, grants uploads, takes in what arrives, and tells when something is wrong.
//!
//! `recovery-service serve` is [`serve`]. One process is one *instance*; several may share a PostgreSQL database and their
//! storage, and any of them may be killed at any time. Everything bulky is in storage, everything that has to be decided once is
//! decided by the database. Deliberately not here: restoring, verifying and listing points, which need no service.

mod admin;
mod api;
mod authority;
mod bell;
mod claims;
mod config;
mod credential;
mod database;
mod export;
mod facts;
mod failover;
mod granting;
mod heads;
mod listen;
mod open_files;
mod places;
mod plan;
mod private_file;
mod processor;
mod refusal;
mod reindex;
mod routes;
mod secret;
mod start;
mod state;
mod stepwise;
mod tls;

pub use authority::AuthorityError;
pub use config::{ConfigError, Options};
pub use credential::{Credential, CredentialError};
pub use export::{Offline, offline};
pub use failover::{provider, providers};
pub(crate) use granting::azure::{Signer as AzureSigner, VERSION as AZURE_VERSION};
pub(crate) use places::network;
pub use places::{Places, store_in};
pub use reindex::{Reindexed, reindex};
pub use start::{ServeError, serve};
