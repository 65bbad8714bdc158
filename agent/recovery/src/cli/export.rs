//! `export`: a point's disks over HTTPS, in ranges, for tools that take it from there: by a service for a time, or by this process
//! while it runs.
//!
//! Deliberately not here: the serving (the library's `service`), and wiring such tools up (`mount`).

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use mobility_format::ByteCount;
use mobility_recovery::{
    Catalog, Point, select,
    service::{Offline, offline},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::{
    Place,
    exit::{NotFound, Outcome},
    machine::find,
    print, print_json,
    service::{self, NOTHING, list, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve a point's disks from this process until it is stopped, without any service
    Serve(Serve),
    /// Have a running service serve a point's disks for a time; the address is shown once
    Create(Create),
    /// List the exports of a running service, newest first
    List(service::Place),
    /// End an export of a running service
    End(End),
}

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    point: Which,
    /// Where to listen. Whoever can reach it and knows the address can read the disks
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to put the certificate of the authority that is made for this [default: a directory of its own]
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
}

/// Which point.
#[derive(Args, Clone)]
pub(super) struct Which {
    /// Which recovery point: `latest`, a time such as 2026-11-22T23:57:00Z (the newest at or before it), its id, the
    /// beginning of its id, or its epoch
    #[arg(long, value_name = "latest|TIME|ID", default_value = "latest")]
    pub(super) point: String,
    /// Let `latest` or a time choose a point whose consistency could not be shown
    #[arg(long)]
    pub(super) allow_fuzzy: bool,
}

#[derive(Args)]
pub(super) struct Create {
    #[command(flatten)]
    place: service::Place,
    /// Which machine's, by its id, the beginning of its id, or its name
    #[arg(long, value_name = "ID")]
    machine: String,
    #[command(flatten)]
    point: Which,
    /// For how many hours it is good; its point is not pruned meanwhile
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    hours: u64,
}

#[derive(Args)]
pub(super) struct End {
    #[command(flatten)]
    place: service::Place,
    /// Which, by its id
    id: String,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Serve(serve) => serve.run()?,
        Command::Create(create) => create.run()?,
        Command::List(place) => show(place)?,
        Command::End(end) => {
            let answer = end.place.connect()?.ask(Method::DELETE, &["exports", &end.id], NOTHING)?;
            end.place.say(&answer, &format!("export {} has ended", end.id))?;
        }
    }
    Ok(Outcome::Done)
}

impl Which {
    /// The point that is meant, which can be read as far as that is known.
    pub(super) fn choose<'a>(&self, catalog: &'a Catalog) -> Result<Point<'a>> {
        let point = select(catalog, &self.point, self.allow_fuzzy)?;
        match &point.problem {
            None => Ok(point),
            Some(problem) => {
                Err(NotFound(format!("point {} cannot be read: {problem}; choose another one", point.id))
                    .into())
            }
        }
    }

    /// Has a service export it.
    pub(super) fn create(&self, service: &service::Service, machine: &str, hours: u64) -> Result<Value> {
        let valid = hours.saturating_mul(3600);
        let wanted = json!({ "point": self.point, "valid_s": valid, "allow_fuzzy": self.allow_fuzzy });
        service.ask(Method::POST, &["machines", machine, "exports"], Some(&wanted))
    }
}

impl Serve {
    fn run(&self) -> Result<()> {
        let (stores, machine) = self.place.open_one()?;
        let catalog = Catalog::load_locked(&stores, machine)?;
        let point = self.point.choose(&catalog)?;
        let authority = Authority::new(self.authority.as_deref())?;
        log();
        offline(&catalog, &point, self.listen, until_signalled()?, |served| self.ready(served, &authority))?;
        Ok(())
    }

    fn ready(&self, served: &Offline, authority: &Authority) -> io::Result<()> {
        authority.write(&served.authority)?;
        let file = authority.path.display();
        let mut shown = served.shown.clone();
        shown["authority"] = file.to_string().into();
        shown["ca_fingerprint"] = served.fingerprint.as_str().into();
        let said = match self.place.json {
            true => print_json(&shown),
            false => print(&format!(
                "{}its certificate is of the authority in {file}\n  whose SHA-256 is {}\n\
                 whoever knows an address can read the disk, until this process is stopped\n",
                described(&shown),
                served.fingerprint
            )),
        };
        said.map_err(io::Error::other)
    }
}

/// What is exported, for people.
fn described(shown: &Value) -> String {
    let (point, time) = (text(&shown["point"]), text(&shown["time"]));
    let mut said = format!("point {point} of {time} ({})\n", text(&shown["consistency"]));
    for disk in list(shown, "disks") {
        let size = ByteCount(disk["size"].as_u64().unwrap_or(0));
        said += &format!("  {}, {size}: {}\n", text(&disk["name"]), text(&disk["address"]));
    }
    said
}

impl Create {
    fn run(&self) -> Result<()> {
        let service = self.place.connect()?;
        let machine = find(&service, &self.machine)?;
        let made = self.point.create(&service, &machine, self.hours)?;
        let words = format!(
            "{}good until {}, or until `export end {}`; whoever knows an address can read the disk",
            described(&made),
            text(&made["expires"]),
            text(&made["id"])
        );
        self.place.say(&made, &words)
    }
}

fn show(place: &service::Place) -> Result<()> {
    let answer = place.connect()?.ask(Method::GET, &["exports"], NOTHING)?;
    let head = [
        ("EXPORT", Align::Left),
        ("MACHINE", Align::Left),
        ("POINT", Align::Left),
        ("TIME", Align::Left),
        ("EXPIRES", Align::Left),
    ];
    let row = |export: &Value| ["id", "machine", "point", "time", "expires"].map(|name| text(&export[name]));
    place.show(&answer, head, "exports", row)
}

/// Where the certificate of a throw-away authority is. Removed in the end, with the directory that was made for it.
struct Authority {
    path: PathBuf,
    made: Option<PathBuf>,
}

impl Authority {
    fn new(path: Option<&Path>) -> Result<Authority> {
        if let Some(path) = path {
            return Ok(Authority { path: path.to_owned(), made: None });
        }
        let dir = std::env::temp_dir().join(format!("recovery-export-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Authority { path: dir.join("authority.pem"), made: Some(dir) })
    }

    fn write(&self, pem: &str) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        io::Write::write_all(&mut file, pem.as_bytes())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
        if let Some(dir) = &self.made {
            fs::remove_dir(dir).ok();
        }
    }
}

/// What goes wrong while it is served is said on standard error.
pub(super) fn log() {
    let filter = EnvFilter::try_from_env("RECOVERY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
}

/// Becomes true with SIGTERM or SIGINT.
pub(super) fn until_signalled() -> Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stop.send(true).ok();
        }
    });
    Ok(stopped)
}
