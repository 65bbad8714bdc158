//! `serve`: runs the recovery service.
//!
//! Deliberately not here: the service (the library's `service`).

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Args;
use mobility_recovery::service::{Options, serve};
use tracing_subscriber::EnvFilter;

use super::exit::Outcome;

/// What a service goes by, whether it runs or not.
#[derive(Args)]
pub(super) struct Configuration {
    /// The service's configuration file, in TOML. Nothing has to be configured
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything lies [default: /var/lib/recovery-service]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Configuration {
    pub(super) fn options(&self) -> Options {
        Options { config: self.config.clone(), data: self.data.clone(), ..Options::default() }
    }
}

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
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
    let (listen, addresses) = (arguments.listen, arguments.address.clone());
    serve(&Options { listen, addresses, ..arguments.configuration.options() })?;
    Ok(Outcome::Done)
}
