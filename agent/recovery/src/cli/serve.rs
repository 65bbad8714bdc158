//! `serve`: runs the recovery service.
//!
//! Deliberately not here: the service (the library's `service`).

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Args;
use mobility_recovery::service::{Options, serve};
use tracing_subscriber::EnvFilter;

use super::exit::Outcome;

#[derive(Args)]
pub(super) struct Arguments {
    /// A configuration file, in TOML. Nothing has to be configured
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything lies [default: /var/lib/recovery-service]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; port 8443 of every address unless it is said
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where machines reach the service, as https://host:port; may be repeated [default: the host's name]
    #[arg(long, value_name = "URL")]
    address: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let filter = EnvFilter::try_from_env("RECOVERY_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    serve(&Options {
        config: arguments.config.clone(),
        data: arguments.data.clone(),
        listen: arguments.listen,
        addresses: arguments.address.clone(),
    })?;
    Ok(Outcome::Done)
}
